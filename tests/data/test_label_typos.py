import pytest

from tunesmith.data.label_typos import find_label_typos


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("postive", "positive"),
        ("Positive", "positive"),
        ("positive.", "positive"),
        ("POSITIVE ", "positive"),
        ("positvie", "positive"),
        ("card arrival", "card_arrival"),
        ("ｐositive", "positive"),
        ("exchange_raet_chrage", "exchange_rate_charge"),
        ("cardarrival", "card_arrival"),
        ("label_1 ", "label_1"),
        ("Neg", "neg"),
        ("交通运输类别信息。", "交通运输类别信息"),
    ],
)
def test_slips_are_found(slip, meant):
    assert find_label_typos({meant: 812, "something else": 300, slip: 1}) == {slip: meant}


@pytest.mark.parametrize(
    ("label", "other"),
    [
        ("label_1", "label_11"),
        ("class_b", "class_a"),
        ("group B", "group A"),
        ("label_1.1", "label_11"),
        ("label_2", "label_1"),
        ("label1", "label"),
        ("Cause(e1,e2)", "Cause(e2,e1)"),
        ("pos", "pop"),
        ("体育", "体操"),
        ("正面", "负面"),
        ("news", "new"),
        ("unhappy", "happy"),
        ("+", "-"),
        ("1", "2"),
        ("1", "11"),
        ("无关内容", "有关内容"),
        ("non-toxic", "toxic"),
        ("receive", "request"),
        ("deactivate_card", "activate_card"),
    ],
)
def test_other_labels_are_no_slips(label, other):
    assert find_label_typos({other: 812, "something else": 300, label: 1}) == {}


def test_only_a_label_that_stands_once_beside_a_frequent_one_is_a_slip():
    assert find_label_typos({"positive": 812, "postive": 2}) == {}
    assert find_label_typos({"positive": 4, "postive": 1}) == {}


def test_the_nearest_and_then_the_most_frequent_label_is_meant():
    assert find_label_typos({"transfer": 10, "transfers": 90, "transferr": 1}) == {"transferr": "transfers"}


def test_a_column_with_a_label_for_each_row_is_left_alone():
    counts = {"frequent": 50} | {f"frequen{chr(97 + i % 26)}{chr(97 + i // 26)}": 1 for i in range(300)}
    assert find_label_typos(counts) == {}

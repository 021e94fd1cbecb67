"""Answers against the rules of SQuAD and CMRC 2018 written out plainly, and against cases worked by hand."""

import re
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.metrics import answers

ENGLISH = ["the", "The", "a", "An", "cat", "Cat.", "dog", "dog,", "Paris", "U.S.", "well-known", "3.5", "!", "theatre"]
ENGLISH_TEXT = st.lists(st.sampled_from(ENGLISH), max_size=5).map(" ".join)
CHINESE = [*"北京大学的人是二零年", *"，。、：“”《》（）", "2008", "3.5", "NBA", " word ", "well-known"]
CHINESE_TEXT = st.lists(st.sampled_from(CHINESE), max_size=7).map("".join)


def plain_squad(references, prediction):
    def bare(text):
        kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    wanted = [bare(text) for text in references if bare(text)] or [[]]
    mine = bare(prediction)
    best = 0.0
    for true in wanted:
        left = list(true)
        for word in mine:
            if word in left:
                left.remove(word)
        shared = len(true) - len(left)
        if not true or not mine:
            best = max(best, float(true == mine))
        elif shared:
            best = max(best, 2 * shared / len(mine) * shared / len(true) / (shared / len(mine) + shared / len(true)))
    return float(mine in wanted), best


def plain_cmrc(references, prediction):
    marks = ["-", ":", "_", "*", "^", "/", "\\", "~", "`", "+", "=", *"，。：？！“”；’《》·、「」（）－～『』"]

    def bare(text):
        return "".join(letter for letter in text.lower().strip() if letter not in marks)

    def pieces(text):
        spaced = "".join(f" {letter} " if "\u4e00" <= letter <= "\u9fa5" else letter for letter in bare(text))
        return spaced.split()  # no marks are left in these texts that would come off a word

    best = 0.0
    mine = pieces(prediction)
    for true in map(pieces, references):
        runs = [
            end - start
            for start in range(len(true))
            for end in range(start + 1, len(true) + 1)
            if any(mine[at : at + end - start] == true[start:end] for at in range(len(mine)))
        ]
        if runs:
            precision, recall = max(runs) / len(mine), max(runs) / len(true)
            best = max(best, 2 * precision * recall / (precision + recall))
    return float(any(bare(prediction) == bare(text) for text in references)), best


@settings(deadline=None, max_examples=150)
@given(st.lists(ENGLISH_TEXT, max_size=3), ENGLISH_TEXT)
def test_english_answers_are_scored_as_by_squad(references, prediction):
    assert answers.score_english(references, prediction) == pytest.approx(
        plain_squad(references, prediction), abs=1e-12
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(CHINESE_TEXT.filter(str.strip), min_size=1, max_size=3), CHINESE_TEXT)
def test_chinese_answers_are_scored_as_by_cmrc(references, prediction):
    assert answers.score_chinese(references, prediction) == pytest.approx(plain_cmrc(references, prediction), abs=1e-12)


@pytest.mark.parametrize(
    ("references", "prediction", "exact", "f1"),
    [
        (["The Eiffel Tower"], "eiffel tower.", 1, 1),
        (["Denver Broncos"], "the Broncos of Denver", 0, 0.8),  # 2 of 3 words, 2 of 2: order is free
        (["cats", "two big dogs"], "big dogs", 0, 0.8),
        (["the"], "", 1, 1),  # the reference normalises to nothing, so nothing is right
        ([], "", 1, 1),
        ([], "Denver", 0, 0),
        (["Denver"], "", 0, 0),
    ],
)
def test_hand_worked_english(references, prediction, exact, f1):
    assert answers.score_english(references, prediction) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("references", "prediction", "exact", "f1"),
    [
        (["北京大学"], "“北京大学”。", 1, 1),
        (["北京大学"], "北京的大学", 0, 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4)),  # the longest run is 北京, not 4
        (["2008年8月8日"], "2008年", 0, 2 * 1 * (2 / 6) / (1 + 2 / 6)),
        (["iPhone 手机", "手机"], "手机", 1, 1),
        (["Well-Known 作家"], "wellknown作家", 0, 1),  # the space keeps the whole answer from being equal
        ([""], "", 1, 1),
        (["  "], "。", 1, 1),
        (["北京"], "", 0, 0),
    ],
)
def test_hand_worked_chinese(references, prediction, exact, f1):
    assert answers.score_chinese(references, prediction) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("他说don't用3.5和1,000。", ["他", "说", "do", "n't", "用", "3.5", "和", "1,000"]),
        ("NBA球星O'Neal (前锋), 2米16", ["nba", "球", "星", "o'neal", "(", "前", "锋", ")", ",", "2", "米", "16"]),
        ('"A"等级', ["``", "a", "''", "等", "级"]),
        ("Tom's 50%", ["tom", "'s", "50", "%"]),
    ],
)
def test_mixed_text_is_split_as_nltk_would(text, pieces):
    assert answers.split_mixed(text) == pieces


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("北京大学", True),
        ("iPhone 手机", True),
        ("The city of 北京", False),
        ("これは日本語です", False),
        ("2008", False),
        ("", False),
        ("대한민국", False),
    ],
)
def test_language_is_told_by_what_there_is_more_of(text, chinese):
    assert answers.is_chinese(text) is chinese


def test_question_decides_the_language_with_the_references():
    alone = answers.statistics([["Michael Jordan"]], ["Jordan Michael"])
    asked = answers.statistics([["Michael Jordan"]], ["Jordan Michael"], ["谁是芝加哥公牛队的球星？"])
    assert alone[0, 2] == 1.0  # a bag of words
    assert asked[0, 2] == 0.5  # the longest run


def test_hand_worked_sums_and_resamples():
    counts = answers.statistics([["北京"], ["a cat"], [], [""]], ["北京。", "cat dog", "", "x"])
    assert counts.tolist() == [[1, 1, 1, 0, 0], [1, 0, pytest.approx(2 / 3), 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 0]]
    scores = answers.values(np.array([[1.0, 1, 1, 1], [0, 4, 0, 0]]) @ counts)
    assert scores["exact_match"] == pytest.approx([2 / 4, 0])
    assert scores["f1"] == pytest.approx([(1 + 2 / 3 + 1) / 4, 2 / 3])
    assert scores["has_answer_f1"] == pytest.approx([(1 + 2 / 3) / 2, 2 / 3])
    assert scores["no_answer_accuracy"] == pytest.approx([1 / 2, 0])
    assert set(answers.values(counts[:2].sum(0))) == {"exact_match", "f1"}

"""Label words: how they are written down, which names say nothing, which words are known."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.tasks.prompting.defaults import FEELING, RELATION, TOPIC, kind_of, known_words, templates_for
from tunesmith.tasks.prompting.label_words import demand_distinct, is_code, name_words, read_label_words


def test_words_are_read_in_the_labels_order():
    found = read_label_words("neg=bad|awful, pos = good", ["pos", "neg"])
    assert found == {"pos": ["good"], "neg": ["bad", "awful"]}
    assert list(found) == ["pos", "neg"]


def test_json_holds_names_with_commas_and_chinese():
    assert read_label_words('{"a,b": ["x"], "体育": "运动"}', ["a,b", "体育"]) == {"a,b": ["x"], "体育": ["运动"]}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("pos=good", "label_words has no word for 'neg'"),
        ("pos=good,neg=bad,other=x", "label_words names 'other', which is no label of the training rows"),
        ("pos,neg=bad", "label_words: 'pos' has no word"),
        ("pos=|,neg=bad", "label_words has no word for 'pos'"),
        ("{pos", "label_words is not JSON"),
    ],
)
def test_what_cannot_be_read_is_told_in_three_parts(text, what):
    with pytest.raises(PlanProblem) as caught:
        read_label_words(text, ["pos", "neg"])
    assert caught.value.what.startswith(what)
    assert caught.value.where == "label_words"
    assert caught.value.do


def test_names_are_read_as_words():
    assert name_words(["card_arrival", "民生故事"]) == {"card_arrival": ["card arrival"], "民生故事": ["民生故事"]}


@pytest.mark.parametrize("label", ["0", "-1", "12", "A", "C3", "label_2", "类别1", "x"])
def test_codes_say_nothing(label):
    assert is_code(label)


@pytest.mark.parametrize("label", ["yes", "体育", "B2B sales", "covid-19 news", "no"])
def test_names_say_something(label):
    assert not is_code(label)


def test_a_word_stands_for_one_label():
    with pytest.raises(PlanProblem, match="the word 'x' stands for two labels, 'a' and 'b'"):
        demand_distinct({"a": ["x"], "b": ["y", "x"]})


@pytest.mark.parametrize(
    ("labels", "is_pair", "kind"),
    [
        (["Positive", "Negative"], False, FEELING),
        (["好评", "差评"], False, FEELING),
        (["体育", "财经"], False, TOPIC),
        (["0", "1"], True, RELATION),
    ],
)
def test_what_labels_are_about_is_told_by_their_names(labels, is_pair, kind):
    assert kind_of(labels, is_pair=is_pair) == kind


def test_known_labels_have_words_in_both_languages():
    assert known_words(["Negative", "Positive"], "en", FEELING) == {
        "Negative": ["terrible", "bad"],
        "Positive": ["great", "good"],
    }
    assert known_words(["Negative", "Positive"], "zh", FEELING) == {"Negative": ["差", "糟"], "Positive": ["好", "棒"]}
    assert known_words(["0", "1"], "zh", RELATION) == {"0": ["不", "否"], "1": ["是", "对"]}
    assert known_words(["neutral", "entailment"], "en", RELATION) == {"neutral": ["Maybe"], "entailment": ["Yes"]}
    assert known_words(["体育", "财经"], "zh", TOPIC) is None
    assert known_words(["good", "great"], "en", FEELING) is None, "two names for one feeling cannot share its words"


def test_every_way_has_templates_in_both_languages():
    for language in ("en", "zh"):
        for way in ("cloze", "likelihood"):
            for kind in (FEELING, TOPIC, RELATION):
                for template in templates_for(way, language, kind):
                    assert template.count("{label}") == 1
                    assert ("{text_a}" in template) == (kind == RELATION)

"""Templates: what may stand in them, how they are filled, and which part is cut."""

from __future__ import annotations

import pytest

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.tasks.prompting.templates import Template, cut_values, encode_filled, read_templates


@pytest.fixture(scope="module")
def tokenizer():
    return toy_world.make_tokenizer()


def test_several_templates_are_parted_by_two_bars():
    found = read_templates(" {text} It was {label}. || {label}：{text}", ["text", "label"])
    assert [template.text for template in found] == ["{text} It was {label}.", "{label}：{text}"]


def test_a_template_without_a_label_is_refused():
    with pytest.raises(PlanProblem) as caught:
        read_templates("{text} It was.", ["text", "label"])
    assert str(caught.value) == (
        "PlanProblem: the template '{text} It was.' has to have {text} and {label}, each once, and no other hole\n"
        "  where: template\n"
        "  do:    write it with {text} and {label}; several templates are parted by ||"
    )


def test_a_template_of_two_texts_is_refused_for_one():
    with pytest.raises(PlanProblem, match="no other hole"):
        read_templates("{text_a} {label} {text_b}", ["text", "label"])


def test_nothing_may_follow_the_label_of_a_causal_model():
    with pytest.raises(PlanProblem, match="can only be asked at the end"):
        read_templates("{text} It was {label}.", ["text", "label"], is_label_last=True)


def test_filling_tells_where_the_values_stand():
    sentence, places = Template("A {label}: {text}!").filled({"text": "好的 it", "label": "ab"})
    assert sentence == "A ab: 好的 it!"
    assert places == {"label": (2, 4), "text": (6, 11)}
    assert sentence[slice(*places["text"])] == "好的 it"


def test_braces_in_a_text_are_no_holes():
    sentence, _ = Template("{text} {label}").filled({"text": "{label}", "label": "x"})
    assert sentence == "{label} x"


def test_only_the_text_is_cut_and_the_label_stays(tokenizer):
    text = " ".join(toy_world.WORDS["animal"])
    asked = [(Template("the0 {text} the1 {label} the2"), {"text": text, "label": tokenizer.mask_token})]
    (whole,) = encode_filled(asked, tokenizer, 100)
    (cut,) = encode_filled(asked, tokenizer, 12)
    assert not whole.was_cut
    assert cut.was_cut
    assert len(cut.tokens) == 12
    words = tokenizer.convert_ids_to_tokens(list(cut.tokens))
    assert words == ["[CLS]", "the0", "a0", "a1", "a2", "a3", "a4", "a5", "the1", "[MASK]", "the2", "[SEP]"]
    assert [words[place] for place in cut.label_places] == ["[MASK]"]


def test_the_longer_of_two_texts_is_cut_first(tokenizer):
    values = {"text_a": "a0 a1 a2 a3 a4 a5", "text_b": "m0 m1", "label": "animal"}
    (cut,) = encode_filled([(Template("{text_a} {label} {text_b}"), values)], tokenizer, 8)
    assert tokenizer.decode(list(cut.tokens)) == "[CLS] a0 a1 a2 animal m0 m1 [SEP]"


def test_a_text_that_spells_a_mask_is_not_taken_for_the_question(tokenizer):
    values = {"text": "a0 [MASK] a1", "label": tokenizer.mask_token}
    (sentence,) = encode_filled([(Template("{text} {label}"), values)], tokenizer, 32)
    assert sentence.label_places == (4,)


def test_a_template_longer_than_the_model_is_refused(tokenizer):
    with pytest.raises(PlanProblem, match="longer than the model can read, even without a text"):
        encode_filled([(Template("the0 the1 the2 {label} {text}"), {"text": "a0", "label": "animal"})], tokenizer, 5)


def test_texts_before_a_label_are_cut_to_the_room_there_is():
    def count(text: str) -> list[int]:
        return list(range(len(text.split())))

    template = Template("Q: {text_a} / {text_b} = {label}")
    values = {"text_a": "1 2 3 4 5 6 7 8", "text_b": "9"}
    assert cut_values(template, values, count, 12) == (values, False)
    cut, was_cut = cut_values(template, values, count, 8)
    assert was_cut
    assert cut["text_b"] == "9"
    assert len(count(template.filled({**cut, "label": ""})[0])) == 8
    with pytest.raises(PlanProblem, match="even without a text"):
        cut_values(template, values, count, 2)

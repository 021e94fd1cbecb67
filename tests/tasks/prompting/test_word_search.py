"""Words for labels are found in the rows, by what pretraining knew, and only whole words count."""

from __future__ import annotations

import pytest
import transformers

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.tasks.prompting.templates import Template
from tunesmith.tasks.prompting.word_search import _by_contrast, _whole_words, search_words
from tunesmith.types import Origin, Record

LABELS = ("0", "1", "2")


def rows(count):
    found = []
    for row, (text, family) in enumerate(toy_world.rows(count, seed=1), 1):
        label = LABELS[toy_world.FAMILIES.index(family)]
        found.append(Record(str(row), {"text": text}, label, Origin("train", row)))
    return found


def test_words_of_a_labels_own_family_are_found(toy_base):
    model = transformers.AutoModelForMaskedLM.from_pretrained(toy_base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_base)
    records = rows(24)
    owned = [(record.target,) for record in records]
    settings = {"labels": LABELS, "owned": owned}
    found = search_words(model, tokenizer, Template("{text} {label}"), records, **settings)
    assert list(found) == list(LABELS)
    for label, family in zip(LABELS, toy_world.FAMILIES, strict=True):
        assert len(found[label]) == 3
        assert set(found[label]) <= set(toy_world.WORDS[family])
    assert search_words(model, tokenizer, Template("{text} {label}"), records, **settings) == found


def test_a_label_that_no_word_is_for_is_told(toy_base):
    model = transformers.AutoModelForMaskedLM.from_pretrained(toy_base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_base)
    record = rows(1)[0]
    with pytest.raises(PlanProblem, match="no word was found that the base model expects with rows of"):
        search_words(
            model,
            tokenizer,
            Template("{text} {label}"),
            [record, record],
            labels=("0", "1"),
            owned=[("0",), ("1",)],
        )


def test_pieces_marks_and_special_tokens_are_no_words(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "##ly", ".", "好", "##好", "7", "b2b"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = transformers.BertTokenizer.from_pretrained(tmp_path)
    usable = _whole_words(tokenizer, len(vocabulary))
    assert [word for word, is_usable in zip(vocabulary, usable, strict=True) if is_usable] == ["good", "好", "b2b"]


def test_the_largest_contrast_comes_first():
    import numpy as np

    mean = np.log(np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.3, 0.5, 0.1]]))
    contrast = mean - mean[::-1]
    usable = np.array([True, True, True, False])
    assert _by_contrast(mean, contrast, usable) == [(0, 0), (1, 2)]

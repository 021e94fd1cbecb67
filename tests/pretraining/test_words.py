"""Tests of `tunesmith.pretraining.words`."""

from __future__ import annotations

import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pretraining.texts import stand_in_for_jieba
from tunesmith.errors import MissingExtra
from tunesmith.pretraining.vocabulary import VocabularyPlan, train_tokenizer
from tunesmith.pretraining.words import find_word_rules, load_segmenter

TEXTS = ["painters paint the harbour, the bridge's lanterns and 42 boats", "明月照高楼 清风"] * 30


def words_of(tokenizer, text):
    """Cut a text's tokens where the rules say that words start."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    starts = find_word_rules(tokenizer).starts(torch.tensor([ids]))[0].tolist()
    words: list[list[int]] = []
    for token, is_start in zip(ids, starts, strict=True):
        if is_start:
            words.append([])
        words[-1].append(token)
    return [tokenizer.decode(word).strip() for word in words]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "characters"])
def test_words_are_those_of_the_text(kind):
    tokenizer = train_tokenizer(TEXTS, VocabularyPlan(kind, "mlm", 300, is_lower=False))
    found = words_of(tokenizer, "painters paint the harbour, 42 boats")
    assert [word.replace(" ", "") for word in found] == ["painters", "paint", "the", "harbour", ",", "42", "boats"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_chinese_character_is_a_word_even_in_bytes(kind):
    tokenizer = train_tokenizer(TEXTS, VocabularyPlan(kind, "mlm", 270, is_lower=False))
    assert words_of(tokenizer, "明月照高楼") == list("明月照高楼")


def test_sentencepiece_marks_words_by_a_bar():
    entries = ["<s>", "</s>", "<unk>", "▁paint", "ers", "▁the", ",", "▁", "boat"]
    core = Tokenizer(models.Unigram([(entry, -1.0) for entry in entries], unk_id=2, byte_fallback=False))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    starts = find_word_rules(tokenizer).starts(torch.tensor([[3, 4, 6, 5, 8, 1, 8]]))
    assert starts.tolist() == [[True, False, True, True, False, True, True]]


def test_nothing_goes_on_from_a_special_token():
    tokenizer = train_tokenizer(TEXTS, VocabularyPlan("wordpiece", "mlm", 300, is_lower=False))
    inside = next(index for entry, index in tokenizer.get_vocab().items() if entry.startswith("##"))
    starts = find_word_rules(tokenizer).starts(torch.tensor([[tokenizer.cls_token_id, inside, inside]]))
    assert starts.tolist() == [[True, True, False]]


def test_without_jieba_the_install_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(MissingExtra) as caught:
        load_segmenter()
    assert caught.value.do == "pip install 'tunesmith[chinese]', or use --masking whole-word"


def test_the_segmenter_gives_where_words_start(monkeypatch):
    def tokenize(text):
        yield from (("明月", 0, 2), ("照", 2, 3), ("高楼", 3, 5))

    monkeypatch.setitem(sys.modules, "jieba", stand_in_for_jieba(tokenize))
    assert list(load_segmenter()("明月照高楼")) == [0, 2, 3]


def test_jieba_itself_cuts_chinese_words():
    pytest.importorskip("jieba")
    assert list(load_segmenter()("我来到北京清华大学")) == [0, 1, 3, 5]

"""Tests of `tunesmith.pretraining.vocabulary`."""

from __future__ import annotations

import pytest
import transformers
from tokenizers import Tokenizer

from tunesmith.pretraining.vocabulary import (
    SENTINELS,
    VocabularyPlan,
    cjk_share,
    plan_vocabulary,
    train_tokenizer,
)

ENGLISH = ["The old bridge sees the harbour.", "A green boat paints seven lanterns!", "It's 42 degrees, isn't it?"] * 20
CHINESE = ["明月照高楼，清风入小窗。", "白云生远山，流水过平桥。", "第2首 by Li Bai"] * 20
ODD = "Two  spaces,\ttabs\n\n and CASE: déjà 中国 😀 ﬁ <|endoftext|> </s> [MASK] "


def make(texts, objective, kind="auto", size="auto", case="auto"):
    options = {"width": 128, "characters": 4000}
    plan = plan_vocabulary(texts, objective=objective, kind=kind, size=size, case=case, **options)
    return plan, train_tokenizer(texts, plan)


def as_plain_text(tokenizer, text):
    """Encode as the corpus is encoded: what looks like a special token is text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    return backend.encode(text, add_special_tokens=False).ids


def test_the_kind_follows_objective_and_script():
    assert make(ENGLISH, "mlm")[0].kind == "wordpiece"
    assert make(CHINESE, "mlm")[0].kind == "characters"
    assert make(CHINESE, "clm")[0].kind == make(ENGLISH, "seq2seq")[0].kind == "bpe"
    assert cjk_share(CHINESE) > 0.5 > 0 == cjk_share(ENGLISH)


@pytest.mark.parametrize("objective", ["clm", "seq2seq"])
@pytest.mark.parametrize("kind", ["bpe", "characters"])
@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["english", "chinese"])
def test_text_comes_back_exactly(objective, kind, texts):
    _, tokenizer = make(texts, objective, kind, 500)
    for text in (ODD, *texts[:3]):
        ids = as_plain_text(tokenizer, text)
        assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text
        assert not set(ids) & set(tokenizer.all_special_ids)


def test_characters_are_one_token_each():
    _, tokenizer = make(CHINESE, "mlm", "characters")
    assert tokenizer.tokenize("明月高楼") == ["明", "月", "高", "楼"]
    _, exact = make(CHINESE, "clm", "characters", 600)
    assert len(exact("明月高楼").input_ids) == 4


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "characters"])
def test_the_same_text_gives_the_same_tokenizer(kind):
    first, second = (make(ENGLISH, "mlm", kind, 400)[1].backend_tokenizer.to_str() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("objective", ["mlm", "clm", "seq2seq"])
def test_auto_tokenizer_loads_what_was_saved(objective, tmp_path):
    _, tokenizer = make(ENGLISH, objective, size=400)
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert loaded(ODD) == tokenizer(ODD)
    assert loaded.special_tokens_map == tokenizer.special_tokens_map
    assert loaded.pad_token_id is not None


def test_a_pair_has_two_token_types():
    _, tokenizer = make(ENGLISH, "mlm")
    pair = tokenizer("bridge", "boat")
    tokens = tokenizer.convert_ids_to_tokens(pair.input_ids)
    assert (tokens[0], tokens.count("[SEP]"), tokens[-1]) == ("[CLS]", 2, "[SEP]")
    border = tokens.index("[SEP]") + 1
    assert pair.token_type_ids == [0] * border + [1] * (len(tokens) - border)


def test_seq2seq_has_sentinels_and_ends_texts():
    _, tokenizer = make(ENGLISH, "seq2seq", size=600)
    assert len({tokenizer.convert_tokens_to_ids(f"<extra_id_{index}>") for index in range(SENTINELS)}) == SENTINELS
    assert tokenizer("boat").input_ids[-1] == tokenizer.eos_token_id


def test_case_is_kept_or_lowered_as_asked():
    assert make(ENGLISH, "mlm")[1].tokenize("BOAT") == make(ENGLISH, "mlm")[1].tokenize("boat")
    kept = make(ENGLISH, "mlm", case="keep")[1]
    assert kept.tokenize("The") != kept.tokenize("the")


def test_the_vocabulary_grows_with_the_corpus_up_to_what_suits_the_width():
    def size(characters, width):
        options = {"objective": "clm", "kind": "auto", "size": "auto", "case": "auto"}
        return plan_vocabulary(ENGLISH, **options, width=width, characters=characters).size

    assert [size(10**power, 384) for power in (3, 6, 7, 9)] == [512, 4096, 16384, 32768]
    assert size(10**9, 128) == 8192


def test_unseen_characters_are_unknown_to_wordpiece_and_known_to_bytes():
    _, words = make(ENGLISH, "mlm")
    assert words.tokenize("龍") == ["[UNK]"]
    tokenizer = train_tokenizer(ENGLISH, VocabularyPlan("bpe", "mlm", 400, is_lower=False))
    assert tokenizer.decode(tokenizer("龍", add_special_tokens=False).input_ids) == "龍"

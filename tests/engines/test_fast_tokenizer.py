"""The tokenizer without Transformers gives what the one with it gives, on whatever people write."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tunesmith.engines.fast_tokenizer import FastTokenizer, facts_of, open_tokenizer, write_tokenizer
from tunesmith.models.build import build_tokenizer
from tunesmith.models.find import find_base
from tunesmith.tasks.token_windows import special_ends

CORPUS = ["the quick brown fox", "我爱自然语言处理", "emoji 😀👩‍👩‍👧 déjà vu", "numbers 12345 !?"] * 3
texts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60),
    st.text(alphabet="自然语言处理很有趣，。！ab 1", max_size=60),
    st.sampled_from(
        ["", " ", "\x00\x07\t\n", "[SEP] [CLS] [MASK] <s>", "👩‍👩‍👧‍👦🇨🇳", "e\u0301" * 9, "long words " * 300]
    ),
)


def byte_level() -> transformers.PreTrainedTokenizerFast:
    """Give a tokenizer of RoBERTa's kind: byte pairs, no segments."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
        truncation_side="right",
        model_max_length=24,
    )


@pytest.fixture(scope="module", params=["minilm", "byte-level"])
def both(request, tmp_path_factory) -> tuple[transformers.PreTrainedTokenizerFast, FastTokenizer]:
    theirs = build_tokenizer(find_base("minilm").folder) if request.param == "minilm" else byte_level()
    path = Path(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")
    write_tokenizer(theirs, path)
    return theirs, open_tokenizer(path, facts_of(theirs))


def demand_same(theirs, mine) -> None:
    assert {name: list(rows) for name, rows in theirs.items()} == dict(mine)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from([4, 9, 24]))
def test_texts_cut_as_tasks_cut_them(both, several, length):
    demand_same(*(one(several, None, truncation=True, max_length=length) for one in both))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.sampled_from([16, 24]))
def test_pairs_cut_the_longer_first(both, pairs, length):
    firsts, seconds = (list(side) for side in zip(*pairs, strict=True))
    demand_same(*(one(firsts, seconds, truncation=True, max_length=length) for one in both))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(texts, min_size=1, max_size=3))
def test_places_of_tokens_without_special_ones(both, several):
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    demand_same(*(one(several, add_special_tokens=False, return_offsets_mapping=True, **options) for one in both))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.integers(0, 3))
def test_windows_over_the_second_text(both, pairs, stride):
    # Twelve characters are at most 48 bytes. Where a question leaves no room for the context, the library makes windows
    # without end; the task that reads windows cuts questions first.
    questions, contexts = ([text[:12] for text, _ in pairs], [text for _, text in pairs])
    theirs, mine = (
        one(
            questions,
            contexts,
            truncation="only_second",
            max_length=96,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        for one in both
    )
    demand_same(theirs, mine)
    rows = range(len(mine["input_ids"]))
    assert [theirs.sequence_ids(row) for row in rows] == [mine.sequence_ids(row) for row in rows]


def test_what_stands_around_a_text(both):
    theirs, mine = both
    assert special_ends(theirs) == special_ends(mine)
    assert [one.num_special_tokens_to_add(pair) for one in both for pair in (False, True)] == [
        mine.num_special_tokens_to_add(pair) for _ in both for pair in (False, True)
    ]
    assert (len(theirs), theirs.pad_token_id, theirs.cls_token_id) == (len(mine), mine.pad_token_id, mine.cls_token_id)
    demand_same(theirs("one text", ""), mine("one text", ""))  # an empty second text is none


def test_cutting_is_of_one_call_alone(both):
    _, mine = both
    long = "many words " * 40
    whole = mine([long])["input_ids"]
    assert len(mine([long], truncation=True, max_length=5)["input_ids"][0]) == 5
    assert mine([long])["input_ids"] == whole


def test_a_text_is_cut_on_the_side_that_the_tokenizer_says(tmp_path):
    theirs = byte_level()
    theirs.truncation_side = "left"
    write_tokenizer(theirs, tmp_path / "tokenizer.json")
    mine = open_tokenizer(tmp_path / "tokenizer.json", facts_of(theirs))
    demand_same(*(one(["the quick brown fox"], None, truncation=True, max_length=6) for one in (theirs, mine)))

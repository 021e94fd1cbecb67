"""Tests of `tunesmith.pretraining.tokens` and `packing`: ids on disk, blocks without padding."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pretraining.texts import stand_in_for_jieba
from tunesmith.bundle.atomic import find_damage
from tunesmith.pretraining.corpus import open_corpus, read_documents, survey
from tunesmith.pretraining.packing import Blocks, Frame
from tunesmith.pretraining.tokens import Separator, Stream, tokenise
from tunesmith.pretraining.vocabulary import VocabularyPlan, train_tokenizer


def stream(count: int, words: bool = False) -> Stream:
    marks = np.arange(count, dtype=np.uint8) % 2 if words else None
    return Stream(np.arange(count, dtype=np.uint16), marks, documents=1, characters=count, unknown=0)


@pytest.fixture
def made(english_file, tmp_path):
    files = open_corpus([str(english_file)])
    found = survey(files, seed=0, valid_share=0.1, max_rejected=0.0)
    tokenizer = train_tokenizer(found.sample, VocabularyPlan("bpe", "clm", 400, is_lower=False))
    end = tokenizer.eos_token_id

    def make(**changes):
        options = {"valid": (), "held": found.held, "tokenizer": tokenizer, "separator": Separator(end, end)}
        return tokenise(files, **{**options, "is_segmented": False, "folder": tmp_path / "corpus", **changes})

    return files, found, tokenizer, make


def test_ids_decode_to_the_documents_and_nothing_is_lost(made):
    files, found, tokenizer, make = made
    tokens = make()
    for part, is_held in ((tokens.train, False), (tokens.valid, True)):
        texts = [text for text, key in read_documents(files) if found.held.has(key) is is_held]
        end = tokenizer.eos_token
        assert tokenizer.decode(part.ids.tolist()) == end + "".join(text + end for text in texts)
        assert (part.documents, part.characters) == (len(texts), sum(map(len, texts)))
        assert part.ids.dtype == np.uint16


def test_blocks_are_full_and_their_bodies_are_the_stream():
    blocks = Blocks(stream(100), Frame(6, (900,), (901,)))
    assert len(blocks) == 16
    assert blocks.tail == 4
    assert {len(block.tokens) for block in blocks} == {8} == set(blocks.lengths)
    assert all(block.tokens[0] == 900 and block.tokens[-1] == 901 for block in blocks)
    bodies = [token for block in blocks for token in block.tokens[1:-1]]
    assert [*bodies, *range(96, 100)] == list(range(100))


def test_blocks_behave_as_a_sequence():
    blocks = Blocks(stream(20), Frame(5), most=3)
    assert len(blocks) == 3
    assert blocks[-1] == blocks[2]
    assert list(blocks[1:]) == [blocks[1], blocks[2]]
    with pytest.raises(IndexError):
        blocks[3]
    assert Blocks(stream(20, words=True), Frame(5, (7,)))[0].target == (True, False, True, False, True, False)


def test_ids_on_disk_are_used_again_and_made_anew_when_damaged(made, tmp_path, monkeypatch):
    _, _, _, make = made
    first = make()
    (folder,) = (tmp_path / "corpus").iterdir()
    kept = (folder / "train.bin").stat().st_mtime_ns
    make()
    assert (folder / "train.bin").stat().st_mtime_ns == kept
    content = bytearray((folder / "train.bin").read_bytes())
    content[10] ^= 1
    (folder / "train.bin").write_bytes(content)
    again = make()
    assert not find_damage(folder)
    assert np.array_equal(again.train.ids, first.train.ids) or again.key == first.key


def test_another_tokenizer_or_separator_has_another_key(made):
    _, _, _, make = made
    assert make().key != make(separator=Separator(1)).key


def test_special_tokens_in_the_text_are_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one <|endoftext|> two\nthree\n" * 3 + "four\n")
    files = open_corpus([str(path)])
    found = survey(files, seed=0, valid_share=0.1, max_rejected=0.0)
    tokenizer = train_tokenizer(["one two three"], VocabularyPlan("bpe", "clm", 300, is_lower=False))
    end = tokenizer.eos_token_id
    tokens = tokenise(
        files,
        valid=(),
        held=found.held,
        tokenizer=tokenizer,
        separator=Separator(end),
        is_segmented=False,
        folder=tmp_path / "corpus",
    )
    ends = int((tokens.train.ids == end).sum() + (tokens.valid.ids == end).sum())
    assert ends == found.documents == 7


def test_documents_that_stand_in_the_validation_file_are_counted_and_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\nTWO\n")
    (tmp_path / "v.txt").write_text("two\nfour\n")
    files, valid = open_corpus([str(tmp_path / "a.txt")]), open_corpus([str(tmp_path / "v.txt")])
    found = survey(files, valid=valid, seed=0, valid_share=0.1, max_rejected=0.0)
    tokenizer = train_tokenizer(["one two three four"], VocabularyPlan("bpe", "clm", 300, is_lower=False))
    tokens = tokenise(
        files,
        valid=valid,
        held=found.held,
        tokenizer=tokenizer,
        separator=Separator(0),
        is_segmented=False,
        folder=tmp_path / "corpus",
    )
    assert (tokens.train.documents, tokens.valid.documents, tokens.leaks) == (2, 2, 2)


def test_words_of_the_segmenter_are_kept_beside_the_ids(tmp_path, monkeypatch):
    def tokenize(text):
        yield from ((text[start : start + 2], start, start + 2) for start in range(0, len(text), 2))

    monkeypatch.setitem(sys.modules, "jieba", stand_in_for_jieba(tokenize))
    (tmp_path / "a.txt").write_text("明月高楼清风\n白云远山流水\n明月远山流水\n", encoding="utf-8")
    files = open_corpus([str(tmp_path / "a.txt")])
    found = survey(files, seed=0, valid_share=0.1, max_rejected=0.0)
    texts = [text for text, _ in read_documents(files)] * 2
    tokenizer = train_tokenizer(texts, VocabularyPlan("characters", "mlm", 100, is_lower=False))
    tokens = tokenise(
        files,
        valid=(),
        held=found.held,
        tokenizer=tokenizer,
        separator=Separator(tokenizer.sep_token_id),
        is_segmented=True,
        folder=tmp_path / "corpus",
    )
    assert tokens.train.words is not None
    assert tokens.train.words.tolist() == [1, 0, 1, 0, 1, 0, 1] * 2

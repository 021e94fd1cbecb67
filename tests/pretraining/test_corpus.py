"""Tests of `tunesmith.pretraining.corpus`."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from tunesmith.errors import DataProblem
from tunesmith.pretraining.corpus import open_corpus, place, read_documents, survey

DEFAULTS = {"seed": 0, "valid_share": 0.1, "max_rejected": 0.01}


def documents(*paths, **options):
    return [text for text, _ in read_documents(open_corpus([str(path) for path in paths], **options))]


def test_a_document_is_a_line_where_no_blank_lines_separate(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b"one\r\ntwo  \nthree")
    assert documents(path) == ["one", "two  ", "three"]


def test_a_document_is_a_paragraph_where_blank_lines_separate(tmp_path):
    path = tmp_path / "paragraphs.txt"
    path.write_text("\n one\ntwo\n \t\nthree\n\n\nfour", encoding="utf-8")
    assert documents(path) == [" one\ntwo", "three", "four"]
    assert documents(path, documents="lines") == [" one", "two", "three", "four"]


def test_tables_give_their_text_column_in_every_format(tmp_path):
    texts = ["first text, with a comma", "第二篇", "third"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    (tmp_path / "b.csv").write_text("id,text\n" + "".join(f'1,"{text}"\n' for text in texts), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": [1, 2, 3]}), tmp_path / "c.parquet")
    with gzip.open(tmp_path / "d.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(texts))
    for name in ("a.jsonl", "b.csv", "c.parquet", "d.txt.gz"):
        assert documents(tmp_path / name) == texts, name
    assert documents(tmp_path / "a.jsonl", tmp_path / "d.txt.gz") == [*texts, *texts]


def test_another_column_can_be_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"title": "t", "text": "x"}\n')
    assert documents(path, text="title") == ["t"]
    with pytest.raises(DataProblem, match="column 'body' is missing"):
        documents(path, text="body")


def test_survey_counts_everything(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": ""}\n{"text": null}\n{"text": "three"}\n')
    found = survey(open_corpus([str(path)]), **DEFAULTS)
    assert (found.documents, found.characters, found.empty, found.rejected) == (2, 8, 2, 0)
    assert "2 rows have no text" in found.remarks


def test_bad_bytes_are_refused_with_their_places(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"gut\n" * 50 + b"sch\xf6n\n" * 3 + "und 世界和平与发展的人们\n".encode())
    with pytest.raises(DataProblem) as caught:
        survey(open_corpus([str(path)]), **DEFAULTS)
    assert caught.value.what.startswith("3 of 54 documents cannot be used; the first: 1 places do not decode")
    assert caught.value.where == f"{path}:51, {path}:52, {path}:53"
    assert "max_rejected" in caught.value.do
    found = survey(open_corpus([str(path)]), **{**DEFAULTS, "max_rejected": 0.1})
    assert (found.documents, found.rejected) == (51, 3)
    assert any("3 unusable documents were left out (bad-encoding)" in remark for remark in found.remarks)
    assert not any("sch" in text for text in documents(path))


def test_half_a_character_pair_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(DataProblem, match="half of a character pair"):
        survey(open_corpus([str(path)]), **DEFAULTS)


@pytest.mark.parametrize("content", ["", "\n \n\n"])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(DataProblem, match=r"the file is empty|the corpus holds no text"):
        survey(open_corpus([str(path)]), **DEFAULTS)


def test_one_text_cannot_be_split(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("the same\n" * 5)
    with pytest.raises(DataProblem) as caught:
        survey(open_corpus([str(path)]), **DEFAULTS)
    assert caught.value.what == "the corpus has 5 documents and only one different text: none can be held out"
    assert "--valid FILE" in caught.value.do


def test_no_corpus_and_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(DataProblem, match="no corpus was given"):
        open_corpus([])
    with pytest.raises(DataProblem, match="does not exist"):
        open_corpus([str(tmp_path / "gone.txt")])


def test_documents_that_repeat_stay_on_one_side(tmp_path):
    path = tmp_path / "a.txt"
    texts = [f"text number {index}" for index in range(500)]
    path.write_text("\n".join([*texts, *(text.upper() for text in texts), *texts]))
    files = open_corpus([str(path)])
    held = survey(files, **DEFAULTS).held
    sides: dict[str, set[bool]] = {}
    for text, key in read_documents(files):
        sides.setdefault(text.lower(), set()).add(held.has(key))
    assert all(len(side) == 1 for side in sides.values())
    share = sum(side == {True} for side in sides.values()) / len(sides)
    assert 0.06 < share < 0.14


def test_the_split_depends_on_the_seed_and_at_least_one_document_is_held_out(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"text {index}" for index in range(6)))
    files = open_corpus([str(path)])
    sides = set()
    for seed in range(8):
        held = survey(files, **{**DEFAULTS, "seed": seed, "valid_share": 0.0001}).held
        sides.add(tuple(held.has(key) for _, key in read_documents(files)))
        assert sum(held.has(key) for _, key in read_documents(files)) == 1
    assert len(sides) > 2


def test_a_validation_file_holds_out_its_own_texts(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "v.txt").write_text("two\nfour\n")
    files, valid = open_corpus([str(tmp_path / "a.txt")]), open_corpus([str(tmp_path / "v.txt")])
    found = survey(files, valid=valid, **DEFAULTS)
    assert [held for _, key in read_documents(files) if (held := found.held.has(key))] == [True]
    assert set(found.sample) == {"one", "three"}


def test_the_sample_is_bounded_fair_and_without_held_out_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"document {index:05d}" for index in range(4000)))
    files = open_corpus([str(path)])
    found = survey(files, **DEFAULTS, sample_characters=7000)
    assert 2500 < sum(map(len, found.sample)) <= 14_000
    places = [int(text.split()[1]) for text in found.sample]
    assert 1500 < sum(places) / len(places) < 2500, "early and late documents alike"
    keys = dict(read_documents(files))
    assert not any(found.held.has(keys[text]) for text in found.sample)


def test_places_are_even():
    places = [place(key, 3) for key in range(2000)]
    assert abs(sum(places) / len(places) - 0.5) < 0.03

"""Words, edits and tables: what becomes of one text, and of the places in it."""

from __future__ import annotations

import random
import sys
import types

import pytest

from tunesmith.data.augment.edits import Edit, edit_record, edited, free_words, moved
from tunesmith.data.augment.random_edits import delete_words, like_case, replace_words, swap_words
from tunesmith.data.augment.synonym_table import make_table, read_table
from tunesmith.data.augment.words import find_cut, words_of
from tunesmith.errors import DataProblem
from tunesmith.types import Origin, Record, Span

TEXTS = [
    "The film was good, really good - wasn't it?",
    "  leading and trailing  ",
    "one",
    "",
    "手机很好用,我喜欢。",
    "买了 iPhone 15 手机",
    "a\tb\nc  d",
    "!!! ??",
]


def read(text: str, places) -> list[str]:
    return [text[start:end] for start, end in places]


def test_words_are_runs_of_letters_and_single_chinese_characters():
    text = "Don't buy state-of-the-art, 买手机 now!"
    assert read(text, words_of(text)) == ["Don't", "buy", "state-of-the-art", "买", "手", "机", "now"]


def test_chinese_is_cut_by_jieba_where_it_is_there(monkeypatch):
    stand_in = types.ModuleType("jieba")
    stand_in.setLogLevel = lambda level: None
    stand_in.lcut = lambda text: [text[:2], text[2:]] if len(text) > 2 else [text]
    monkeypatch.setitem(sys.modules, "jieba", stand_in)
    assert read("手机好 ok", words_of("手机好 ok", find_cut())) == ["手机", "好", "ok"]
    monkeypatch.setitem(sys.modules, "jieba", None)  # as if it were not installed
    assert find_cut() is None


def test_edits_move_what_stands_behind_them():
    text = "the big dog barks"
    edits = [Edit(4, 7, "enormous"), Edit(11, 17, "")]
    assert edited(text, edits) == "the enormous dog"
    assert moved((8, 11), edits) == (13, 16)
    assert moved((0, 3), edits) == (0, 3)
    assert moved((4, 7), edits) == (4, 12)  # what was replaced is what replaced it
    assert moved((12, 17), edits)[0] == moved((12, 17), edits)[1]  # nothing is left of it


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_deleting_leaves_the_other_words_as_they_were(text, share):
    words = words_of(text)
    for seed in range(20):
        found = edited(text, delete_words(text, words, share, random.Random(seed)))
        kept = read(found, words_of(found))
        gone = min(max(1, int(share * len(words) + 0.5)), max(0, len(words) - 1))
        assert len(kept) == len(words) - gone
        rest = iter(read(text, words))
        assert all(word in rest for word in kept)  # in their order


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_swapping_keeps_all_words_and_all_between_them(text):
    words = words_of(text)
    for seed in range(20):
        found = edited(text, swap_words(text, words, 0.3, random.Random(seed)))
        assert sorted(read(found, words_of(found))) == sorted(read(text, words))
    if len(words) < 2:
        assert found == text


def test_synonyms_come_from_the_table_longest_first_and_keep_capitals():
    table = make_table([("new york", ["NYC"]), ("new", ["fresh"]), ("手机", ["电话"]), ("same", ["Same"])])
    assert "same" not in table.synonyms
    text = "New York is new. 我的手机"
    matches = table.matches(text, words_of(text))
    assert [(text[start:end], known) for (start, end), known in matches] == [
        ("New York", ("NYC",)), ("new", ("fresh",)), ("手机", ("电话",)),
    ]  # fmt: skip
    assert edited(text, replace_words(text, matches, 9, random.Random(0))) == "NYC is fresh. 我的电话"
    assert len(replace_words(text, matches, 1, random.Random(0))) == 1
    assert table.matches("newest york", words_of("newest york")) == []  # words begin and end where words do
    assert [like_case("fine", word) for word in ("good", "Good", "GOOD", "I")] == ["fine", "Fine", "FINE", "Fine"]


TABLES = {
    "header.csv": "word,synonyms\ngood,fine|great\nfilm,movie\n",
    "bare.csv": "good,fine|great\nfilm,movie\n",
    "tabs.tsv": "word\tsynonyms\ngood\tfine;great\nfilm\tmovie\n",
    "columns.csv": "word,first,second\ngood,fine,great\nfilm,movie,\n",
    "rows.jsonl": '{"word": "Good", "synonyms": ["fine", "great"]}\n{"word": "film", "synonyms": "movie"}\n',
    "turned.jsonl": '{"synonyms": ["fine", "great"], "word": "good"}\n{"synonyms": ["movie"], "word": "film"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_may_be_written_in_several_ways(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert read_table(str(tmp_path / name)).synonyms == {"good": ("fine", "great"), "film": ("movie",)}


def test_chinese_tables_are_read(tmp_path):
    path = tmp_path / "同义词.csv"
    path.write_text("词,同义词\n手机,电话|手提电话\n", encoding="gb18030")
    assert read_table(str(path)).synonyms == {"手机": ("电话", "手提电话")}


def test_rows_of_a_table_that_say_nothing_are_told(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("word,synonym\ngood,fine\nfilm,\n,movie\n", encoding="utf-8")
    with pytest.raises(DataProblem) as caught:
        read_table(str(path))
    assert str(caught.value) == (
        "DataProblem: 2 rows of the table of synonyms cannot be used: row 3 has no synonym; row 4 has no word\n"
        f"  where: {path}\n"
        "  do:    write word,synonym|synonym in each line of a CSV or TSV file, or objects with word and synonyms"
    )
    path.write_text("word,synonym\ngood,Good\n", encoding="utf-8")
    with pytest.raises(DataProblem, match="has another word than itself"):
        read_table(str(path))


def tagged() -> Record:
    text = "yesterday Ann Lee went to New York by train"
    spans = (Span(10, 17, "person"), Span(26, 34, "place"))
    return Record("1", {"text": text}, spans, Origin("f", 1))


def said(record: Record) -> list[str]:
    return [record.fields["text"][span.start : span.end] for span in record.target]


@pytest.mark.parametrize("change", [delete_words, swap_words])
def test_entities_stay_what_they_were(change):
    record = tagged()
    text = record.fields["text"]
    words = free_words(record, words_of(text))
    assert read(text, words) == ["yesterday", "went", "to", "by", "train"]
    others = set()
    for seed in range(40):
        copy = edit_record(record, "text", change(text, words, 0.6, random.Random(seed)))
        assert said(copy) == ["Ann Lee", "New York"]
        assert [span.label for span in copy.target] == ["person", "place"]
        others.add(copy.fields["text"])
    assert len(others) > 5


def test_tokens_stand_where_they_now_are():
    text, tokens = "Ann went home now", ((0, 3), (4, 8), (9, 13), (14, 17))
    record = Record("1", {"text": text, "places": tokens}, (Span(0, 3, "person"),), Origin("f", 1))
    words = words_of(text)
    shorter = edit_record(record, "text", [Edit(words[1][0] - 1, words[1][1], "")])
    assert read(shorter.fields["text"], shorter.fields["places"]) == ["Ann", "home", "now"]
    longer = edit_record(record, "text", [Edit(*words[2], "to the house")])
    assert read(longer.fields["text"], longer.fields["places"]) == ["Ann", "went", "to the house", "now"]
    assert said(longer) == said(shorter) == ["Ann"]
    glued = Record("2", {"text": "AB买", "places": ((0, 1), (1, 2), (2, 3))}, (), Origin("f", 1))
    assert free_words(glued, words_of("AB买")) == [(2, 3)]  # 'AB' lies across the edge of two tokens

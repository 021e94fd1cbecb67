"""Copies of training rows, and of nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from tunesmith.data.augment.entries import read_entries
from tunesmith.data.augment.making import HELD_OUT, REPEATED, UNCHANGED, edit_maker, make_rows, with_rows
from tunesmith.data.augment.synonym_table import make_table
from tunesmith.data.split import fingerprint
from tunesmith.data.store import Records
from tunesmith.types import Origin, Record, Splits

TABLE = make_table([("good", ["fine", "great"]), ("film", ["movie"])])


def record(name: str, text: str, target: str = "a") -> Record:
    return Record(name, {"text": text}, target, Origin("f.csv", int(name)))


def splits(train, valid=(), test=()) -> Splits:
    numbers = iter(range(1, 1000))
    parts = [tuple(record(str(next(numbers)), text) for text in part) for part in (train, valid, test)]
    return Splits(*parts, fingerprint(*parts))


def made(asked: str, rows: Splits, *, seed: int = 0, fields=("text",), **more):
    entries = read_entries(asked)
    makers = [
        None
        if entry.kind == "mixup"
        else edit_maker(entry, fields, cut=None, table=TABLE if entry.kind == "synonyms" else None)
        for entry in entries
    ]
    return make_rows(entries, makers, rows, seed=seed, fields=fields, **more)


TRAIN = [f"row {number} of a good long film with many words" for number in range(20)]


def texts(found) -> list[str]:
    return [row.fields["text"] for row in found.rows]


def test_copies_have_their_rows_answer_origin_and_name():
    rows = splits(TRAIN)
    found = made("delete:copies=2,swap,mixup", rows)
    assert [row.id for row in found.rows[:2]] == ["1~delete1", "2~delete1"]
    by_id = {row.id: row for row in rows.train}
    for row in found.rows:
        parent = by_id[row.id.partition("~")[0]]
        assert (row.target, row.origin) == (parent.target, parent.origin)
        assert row.fields["text"] != parent.fields["text"]
    assert {row.id.partition("~")[2] for row in found.rows} == {"delete1", "delete2", "swap1"}
    assert [(each.kind, each.rows) for each in found.account][2] == ("mixup", 0)
    assert sum(each.rows for each in found.account) == len(found.rows)
    for each in found.account:
        assert all(before in TRAIN and after in texts(found) for before, after in each.samples)
        assert each.rows + sum(each.left_out.values()) == (0 if each.kind == "mixup" else 20 * each.settings["copies"])


def test_the_same_seed_gives_the_same_copies_whatever_the_other_rows_are():
    assert made("delete,swap,synonyms", splits(TRAIN)) == made("delete,swap,synonyms", splits(TRAIN))
    assert texts(made("swap", splits(TRAIN))) != texts(made("swap", splits(TRAIN), seed=1))
    few = {row.id: row.fields for row in made("swap:share=0.5", splits(TRAIN[:5])).rows}
    many = {row.id: row.fields for row in made("swap:share=0.5", splits(TRAIN)).rows}
    assert few == {name: many[name] for name in few}


def test_what_reads_like_a_validation_or_test_row_is_left_out_and_counted():
    # Each row has two words, so a copy without one of them is one of two texts; both stand in another part.
    rows = splits(["alpha beta"], valid=["ALPHA "], test=["beta"])
    found = made("delete:copies=8", rows)
    assert len(found.rows) == 0
    assert found.account[0].left_out == {HELD_OUT: 8}
    free = made("delete:copies=8", splits(["alpha beta"]))
    assert set(texts(free)) == {"alpha", "beta"}
    assert free.account[0].left_out == {REPEATED: 6}


def test_validation_and_test_rows_are_never_copied_nor_changed():
    rows = splits(TRAIN, [f"valid {number} has words" for number in range(9)], ["test row has words"] * 3)
    before = dataclasses.replace(rows)
    found = made("delete:copies=5:share=0.4,swap:copies=5,synonyms:copies=3", rows)
    assert rows == before
    assert {row.id.partition("~")[0] for row in found.rows} <= {row.id for row in rows.train}
    assert not any("valid" in text or "test" in text for text in texts(found))


def test_a_pair_turned_round_counts_as_the_same_pair():
    both = [{"text_a": "one two", "text_b": "three"}, {"text_a": "three", "text_b": "one"}]
    train, test = ((Record(str(place), fields, "yes", Origin("f", 1)),) for place, fields in enumerate(both))
    rows = Splits(train, (), test, "")
    settings = {"fields": ("text_a",), "group_of": lambda fields: {"pair": sorted(fields.values())}}
    found = made("delete:copies=9", rows, **settings)
    assert {row.fields["text_a"] for row in found.rows} == {"two"}
    assert found.account[0].left_out[HELD_OUT] >= 1


def test_rows_that_cannot_be_changed_are_counted():
    found = made("synonyms,delete", splits(["nothing known here", "one", "good"]))
    assert found.account[0].left_out == {UNCHANGED: 2}
    assert found.account[0].rows == 1
    assert found.account[1].left_out == {UNCHANGED: 2}


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_share_of_the_rows_may_be_copied(share):
    found = made(f"swap:rows={share}:copies=2", splits(TRAIN))
    assert found.account[0].rows + sum(found.account[0].left_out.values()) == 2 * 20 * share


def test_several_texts_of_a_row_are_each_changed():
    fields = {"text_a": "a good film", "text_b": "the good film there"}
    rows = Splits((Record("1", fields, "yes", Origin("f", 1)),), (), (), "")
    (row,) = made("synonyms:share=1", rows, fields=("text_a", "text_b")).rows
    assert all("movie" in row.fields[name] and "good" not in row.fields[name] for name in fields)


def test_many_rows_go_to_disk_together():
    store = Records(most_in_memory=3)
    for place in range(6):
        store.append(record(str(place), f"text {place}"))
    both = with_rows(store.settled(), [record("9", "more")])
    assert [row.id for row in both] == ["0", "1", "2", "3", "4", "5", "9"]

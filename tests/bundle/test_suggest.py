"""Rows to label next: which ones, from files of any size, and the file that is written."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import toy_world
from tunesmith.bundle import suggest as room
from tunesmith.bundle.suggest import suggest
from tunesmith.bundle.suggestions_file import demand_target, write_suggestions
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.tasks import find_task

BY = ("uncertainty", "diversity", "both")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Rows without labels: mixed families (nobody can tell), plain ones, repeats, labelled ones and broken ones."""
    generator = random.Random(0)
    mixed = [
        " ".join([*generator.sample(toy_world.WORDS["animal"], 2), *generator.sample(toy_world.WORDS["metal"], 2)])
        for _ in range(10)
    ]
    plain = [text for text, _ in toy_world.rows(60, seed=21)]
    known = [text for text, _ in toy_world.rows(120, seed=1)[:5]] + [toy_world.rows(90, seed=3, is_test=True)[0][0]]
    texts = [*plain, *mixed, *known, plain[3].upper(), f" {mixed[0]}  ", ""]
    path = tmp_path_factory.mktemp("pool") / "pool.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "text"), *((f"n{row}", text) for row, text in enumerate(texts))])
    return path, mixed


@pytest.mark.parametrize("by", BY)
def test_rows_are_new_and_each_text_is_given_once(toy_run, pool, by):
    path, mixed = pool
    found = suggest(toy_run, path, count=100, by=by)
    assert found.counts == {
        "rows": 79,
        "used": 70,
        "repeated": 2,
        "unreadable": 1,
        "in training file": 5,
        "in test file": 1,
    }
    texts = [each.text for each in found.rows]
    assert len(texts) == len(set(texts)) == 70
    assert set(mixed) < set(texts)
    assert [each.rank for each in found.rows] == list(range(1, 71))
    assert found.remarks == ("only 70 rows are new and can be read",)
    assert all(each.columns == {"number": f"n{each.row - 2}", "text": each.text} for each in found.rows)


def test_the_least_sure_rows_are_those_that_nobody_can_tell(toy_run, pool):
    path, mixed = pool
    by_uncertainty = [each.text for each in suggest(toy_run, path, count=8, by="uncertainty").rows]
    assert len(set(by_uncertainty) & set(mixed)) >= 7
    scores = [each.score for each in suggest(toy_run, path, count=8, by="uncertainty").rows]
    assert scores == sorted(scores, reverse=True)
    by_both = [each.text for each in suggest(toy_run, path, count=8, by="both").rows]
    assert len(set(by_both) & set(mixed)) >= 4
    assert by_both[0] in mixed


@pytest.mark.parametrize("by", BY)
def test_the_same_rows_come_again(toy_run, pool, by):
    once, again = (suggest(toy_run.path, pool[0], count=12, by=by, seed=3) for _ in range(2))
    assert [each.row for each in once.rows] == [each.row for each in again.rows]
    assert once == again


def test_rows_labelled_since_are_left_out(toy_run, pool, tmp_path):
    first = suggest(toy_run, pool[0], count=10)
    write_suggestions(first, tmp_path / "next.csv")
    second = suggest(toy_run, pool[0], count=100, labelled=[tmp_path / "next.csv"])
    assert second.counts["used"] == 60
    assert second.counts["in next.csv"] + second.counts.get("repeated", 0) == 12, (
        "two texts of the pool stand in it twice"
    )
    assert not {each.text for each in first.rows} & {each.text for each in second.rows}
    with pytest.raises(DataProblem) as caught:
        suggest(toy_run, tmp_path / "next.csv", labelled=[tmp_path / "next.csv"])
    assert str(caught.value) == (
        f"DataProblem: no row of 10 is new: 10 in next.csv\n  where: {tmp_path / 'next.csv'}\n"
        "  do:    give rows that are not labelled yet"
    )


def test_a_training_file_that_has_changed_is_told(toy_run, toy_data, pool):
    files = {**toy_run.plan.data["files"], "data": {"path": str(toy_data["train"]), "sha256": "0" * 64}}
    plan = dataclasses.replace(toy_run.plan, data={**toy_run.plan.data, "files": files})
    found = suggest(dataclasses.replace(toy_run, plan=plan), pool[0], count=3)
    assert "in training file" not in found.counts
    said = f"{toy_data['train']}, the data file of the run, is gone or has changed: its texts are not left out"
    assert found.remarks == (said,)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_the_file_keeps_its_columns_and_says_why(toy_run, pool, tmp_path, suffix):
    found = suggest(toy_run, pool[0], count=4)
    out = tmp_path / f"next{suffix}"
    write_suggestions(found, out)
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    else:
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="," if suffix == ".csv" else "\t"))
    assert [set(row) for row in rows] == [{"number", "text", "label", "rank", "score", "why"}] * 4
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4]
    assert all(row["label"] == "" and row["why"] for row in rows)
    with pytest.raises(PlanProblem, match="is there already"):
        write_suggestions(found, out)
    write_suggestions(found, out, may_overwrite=True)
    assert list(tmp_path.iterdir()) == [out]


def test_columns_that_are_taken_get_another_name(toy_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,score,label\na9 a10 m9,7,old\n", encoding="utf-8")
    write_suggestions(suggest(toy_run, path, count=1), tmp_path / "next.csv")
    header, row = (tmp_path / "next.csv").read_text(encoding="utf-8").splitlines()
    assert header == "text,score,label,rank,suggest_score,why"
    assert row.startswith("a9 a10 m9,7,old,1,0.")


def test_files_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    given = tmp_path / "rows.csv"
    given.write_text("text\nx\n", encoding="utf-8")
    with pytest.raises(PlanProblem, match=r"cannot be written as '\.xlsx'"):
        demand_target(tmp_path / "next.xlsx", str(given), may_overwrite=False)
    with pytest.raises(PlanProblem, match="--out is the input file itself"):
        demand_target(given, str(given), may_overwrite=True)


def test_what_cannot_be_asked_is_refused(toy_run, pool, tmp_path):
    with pytest.raises(PlanProblem, match="the number of rows is 0"):
        suggest(toy_run, pool[0], count=0)
    empty = tmp_path / "empty.csv"
    empty.write_text('text\n""\n', encoding="utf-8")
    with pytest.raises(DataProblem, match="none of the 1 rows can be read; the first: the text"):
        suggest(toy_run, empty)


class Stub:
    """A bundle whose answers follow from the text: row number modulo 1,000 in thousandths is how sure it is."""

    task = find_task("text-classification")
    labels = ("a", "b")
    path = Path("stub")
    plan = SimpleNamespace(data={"files": {}, "roles": {"text": "text", "label": "label"}}, options={})
    ensemble = None

    def answer(self, records):
        margins = np.array([int(record.fields["text"].split()[1]) * 7919 % 1000 for record in records]) / 1000
        return np.stack([np.log(0.5 + margins / 2 + 1e-9), np.log(0.5 - margins / 2 + 1e-9)], axis=1)


@pytest.mark.parametrize(("rows", "most_bytes"), [(4_200, 9e6), pytest.param(100_000, 16e6, marks=pytest.mark.slow)])
def test_many_rows_take_little_memory(tmp_path, monkeypatch, rows, most_bytes):
    """Only the least sure rows are held; what grows with the file are some bytes a row, to know repeats by."""
    path, few = tmp_path / "many.csv", tmp_path / "few.csv"
    for file, count in ((path, rows), (few, 3)):
        lines = (f"text {row} {'x' * 4000}\n" for row in range(count))
        file.write_text("text\n" + "".join(lines), encoding="utf-8")
    monkeypatch.setattr(room, "Bundle", Stub)
    suggest(Stub(), few, count=1, by="uncertainty")  # what is imported on the way is not counted
    tracemalloc.start()
    found = suggest(Stub(), path, count=3, by="uncertainty")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.score for each in found.rows] == [1.0] * 3  # rows whose margin is zero
    assert [each.row for each in found.rows] == [2 + 1000 * place for place in range(3)]
    assert most < most_bytes < path.stat().st_size


def test_a_sample_is_held_by_diversity_alone(monkeypatch):
    def candidates(*_, **__):
        record = SimpleNamespace(origin=SimpleNamespace(row=0))
        for row in range(500):
            yield SimpleNamespace(record=SimpleNamespace(**{**vars(record), "origin": SimpleNamespace(row=row)}))

    monkeypatch.setattr(room, "_candidates", candidates)
    monkeypatch.setattr(room, "_SAMPLE", 100)
    held = [
        [each.record.origin.row for each in room._hold(None, None, by="diversity", count=5, seed=seed, on_rows=print)]
        for seed in (0, 0, 1)
    ]
    assert held[0] == held[1] != held[2]
    assert all(len(rows) == len(set(rows)) == 100 and rows == sorted(rows) for rows in held)
    assert 150 < np.mean(held[0]) < 350  # from all over the file

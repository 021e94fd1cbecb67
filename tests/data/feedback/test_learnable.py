"""Feedback becomes Records of every kind of task, and a file that training reads; nothing is lost in silence."""

from __future__ import annotations

import csv
import json

import pytest

from feedback_rows import feedback
from tunesmith import data
from tunesmith.data.feedback.export import export_rows, neutral
from tunesmith.data.feedback.learnable import records_of
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task
from tunesmith.types import Entity, Span

ADA = "Ada lives in Rome"
CASES = [
    ("text-classification", {"text": "fine"}, "good", "good"),
    ("multi-label-classification", {"text": "fine"}, ["b", "a"], ("a", "b")),
    ("multi-label-classification", {"text": "fine"}, [], ()),
    ("token-classification", {"text": ADA}, [Entity("Ada", "person", 0, 3)], (Span(0, 3, "person"),)),
    ("token-classification", {"text": ADA, "places": [[0, 3]]}, [], ()),
    ("text-pair", {"text_a": "one", "text_b": "two"}, "same", "same"),
    ("text-similarity", {"text_a": "one", "text_b": "two"}, 0.5, 0.5),
    ("multiple-choice", {"question": "?", "choices": ["x", "y"]}, 1, 1),
    ("multiple-choice", {"question": "?", "choices": ["x", "y"]}, "x", 0),
    (
        "question-answering",
        {"question": "Who?", "context": ADA},
        {"text": "Ada", "start": 0, "end": 3},
        {"text": ["Ada"], "answer_start": [0]},
    ),
    ("question-answering", {"question": "Who?", "context": ADA}, "Rome", {"text": ["Rome"], "answer_start": [13]}),
    (
        "question-answering",
        {"question": "Who?", "context": ADA},
        {"text": "", "start": 0, "end": 0},
        {"text": [], "answer_start": []},
    ),
    ("translation", {"source": "eins"}, "one", "one"),
    ("summarisation", {"document": "long text"}, "short", "short"),
    ("dialogue", {"question": "Hi?"}, "Hello.", "Hello."),
    ("dialogue", {"messages": [{"role": "user", "content": "Hi?"}]}, "Hello.", "Hello."),
    ("text-generation", {"prompt": "Once"}, " upon a time", " upon a time"),
    ("text-generation", {"text": "Once"}, " upon a time", " upon a time"),
    (
        "code-generation",
        {"prompt": "one", "tests": ["assert f() == 1"]},
        "def f(): return 1",
        {"code": "def f(): return 1", "tests": ["assert f() == 1"], "setup": ""},
    ),
    ("relation-extraction", {"text": ADA, "head": "Ada", "tail": "Rome"}, "lives-in", "lives-in"),
]


@pytest.mark.parametrize("place", range(len(CASES)))
@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_corrected_or_confirmed_answer_is_a_record_of_its_task(place, is_confirmed):
    name, fields, answer, target = CASES[place]
    said = {"answered": answer, "is_correct": True, "corrected": None} if is_confirmed else {"corrected": answer}
    found = records_of([feedback(7, fields=fields, **said)], find_task(name))
    assert found.rejected == ()
    (record,) = found.records
    assert record.target == target
    assert record.id == "f7"
    assert find_task(name).text_of(record.fields)


def test_every_task_that_there_is_stands_in_the_cases():
    from tunesmith.tasks import TASKS

    assert {case[0] for case in CASES} == set(TASKS)


def test_what_cannot_be_used_is_told_by_row():
    rows = [
        feedback(1),
        feedback(2, corrected=None, is_correct=False),
        feedback(3, fields={"question": "?"}),
        feedback(4, fields={"text": " "}),
        feedback(5, corrected=["a", "list"]),
    ]
    found = records_of(rows, find_task("text-classification"), source="the store")
    assert [record.id for record in found.records] == ["f1"]
    assert [(str(row.origin), row.kind, row.fields["feedback"]) for row in found.rejected] == [
        ("the store:2", "no-answer", "f2"),
        ("the store:3", "wrong-fields", "f3"),
        ("the store:4", "empty-text", "f4"),
        ("the store:5", "wrong-type", "f5"),
    ]
    assert found.rejected[1].reason == "the row has question, not text"


def test_what_is_odd_is_counted():
    spans = [{"start": 0, "end": 4, "label": "person"}]
    rows = [feedback(number, fields={"text": ADA}, corrected=spans) for number in (1, 2)]
    found = records_of(rows, find_task("token-classification"))
    assert found.notes["white-space-around-entity"] == ("entity 1 is 'Ada '", 2)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_an_export_has_the_runs_own_columns_and_can_be_trained_on(tmp_path):
    task = find_task("text-classification")
    out = tmp_path / "rows.csv"
    done = export_rows([feedback(1), feedback(2)], task, out, columns={"text": "review", "label": "stars"})
    assert (done.rows, done.neutralised, done.rejected, done.rejected_in) == (2, 0, (), None)
    assert read_csv(out)[0] == {"review": "text of p1", "stars": "bad"}
    source = data.read(out)
    checked = data.check(source, data.find_columns(source, task.forms[0].needs, {"text": "review", "label": "stars"}))
    assert [record.target for record in checked.records] == ["bad", "bad"]


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_formula_cells_are_neutralised_in_tables(tmp_path, name):
    row = feedback(1, fields={"text": f"{name}|calc"}, corrected=name, comment=name, by=name)
    done = export_rows([row], find_task("text-classification"), tmp_path / "rows.csv", columns={}, has_details=True)
    (found,) = read_csv(tmp_path / "rows.csv")
    cells = [cell for cell in found.values() if cell.strip().startswith(("=", "+", "-", "@"))]
    assert cells == []
    assert found["text"] == f"'{name}|calc"
    assert done.neutralised >= 2
    export_rows([row], find_task("text-classification"), tmp_path / "rows.jsonl", columns={})
    assert json.loads((tmp_path / "rows.jsonl").read_text())["text"] == f"{name}|calc"


@pytest.mark.parametrize("value", ["-1", "+3.5", "a=b", "", "5 - 3", -1, None])
def test_numbers_and_other_cells_stay(value):
    assert neutral(value) is value


def test_lists_are_json_in_a_tables_cell_and_come_back(tmp_path):
    task = find_task("token-classification")
    rows = [feedback(1, fields={"text": ADA}, corrected=[Span(0, 3, "person")])]
    export_rows(rows, task, tmp_path / "rows.tsv", columns={})
    source = data.read(tmp_path / "rows.tsv")
    checked = data.check(source, data.find_columns(source, task.forms[0].needs, {}), layout=task)
    assert checked.records[0].target == (Span(0, 3, "person"),)


def test_rows_that_cannot_be_used_are_listed_beside_the_export(tmp_path):
    rows = [feedback(1), feedback(2, fields={"text": ""})]
    done = export_rows(rows, find_task("text-classification"), tmp_path / "rows.csv", columns={})
    assert done.rows == 1
    assert done.rejected_in == tmp_path / "rows.csv.rejected.jsonl"
    assert json.loads(done.rejected_in.read_text())["kind"] == "empty-text"


def test_no_file_is_written_over_or_in_another_format(tmp_path):
    task = find_task("text-classification")
    (tmp_path / "rows.csv").write_text("mine")
    with pytest.raises(PlanProblem, match="is there already"):
        export_rows([feedback(1)], task, tmp_path / "rows.csv", columns={})
    with pytest.raises(PlanProblem, match="cannot be written as"):
        export_rows([feedback(1)], task, tmp_path / "rows.xlsx", columns={})
    assert export_rows([feedback(1)], task, tmp_path / "rows.csv", columns={}, may_overwrite=True).rows == 1

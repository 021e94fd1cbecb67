"""The file that asks for several tasks: what stands where, and what is refused."""

from __future__ import annotations

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.training.multi_task.tasks_file import is_tasks_file, read_tasks_file

GOOD = """
model: minilm
epochs: 4
sampling: proportional
alone: yes
out: runs/both
tasks:
  - {name: mood, data: mood.csv, test: /abs/test.csv, label: stars}
  - {data: topics.csv.gz, task: multi-label}
"""


def written(folder, text):
    path = folder / "both.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shared_keys_hold_for_every_task_and_own_ones_for_theirs(tmp_path):
    path = written(tmp_path, GOOD)
    assert is_tasks_file(path)
    found = read_tasks_file(path, {"batch_size": 8})
    assert list(found.recipes) == ["mood", "topics"], "a task without a name is called like its file"
    assert (found.sampling, found.alone, found.name) == ("proportional", True, "both")
    assert found.out == str(tmp_path / "runs/both")
    mood, topics = found.recipes.values()
    assert (mood.epochs, topics.epochs, mood.batch_size) == (4, 4, 8)
    assert (mood.data, mood.test, mood.label) == (str(tmp_path / "mood.csv"), "/abs/test.csv", "stars")
    assert (topics.data, topics.task, topics.label) == (str(tmp_path / "topics.csv.gz"), "multi-label", "")


def test_the_file_that_a_run_keeps_asks_for_the_same(tmp_path):
    found = read_tasks_file(written(tmp_path, GOOD))
    again = read_tasks_file(written(tmp_path, found.text))
    assert again.recipes == found.recipes
    assert (again.sampling, again.alone) == (found.sampling, found.alone)


def test_other_recipes_are_no_such_file(tmp_path):
    assert not is_tasks_file(written(tmp_path, "data: a.csv\ntask: topic\n"))
    assert not is_tasks_file(tmp_path / "gone.yaml")
    assert not is_tasks_file("rows.csv")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("tasks: [{data: a.csv}]", "1 task shares its body with no other"),
        ("tasks: {data: a.csv}", "this file has no list of tasks"),
        ("tasks: [{data: a.csv}, {name: b}]", "entry 2 of tasks names no data"),
        ("tasks: [{data: a.csv}, {data: b/a.csv}]", "two tasks are called 'a'"),
        ("tasks: [{data: a.csv}, {data: b.csv, name: ../b}]", "a task cannot be called '../b'"),
        ("tasks: [{data: a.csv}, {data: b.csv, name: alone}]", "a task cannot be called 'alone'"),
        ("tasks: [{data: a.csv}, {data: b.csv, learning_rate: 0.1}]", "learning_rate belongs to the body that all"),
        ("tasks: [{data: a.csv}, {data: b.csv, colour: red}]", "no recipe key 'colour'"),
        ("test: t.csv\ntasks: [{data: a.csv}, {data: b.csv}]", "test stands at the top"),
        ("method: lora\ntasks: [{data: a.csv}, {data: b.csv}]", "method 'lora' keeps what it learns beside the body"),
        ("budget: 5m\ntasks: [{data: a.csv}, {data: b.csv}]", "budget has no place here"),
        ("r_drop: 1\ntasks: [{data: a.csv}, {data: b.csv}]", "r_drop has no place here"),
        ("sampling: often\ntasks: [{data: a.csv}, {data: b.csv}]", "sampling is 'often'"),
        ("alone: maybe\ntasks: [{data: a.csv}, {data: b.csv}]", "alone is 'maybe'"),
        ("x: &a [1]\ntasks: [*a, *a]", "repeats parts of itself by aliases"),
        ("tasks: [{data: a.csv}", "this file is not YAML"),
    ],
    ids=range(16),
)
def test_what_makes_no_sense_is_refused(tmp_path, text, what):
    with pytest.raises(PlanProblem) as caught:
        read_tasks_file(written(tmp_path, text))
    assert what in str(caught.value)
    assert caught.value.do

"""Self-training and suggestions for every task that they serve; the others decline with a reason."""

from __future__ import annotations

import importlib
import json

import pytest

import toy_world
import tunesmith
from tunesmith.bundle.suggest import suggest
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.tasks import TASKS, find_task
from tunesmith.training.prepare import prepare
from tunesmith.training.pseudo_account import DETAIL
from tunesmith.training.pseudo_labels import why_not
from tunesmith.training.recipe import make_recipe

SERVED = [task for task in TASKS if why_not(find_task(task)) is None]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_tasks_with_labels_are_served():
    assert set(SERVED) == {
        "text-classification",
        "text-pair",
        "relation-extraction",
        "multi-label-classification",
        "token-classification",
    }


@pytest.mark.slow
@pytest.mark.parametrize("task", SERVED)
def test_it_learns_from_its_own_answers_and_suggests_rows(toy_base, tmp_path, task):
    toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
    every = toy.rows("train", 110)
    targets = {role for form in find_task(task).forms for role in form.targets}
    bare = [{name: value for name, value in row.items() if name not in targets} for row in every[50:]]
    run = tunesmith.train(
        write_rows(tmp_path / "few.jsonl", every[:50]),
        **{
            **toy.OPTIONS,
            "task": task,
            "model": str(toy_base),
            "valid": write_rows(tmp_path / "valid.jsonl", toy.rows("valid", 20)),
            "test": write_rows(tmp_path / "test.jsonl", toy.rows("test", 30)),
            "epochs": 4,
            "threads": 1,
            "unlabelled": write_rows(tmp_path / "pool.jsonl", bare),
            "pseudo_confidence": 0.05,
            "out": str(tmp_path / "run"),
        },
    )
    (told,) = run.gain.after.details[DETAIL]["rounds"]
    assert told["rows"] > 5
    assert "difference" in told
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["data"]["files"]["data"]
    fresh = write_rows(tmp_path / "fresh.jsonl", toy.rows("train", 200)[120:])
    for by in ("both", "uncertainty", "diversity"):
        assert len({each.row for each in suggest(run, fresh, count=5, by=by).rows}) == 5
    with pytest.raises(DataProblem, match=r"no row of 30 is new: .*in test file"):
        suggest(run, tmp_path / "test.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "contrastive", "pet", "prefix"])
def test_methods_that_learn_serve(toy_options, tmp_path, method):
    pool = tmp_path / "pool.csv"
    toy_world.write_csv(pool, toy_world.rows(60, seed=61))
    options = {**toy_options, "method": method, "epochs": 2, "threads": 1, "unlabelled": str(pool)}
    run = tunesmith.train(**options, pseudo_confidence=0.34, out=str(tmp_path / "run"))
    (told,) = run.gain.after.details[DETAIL]["rounds"]
    assert told["rows"] > 5
    fresh = toy_world.write_csv(tmp_path / "new.csv", toy_world.rows(20, seed=71))
    assert len(suggest(run, fresh, count=3, by="uncertainty").rows) == 3
    if method == "pet":
        with pytest.raises(PlanProblem, match="no one state for each row"):
            suggest(run, fresh, count=3)
    else:
        assert len(suggest(run, fresh, count=3).rows) == 3


def test_unlabelled_rows_of_a_plain_run_are_refused_with_what_to_do(toy_options, tmp_path):
    """A search or a comparison makes runs that cannot train twice."""
    pool = toy_world.write_csv(tmp_path / "pool.csv", toy_world.rows(6, seed=61))
    with pytest.raises(PlanProblem, match="by a run of its own, which trains twice"):
        prepare(make_recipe({**toy_options, "unlabelled": str(pool)}))

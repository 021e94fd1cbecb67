"""Every task that does not write is exported, and answers as before."""

from __future__ import annotations

import json

import exports
import pytest

import toy_world
from tunesmith.bundle.export import export
from tunesmith.bundle.kept_rows import measuring_rows
from tunesmith.bundle.load import load
from tunesmith.errors import BundleProblem
from tunesmith.tasks import TASKS
from tunesmith.types import to_json

ASKED = [
    *((task, {}) for task in exports.TASKS),
    *((task, {"encoder": "bi"}) for task in ("text-pair", "text-similarity")),
    ("text-classification", {"method": "lora", "merge": "no"}),
]


def names(value):
    return "-".join(value.values()) if isinstance(value, dict) else value


def same(one, other) -> bool:
    """Whether two answers agree, numbers nearly: what comes after a score of the toys may be steep."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == pytest.approx(other, abs=2e-3, rel=2e-3) if isinstance(one, float) else one == other


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_world.make_base(tmp_path_factory.mktemp("base") / "toy", steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize(("task", "options"), ASKED, ids=names)
def test_it_answers_as_torch_does(task, options, engine, base, tmp_path):
    run = exports.train_small(tmp_path, task, base, **options).path
    made = export(run, engine=engine, threads=1)
    assert made.chosen == engine
    mine, theirs = load(run), load(run, engine="torch")
    records = measuring_rows(mine)
    assert same(*([to_json(one.value) for one in run.predictions(records)] for run in (mine, theirs)))
    together = [to_json(one.value) for one in mine.predictions(records[:4])]
    assert same(together, [to_json(next(iter(mine.predictions([one]))).value) for one in records[:4]])
    assert mine.score(records).value == pytest.approx(theirs.score(records).value, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(set(TASKS) - set(exports.TASKS)))
def test_tasks_that_write_decline(task, toy_run, tmp_path):
    import shutil

    run = shutil.copytree(toy_run.path, tmp_path / "run")
    for name in ("bundle.json", "plan.json"):
        content = json.loads((run / name).read_text(encoding="utf-8"))
        (run / name).write_text(json.dumps({**content, "task": task}), encoding="utf-8")
    from tunesmith.bundle.candidates import why_not

    reason = why_not(load(run, verify=False), "none")
    assert isinstance(reason, BundleProblem)
    assert reason.what == f"runs of task {task} answer in words, token after token; only torch can run them"

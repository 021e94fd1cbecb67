"""One model made of an ensemble: an ordinary run that learnt what the members say together, measured against them."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest

import toy_world
import tunesmith
from noisy_members import noisy_copies
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.ensemble import Wishes, make_ensemble
from tunesmith.bundle.load import load
from tunesmith.cli import main
from tunesmith.compression import measured
from tunesmith.compression.from_ensemble import Lessons, demand_teachable, distil_ensemble
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.training.teacher import Teacher

QUICK = {"epochs": 1, "batch_size": 32, "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def one_round():
    """Time everything once: how fast a toy is does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "_ROUNDS", 1)
        patch.setattr(measured, "_ROWS_ALONE", 3)
        yield


@pytest.fixture(scope="module")
def runs(toy_run, tmp_path_factory):
    return noisy_copies(toy_run.path, tmp_path_factory.mktemp("members"), 2)


@pytest.fixture(scope="module")
def made(runs):
    return make_ensemble(runs, Wishes(out=str(runs[0].parent / "together")))


def test_the_student_is_an_ordinary_run_with_a_lineage(made, toy_data):
    found = distil_ensemble(made, Lessons({"epochs": 2, "threads": 1}, command="tunesmith ensemble a b --distil"))
    assert found.folder == made.bundle.path.with_name("together-distilled")
    assert find_damage(found.folder) == []
    student = load(found.folder)
    assert student.ensemble is None
    assert student.plan.parent == made.bundle.id == student.plan.options["teacher"]
    assert student.plan.options["teacher_temperature"] == 2.0
    assert [step.name for step in found.steps] == ["the ensemble", "member-0", "member-1", "distilled"]
    assert all(step.scores.n == 90 for step in found.steps)
    assert found.steps[0].scores.value == made.after.value
    assert found.steps[-1].difference.n == 90
    assert found.steps[0].file_mib == pytest.approx(found.steps[1].file_mib + found.steps[2].file_mib)
    lineage = json.loads((found.folder / "compression.json").read_text(encoding="utf-8"))
    assert lineage["parent"] == made.bundle.id
    assert [step["name"] for step in lineage["steps"]] == ["the ensemble", "distilled"]
    assert student.predict("a1 a2 a3")[0].value in student.labels


def test_an_ensemble_teaches_what_it_answers(made, toy_options):
    """The lessons are the ensemble's own answers, also to a model that reads texts in another way."""
    job = prepare(make_recipe({**toy_options, **QUICK, "teacher": str(made.bundle.path)}))
    examples = list(job.examples["train"])[:9]
    teacher = Teacher(load(made.bundle.path), reads_same_tokens=False)
    lessons = np.concatenate([lesson.logits_UL for lesson in teacher.lessons(examples)])
    wanted = load(made.bundle.path).answer([example.record for example in examples])
    assert np.allclose(lessons, wanted, atol=1e-5)
    assert "states are not learnt from: the teacher is an ensemble" in job.remarks


@pytest.mark.slow
def test_the_command_makes_both_and_says_where(runs, tmp_path, capsys):
    more = toy_world.write_csv(
        tmp_path / "more.csv", [(text, "") for text, _ in toy_world.rows(12, seed=71)], ("text", "note")
    )
    settings = ["epochs=1", "threads=1", "method=top-layers", f"unlabelled={more}"]
    out = tmp_path / "both"
    given = [item for pair in settings for item in ("--set", pair)]
    assert main(["ensemble", *map(str, runs), "--by", "stacked", "--out", str(out), "--distil", *given, "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["run"] == str(tmp_path / "both-distilled")
    assert document["ensemble"]["folder"] == str(out)
    assert document["ensemble"]["rows"] == {"test": 90, "valid": 45, "left_out": {}}
    student = load(tmp_path / "both-distilled")
    assert student.plan.method == "top-layers"
    assert student.plan.options["unlabelled"]["rows"] == 12
    assert f"ensemble {out}" in printed.err
    assert "the ensemble" in printed.err


def test_the_command_alone_prints_members_and_ensemble(runs, tmp_path, capsys):
    out = tmp_path / "alone"
    assert main(["ensemble", *map(str, runs), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.replace(str(out), "").splitlines())) <= 80
    assert "90 rows that no member has learnt from" in text
    assert f"run      {out}" in text
    assert main(["predict", str(out), "a1 a2 a3"]) == 0
    assert main(["ensemble", *map(str, runs), "--set", "epochs=1"]) == 2
    assert "--set is for --distil" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("task", ["token-classification", "multi-label-classification"])
def test_other_tasks_are_distilled_too(task, toy_base, tmp_path):
    toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
    files = {}
    for part, count in (("data", 48), ("valid", 24), ("test", 24)):
        rows = toy.rows("train" if part == "data" else part, count)
        files[part] = tmp_path / f"{part}.jsonl"
        files[part].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {**{part: str(path) for part, path in files.items()}, "task": task, "model": str(toy_base)}
    options |= {**QUICK, "batch_size": 8, "epochs": 4}
    runs = [tunesmith.train(**options, seed=seed, out=str(tmp_path / f"s{seed}")).path for seed in (0, 1)]
    both = make_ensemble(runs, Wishes(out=str(tmp_path / "both")))
    found = distil_ensemble(both, Lessons({"epochs": 8, "threads": 1, "batch_size": 8}))
    assert load(found.folder).plan.task == task
    assert found.steps[-1].scores.value > 0.7 * both.after.value


def test_answers_that_cannot_be_softened_are_not_distilled(made):
    import dataclasses

    task = find_task("multiple-choice")
    choosing = dataclasses.replace(made.bundle, own_task=task)
    with pytest.raises(PlanProblem, match="task multiple-choice has no answers over labels") as caught:
        demand_teachable(choosing)
    assert caught.value.do == "use the ensemble as it is, or its best member"

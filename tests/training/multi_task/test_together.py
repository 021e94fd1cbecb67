"""Several tasks on one body: one training, an ordinary run for each, the same bits after a stop."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

import toy_world
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.evaluate import evaluate
from tunesmith.bundle.load import load
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.tasks import find_task
from tunesmith.training.multi_task.plan import seen_elsewhere
from tunesmith.training.multi_task.run import prepare_together, resume_together
from tunesmith.training.multi_task.shared_body import WHICH, Joined
from tunesmith.training.multi_task.tasks_file import read_tasks_file

TASKS = ("text-classification", "token-classification", "multiple-choice")


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Rows of three tasks, of unlike sizes."""
    folder = tmp_path_factory.mktemp("rows")
    found = []
    for task, count in zip(TASKS, (96, 60, 48), strict=True):
        toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
        entry = {"name": task.split("-")[0], "task": task}
        for part, number in (("data", count), ("valid", 24), ("test", 36)):
            rows = toy.rows("train" if part == "data" else part, number)
            path = folder / f"{task}-{part}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            entry[part] = str(path)
        found.append(entry)
    return found


@pytest.fixture(scope="module")
def asked(entries, toy_base, tmp_path_factory):
    """Give a file of tasks, with shared keys of choice."""
    folder = tmp_path_factory.mktemp("files")

    def make(name, tasks=entries, **shared):
        content = {"model": str(toy_base), "threads": 1, "batch_size": 16, "patience": 10, **shared, "tasks": tasks}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="module")
def together(asked, entries, tmp_path_factory):
    out = {"out": str(tmp_path_factory.mktemp("both") / "run")}
    found = prepare_together(read_tasks_file(asked("both", entries[:2], epochs=5), out))
    list(found.run())
    return found


def test_the_bodies_are_one(asked):
    found = prepare_together(read_tasks_file(asked("bodies", epochs=1)))
    first, *others = (job.model for job in found.jobs.values())
    for other in others:
        assert other.base_model.encoder is first.base_model.encoder
        assert other.base_model.embeddings is first.base_model.embeddings
        assert other.classifier is not first.classifier
    names = [name for name, _ in found.model.named_parameters()]
    assert len(names) == len(set(names))
    shared = sum(parameter.numel() for parameter in found.model.base_model.parameters())
    heads = sum(job.model.num_parameters() for job in found.jobs.values())
    whole = sum(parameter.numel() for parameter in found.model.parameters())
    assert whole < heads < 3 * shared + whole, "the body counts once"


def check(folder, entry, bar):
    """Check that the folder is a whole run of the task, which has learnt it."""
    assert find_damage(folder) == []
    bundle = load(folder)
    assert bundle.plan.task == entry["task"]
    assert bundle.gain.after.value >= bar
    assert bundle.gain.baselines, "each has the baselines of its own task"
    assert evaluate(bundle, entry["test"]).scores.value == pytest.approx(bundle.gain.after.value)
    lineage = json.loads((folder / "together.json").read_text(encoding="utf-8"))
    assert entry["name"] in lineage["tasks"]
    assert "# trained together" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    log = (folder / "log.jsonl").read_text(encoding="utf-8")
    assert f'"{bundle.plan.options["select_by"]}"' in log, "its own validation scores under their own names"


def test_each_task_learns_and_is_a_run_of_its_own(together, entries):
    check(together.folder / "text", entries[0], 0.9)
    check(together.folder / "token", entries[1], 0.75)


def test_the_saved_bodies_are_the_same_bits(together):
    bundles = [load(together.folder / name).model for name in ("text", "token")]
    first = bundles[0].base_model.encoder.state_dict()
    for other in bundles[1:]:
        assert all(torch.equal(first[name], tensor) for name, tensor in other.base_model.encoder.state_dict().items())
    assert not (together.folder / "plan.json").exists()
    assert not (together.folder / "checkpoints").exists()
    summary = json.loads((together.folder / "summary.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in summary["tasks"]] == ["text", "token"]
    roots = [len(job.examples["train"]) ** 0.5 for job in together.jobs.values()]
    assert list(summary["shares"].values()) == pytest.approx([root / sum(roots) for root in roots])
    page = (together.folder / "report.html").read_text(encoding="utf-8")
    assert 'href="token/report.html"' in page


def test_texts_that_another_task_learns_from_are_told_of():
    def job(train, test):
        parts = {"train": train, "test": test}
        rows = {part: [SimpleNamespace(fields={"text": text}) for text in texts] for part, texts in parts.items()}
        return SimpleNamespace(intake=SimpleNamespace(task=find_task("topic"), splits=SimpleNamespace(**rows)))

    said = seen_elsewhere({"one": job(["a", "b"], ["c", "D "]), "other": job(["d", "c", "x"], ["y"])})
    assert said == [
        "2 of 2 test rows of one have texts that other learns from, with labels of its own; to be strict, give both "
        "tasks test files with the same texts"
    ]


def test_a_step_is_of_one_task_and_reaches_its_head_and_the_body_alone(asked):
    found = prepare_together(read_tasks_file(asked("step", epochs=1)))
    joined = Joined([job.examples["train"] for job in found.jobs.values()])
    rows = next(rows for rows in found.objective.epoch_steps(joined, 16, seed=0, epoch=0) if joined[rows[0]].which == 1)
    assert {joined[row].which for row in rows} == {1}
    batch = found.objective.batch([joined[row] for row in rows], None)
    assert int(batch[WHICH]) == 1
    found.objective.loss(found.model, batch).backward()
    learnt = [job.model.classifier.weight.grad is not None for job in found.jobs.values()]
    assert learnt == [False, True, False]
    assert next(found.model.shared["encoder"].parameters()).grad is not None
    own = found.objective.parts[1].task
    rest = {name: tensor for name, tensor in batch.items() if name != WHICH}
    assert found.objective.weight(batch) == own.weight(rest)


def trained(together):
    """Train and leave off before anything is measured; give the weights."""
    for event in together.run():
        if event.text.startswith("measuring"):
            break
    return {name: tensor.clone() for name, tensor in together.model.state_dict().items()}


def test_a_run_that_was_stopped_ends_with_the_same_bits(asked, entries, tmp_path):
    path = asked("stopped", entries[:2], epochs=2)
    whole = trained(prepare_together(read_tasks_file(path, {"out": str(tmp_path / "whole")})))
    broken = prepare_together(read_tasks_file(path, {"out": str(tmp_path / "broken")}))
    asked_for = iter(range(1000))
    with pytest.raises(Stopped):
        list(broken.run(lambda: 15 if next(asked_for) > 12 else 0))
    with pytest.raises(BundleProblem, match="this run is not finished"):
        load(tmp_path / "broken")
    again = resume_together(tmp_path / "broken")
    assert any(remark.startswith("going on from step") for remark in again.remarks)
    found = trained(again)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())


@pytest.mark.slow
def test_a_run_that_was_left_off_before_measuring_is_measured_when_it_goes_on(asked, entries, tmp_path, capsys):
    path = asked("left", entries[:2], epochs=1)
    first = prepare_together(read_tasks_file(path, {"out": str(tmp_path / "left")}))
    weights = trained(first)
    (tmp_path / "left" / "text").mkdir()  # as if killed in the middle of writing
    (tmp_path / "left" / "text" / "config.json").write_text("{}", encoding="utf-8")
    assert main(["train", "--resume", str(tmp_path / "left"), "--epochs", "2"]) == 2
    assert "without other options" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "left")]) == 0
    assert "going on from step" in capsys.readouterr().out
    assert find_damage(tmp_path / "left" / "text") == []
    kept = load(tmp_path / "left" / "token").model.base_model.encoder.state_dict()
    assert all(torch.equal(tensor, weights[f"shared.encoder.{name}"]) for name, tensor in kept.items())


@pytest.mark.slow
def test_each_may_be_trained_alone_too_and_compared(asked, entries, tmp_path, capsys):
    path = asked("alone", epochs=6, alone=True)
    out = tmp_path / "all"
    assert main(["train", str(path), "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [outcome["name"] for outcome in document["tasks"]] == ["text", "token", "multiple"]
    for outcome, entry in zip(document["tasks"], entries, strict=True):
        check(out / outcome["name"], entry, 0.8)
        alone = load(out / "alone" / outcome["name"])
        assert outcome["alone"]["values"][outcome["scores"]["main"]] == alone.gain.after.value
        difference = outcome["scores"]["values"][outcome["scores"]["main"]] - alone.gain.after.value
        assert outcome["difference"]["value"] == pytest.approx(difference)
    assert "Alone" in (out / "report.html").read_text(encoding="utf-8")
    with pytest.raises(BundleProblem, match="each of its tasks is a run folder of its own"):
        resume_together(out)


def test_a_dry_run_shows_the_plan_and_writes_nothing(asked, entries, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(asked("dry", entries[:2], epochs=1)), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "text (text-classification)" in text
    assert "one body" in text
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_share_a_body_says_why(asked, entries, tmp_path):
    rows = tmp_path / "pairs.jsonl"
    rows.write_text(
        "".join(json.dumps({"source": text, "target": label}) + "\n" for text, label in toy_world.rows(30, seed=1)),
        encoding="utf-8",
    )
    writing = {"name": "writing", "data": str(rows), "task": "translation"}
    with pytest.raises(PlanProblem):
        prepare_together(read_tasks_file(asked("writing", [entries[0], writing], epochs=1)))
    pairs = importlib.import_module("toys.text_pair").rows("train", 60)
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    apart = {"name": "apart", "data": str(rows), "task": "text-pair", "encoder": "bi"}
    with pytest.raises(PlanProblem, match="task 'apart' cannot share a body"):
        prepare_together(read_tasks_file(asked("apart", [entries[0], apart], epochs=1)))


def test_examples_of_all_tasks_stand_one_task_after_the_other(together):
    joined = Joined([job.examples["valid"] for job in together.jobs.values()])
    assert len(joined) == 48 == len(joined.lengths)
    assert [joined[row].which for row in (0, 23, 24, 47)] == [0, 0, 1, 1]
    assert joined.lengths == [one.length for one in joined]
    assert np.array_equal([one.which for one in joined[22:26]], [0, 0, 1, 1])

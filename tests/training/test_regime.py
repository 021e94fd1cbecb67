"""Regimes as a whole: refused where they cannot be, learning where they can, and resumed to the bit."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import toy_world
import tunesmith
from tunesmith.cli.tables import plan_lines, render
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.methods import find_method
from tunesmith.tasks import find_task
from tunesmith.tasks.batching import epoch_steps, fill
from tunesmith.tasks.losses import balanced_weights
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.training.as_planned import as_planned
from tunesmith.training.checkpoint import newest_whole
from tunesmith.training.job import Job
from tunesmith.training.loop import training_events
from tunesmith.training.material import Material
from tunesmith.training.optimizers import OPTIMIZERS
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import Recipe, make_recipe
from tunesmith.training.regime_options import changed_keys, default_rate, has_dropout, read_weights, regime_options

QUICK = {"epochs": 1, "checkpoint_seconds": 0, "threads": 1, "eval_steps": 4}
REGIMES = {
    "adafactor": {"optimizer": "adafactor", "schedule": "cosine", "layer_decay": 0.8},
    "sgd": {"optimizer": "sgd", "unfreeze": "epoch", "averaging": "swa", "swa_share": 0.5},
    "lion": {"optimizer": "lion", "schedule": "inverse-sqrt", "averaging": "ema"},
    "bent": {"unfreeze": "even", "label_smoothing": 0.1, "class_weights": "balanced", "schedule": "constant"},
    "lora": {"method": "lora", "adversarial": "fgm", "r_drop": 1.0, "focal_gamma": 1.0, "unfreeze": "even"},
    "freelb": {"method": "top-layers", "adversarial": "freelb", "averaging": "ema", "batch_tokens": 60},
}

TRIED_FIRST = {"sgd", "lora"}


def job_of(options, **more) -> Job:
    return prepare(make_recipe({**options, **QUICK, **more}))


def run(job: Job, folder: Path, *, until: int | None = None, stop_signal=lambda: 0) -> dict[str, torch.Tensor]:
    """Train into `folder`, going on where it stands; leave at the checkpoint of step `until`, as a kill would."""
    part = job.examples
    labels, task = job.plan.labels, job.intake.task
    material = Material(task, job.model, job.tokenizer, part["train"], part["valid"], labels, anatomy=job.anatomy)
    checkpoint, _ = newest_whole(folder) if folder.exists() else (None, [])
    with as_planned(job.plan) as accelerator:
        events = training_events(
            job.plan, material, folder, accelerator, checkpoint=checkpoint, stop_signal=stop_signal
        )
        for event in events:
            if event.kind == "checkpoint" and event.step == until:
                events.close()
                break
    return {name: tensor.clone() for name, tensor in job.model.state_dict().items()}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in TRIED_FIRST else [pytest.mark.slow]) for name in REGIMES]
)
def test_a_run_that_was_broken_off_ends_with_the_same_bits(toy_options, tmp_path, name):
    whole = run(job_of(toy_options, **REGIMES[name]), tmp_path / "whole")
    step = random.Random(name).randint(2, 7)
    run(job_of(toy_options, **REGIMES[name]), tmp_path / "broken", until=step)
    job = job_of(toy_options, **REGIMES[name])
    assert job.plan.steps == 8
    resumed = run(job, tmp_path / "broken")
    assert whole.keys() == resumed.keys()
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


@pytest.mark.parametrize("name", ["ema", pytest.param("swa", marks=pytest.mark.slow)])
def test_what_is_kept_is_the_average_that_was_evaluated(toy_options, tmp_path, name):
    job = job_of(toy_options, averaging=name, patience=99)
    kept = run(job, tmp_path / "run")
    found, _ = newest_whole(tmp_path / "run")
    best = tmp_path / "run" / f"step-{found.state['best_step']:08d}"
    weights, average = (load_file(best / f"{which}.safetensors") for which in ("weights", "average"))
    assert all(torch.equal(kept[key], tensor) for key, tensor in average.items())
    assert any(not torch.equal(average[key], weights[key]) for key in average)
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels, "batch_tokens": 4096}
    scores = job.intake.task.evaluate(job.model.eval(), job.examples["valid"], **settings)
    assert scores["loss"] == pytest.approx(found.state["best_loss"], rel=1e-5)
    if name == "swa":
        assert found.state["best_step"] >= 7, "steps before the last quarter are not averaged, and never the result"


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "adafactor"},
        {"optimizer": "sgd"},
        {"optimizer": "lion"},
        {"layer_decay": 0.7, "schedule": "cosine"},
        {"unfreeze": "even"},
        {"label_smoothing": 0.1, "class_weights": "animal=2"},
        {"r_drop": 1.0},
        {"adversarial": "fgm"},
        {"averaging": "ema"},
    ],
    ids=lambda change: "-".join(change),
)
def test_it_reaches_what_pretraining_knew(toy_options, tmp_path, change):
    job = job_of(toy_options, epochs=6, checkpoint_seconds=1000, eval_steps=48, **change)
    run(job, tmp_path / "run")
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels, "batch_tokens": 4096}
    assert job.intake.task.evaluate(job.model, job.examples["test"], **settings)["accuracy"] >= 0.9


def test_a_signal_is_heard_between_fills_and_the_broken_step_is_made_again(toy_options, tmp_path, monkeypatch):
    options = {"batch_tokens": 80, "averaging": "ema"}
    whole = run(job_of(toy_options, **options), tmp_path / "whole")
    job = job_of(toy_options, **options)
    lengths = [example.length for example in job.examples["train"]]
    counts = [len(fill(rows, lengths, 80)) for rows in epoch_steps(lengths, 16, seed=0, epoch=0)]
    assert min(counts[:3]) > 1
    passes = []
    real = TextClassification.loss
    monkeypatch.setattr(TextClassification, "loss", lambda *given: passes.append(1) or real(*given))

    def heard_once() -> int:
        is_inside = len(passes) == sum(counts[:2]) + 1  # one fill of the third step is done
        return 15 if is_inside and not passes.append(1) else 0  # a signal may be told only once

    with pytest.raises(Stopped) as caught:
        run(job, tmp_path / "broken", stop_signal=heard_once)
    assert caught.value.what == "stopped by signal 15 at step 2 of 8; all is saved"
    found, _ = newest_whole(tmp_path / "broken")
    assert found is not None
    assert found.step == 2
    resumed = run(job_of(toy_options, **options), tmp_path / "broken")
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []


def test_balanced_weights_stand_in_the_plan(toy_options, tmp_path):
    rows = toy_world.rows(120, seed=1)
    few = [row for row in rows if row[1] == "animal"][:10] + [row for row in rows if row[1] != "animal"]
    data = toy_world.write_csv(tmp_path / "few.csv", few)
    job = job_of(toy_options, data=str(data), class_weights="balanced")
    counts = [sum(label == name for _, label in few) for name in job.plan.labels]
    assert job.plan.options["class_weights"] == balanced_weights(counts, len(few), is_binary=False)
    assert job.plan.options["class_weights"][0] == pytest.approx(90 / 30)


def test_the_rate_suits_the_optimizer(toy_job):
    method, anatomy = find_method("full"), toy_job.anatomy
    rates = {name: default_rate(Recipe(optimizer=name), method, anatomy, toy_job.model) for name in OPTIMIZERS}
    assert rates["adamw"] == method.default_learning_rate(anatomy)
    assert rates["lion"] == pytest.approx(rates["adamw"] / 3)
    assert max(rates.values()) <= 10


REFUSED = {
    "method": (
        {"method": "adalora", "averaging": "ema"},
        "method 'adalora' takes parts of what it learns away while it trains; an average of the weights would bring "
        "them back",
    ),
    "two shapes": (
        {"label_smoothing": 0.1, "focal_gamma": 2},
        "label_smoothing asks the model to be less sure and focal_gamma weighs answers by how sure they are: no "
        "published loss has both",
    ),
    "no such kind": ({"adversarial": "fgsm"}, "adversarial is 'fgsm'"),
    "no such average": ({"averaging": "mean"}, "averaging is 'mean'"),
    "no such label": ({"class_weights": "cat=2"}, "class_weights names 'cat', which is no label here"),
    "no weights": ({"class_weights": "heavy"}, "class_weights is 'heavy'"),
}


@pytest.fixture(scope="module")
def toy_job(toy_options):
    return job_of(toy_options)


def decided(job: Job, **change):
    """Give the plan's entries for the regime of a changed recipe."""
    recipe = dataclasses.replace(job.recipe, **change)
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels}
    method = find_method(recipe.method)
    return regime_options(
        recipe,
        job.intake.task,
        method,
        model=job.model,
        anatomy=job.anatomy,
        train=job.examples["train"],
        **settings,
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_a_reason(toy_job, name):
    change, what = REFUSED[name]
    with pytest.raises(PlanProblem) as caught:
        decided(toy_job, **change)
    assert caught.value.what == what
    assert caught.value.where in change
    assert caught.value.do


def test_two_passes_without_dropout_are_refused(toy_job):
    assert decided(toy_job, r_drop=1.0)["r_drop"] == 1.0
    assert has_dropout(toy_job.model)
    still = copy.deepcopy(toy_job.model)
    still.config.hidden_dropout_prob = 0.0
    for part in still.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    assert not has_dropout(still)
    with pytest.raises(PlanProblem, match="r_drop compares two passes with other dropout"):
        decided(dataclasses.replace(toy_job, model=still), r_drop=1.0)


def test_the_plan_says_what_is_unusual_and_what_never_learns(toy_job, toy_options):
    assert changed_keys(toy_job.plan.options) == {}
    job = job_of(toy_options, optimizer="lion", unfreeze="epoch")
    assert changed_keys(job.plan.options) == {"optimizer": "lion", "unfreeze": "epoch"}
    assert job.remarks == [
        "unfreeze=epoch frees one level with each epoch: in 1 of them the lowest 3 of 4 levels never learn; "
        "unfreeze=even reaches them all"
    ]
    shown = render(plan_lines(job.plan, job.intake.inspection, (), base="toy"))
    assert "optimizer lion, unfreeze epoch" in shown
    assert "regime" not in render(plan_lines(toy_job.plan, toy_job.intake.inspection, (), base="toy"))


def test_a_task_without_labels_to_choose_from_declines(toy_job):
    similar = dataclasses.replace(
        toy_job, intake=dataclasses.replace(toy_job.intake, task=find_task("text-similarity"))
    )
    with pytest.raises(PlanProblem) as caught:
        decided(similar, label_smoothing=0.1)
    assert str(caught.value) == (
        "PlanProblem: label_smoothing does not fit task text-similarity: its loss is not one of chosen labels\n"
        "  where: label_smoothing\n  do:    leave label_smoothing out of the recipe"
    )


def test_a_loss_of_its_own_is_not_bent(toy_job, monkeypatch):
    real = TextClassification.loss
    monkeypatch.setattr(TextClassification, "loss", lambda self, model, batch: 2 * real(self, model, batch))
    with pytest.raises(PlanProblem, match="what this method learns from is another loss"):
        decided(toy_job, label_smoothing=0.1)


def test_weights_are_read_as_pairs_or_json():
    assert read_weights("spam=3, ham=0.5") == {"spam": 3.0, "ham": 0.5}
    assert read_weights('{"a, b=c": 2}') == {"a, b=c": 2.0}
    assert make_recipe({"class_weights": {"a, b": 2}}).class_weights == '{"a, b": 2}'
    for wrong in ("spam", "spam=much", "{", "[1]"):
        with pytest.raises(PlanProblem, match="class_weights is"):
            read_weights(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "keys"),
    [
        ("token-classification", {"class_weights": "balanced", "label_smoothing": 0.1, "r_drop": 1.0}),
        ("multi-label-classification", {"class_weights": "balanced", "focal_gamma": 2.0, "r_drop": 1.0}),
        ("relation-extraction", {"class_weights": "balanced", "adversarial": "pgd", "adversarial_steps": 2}),
        ("text-pair", {"label_smoothing": 0.1, "adversarial": "freelb", "encoder": "bi"}),
        ("translation", {"label_smoothing": 0.1, "r_drop": 1.0, "adversarial": "fgm"}),
        ("text-generation", {"label_smoothing": 0.1, "adversarial": "fgm", "averaging": "ema"}),
        ("multiple-choice", {"adversarial": "pgd", "averaging": "swa"}),
        ("question-answering", {"adversarial": "freelb", "unfreeze": "even", "optimizer": "lion"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_tasks_of_every_kind_learn_with_a_regime(task, keys, tmp_path):
    toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
    make = {"encoder": "make_base", "causal": "make_causal_base", "seq2seq": "make_seq2seq_base"}[toy.BASE]
    base = getattr(toy_world, make)(tmp_path / "base", steps=0)
    files = {}
    for part, count in (("data", 60), ("valid", 20), ("test", 20)):
        files[part] = str(tmp_path / f"{part}.jsonl")
        rows = toy.rows("train" if part == "data" else part, count)
        Path(files[part]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = job_of({**toy.OPTIONS, **files, "task": task, "model": str(base)}, **keys)
    before = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    after = run(job, tmp_path / "run")
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())


@pytest.mark.slow
def test_bfloat16_works_with_all_passes(toy_options, tmp_path):
    keys = {"adversarial": "pgd", "r_drop": 1.0, "averaging": "ema", "mixed_precision": "bf16", "epochs": 4}
    job = job_of(toy_options, **keys)
    run(job, tmp_path / "run")
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels, "batch_tokens": 4096}
    assert job.intake.task.evaluate(job.model, job.examples["valid"], **settings)["accuracy"] >= 0.9


@pytest.mark.slow
def test_two_processes_give_what_one_gives(toy_options, tmp_path):
    keys = {"adversarial": "pgd", "averaging": "ema", "unfreeze": "even", "dropout": 0, "batch_tokens": 80}
    options = {**toy_options, **QUICK, "epochs": 2, **keys}
    one = tunesmith.train(**options, out=str(tmp_path / "one"))
    sets = [f"--set={name}={value}" for name, value in options.items() if name != "data"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tunesmith", "train"]
    command = [*launch, str(options["data"]), *sets, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "MASTER_PORT": "0"})
    assert done.returncode == 0, done.stderr
    weights, others = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-4
    assert one.gain.after.n == tunesmith.load(tmp_path / "two").gain.after.n

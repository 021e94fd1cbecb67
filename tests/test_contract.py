"""One battery for every task and method in the catalogues. A task comes with a toy (tests/toys) and no test of its own.

A toy's test rows use words that no label ever touched: only what pretraining knew of them can answer.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import toy_world
from tunesmith import data
from tunesmith.bundle.load import load
from tunesmith.errors import TunesmithError
from tunesmith.methods import METHODS, find_method, is_trained
from tunesmith.metrics import LOWER_IS_BETTER
from tunesmith.models.build import read_config
from tunesmith.models.find import hash_file
from tunesmith.tasks import TASKS, find_task
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe
from tunesmith.types import to_json

# All tests of one task share its base model and its run: they belong to one process.
EVERY_TASK = [pytest.param(task, marks=pytest.mark.xdist_group(task)) for task in TASKS]
# What needs several whole runs is asked of these in the quick suite, and of all tasks in the slow one.
_QUICK = {"text-classification", "token-classification", "question-answering", "translation"}
ONE_TASK_OF_EACH_KIND = [
    pytest.param(task, marks=[pytest.mark.xdist_group(task), *([] if task in _QUICK else [pytest.mark.slow])])
    for task in TASKS
]
WRITING = [
    pytest.param(task, marks=pytest.mark.xdist_group(task)) for task in TASKS if hasattr(find_task(task), "stream")
]
TRIED_FIRST = {"text-classification", "token-classification", "translation", "text-generation"}  # one of each kind
PAIRS = [
    pytest.param(
        task, method, marks=[pytest.mark.xdist_group(task), *([] if task in TRIED_FIRST else [pytest.mark.slow])]
    )
    for task in TASKS
    for method in METHODS
    if method != "full"
]
ROWS = {"train": 120, "valid": 45, "test": 60}


def toy_of(task: str) -> Any:
    """Give the toy of a task; a task without one has no place in the catalogue."""
    return importlib.import_module(f"toys.{task.replace('-', '_')}")


@pytest.fixture(scope="session")
def base_of(tmp_path_factory):
    """Give the toy's base model of a kind, pretrained or as it was drawn; each is made once."""
    makers = {"encoder": "make_base", "causal": "make_causal_base", "seq2seq": "make_seq2seq_base"}

    @functools.cache
    def make(kind: str, is_pretrained: bool = True) -> Path:
        folder = tmp_path_factory.mktemp("bases") / f"{kind}-{is_pretrained}"
        maker = getattr(toy_world, makers[kind])
        return Path(maker(folder) if is_pretrained else maker(folder, steps=0))

    return make


@pytest.fixture(scope="session")
def options_of(base_of, tmp_path_factory):
    """Give the recipe keys of a toy's run."""

    @functools.cache
    def make(task: str) -> dict[str, Any]:
        toy = toy_of(task)
        folder = tmp_path_factory.mktemp(task)
        for part, count in ROWS.items():
            write_rows(folder / f"{part}.jsonl", toy.rows(part, count))
        files = {part: str(folder / f"{part}.jsonl") for part in ("valid", "test")}
        return {
            "data": str(folder / "train.jsonl"),
            **files,
            "task": task,
            "model": str(base_of(toy.BASE)),
            **toy.OPTIONS,
        }

    return make


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run_of(options_of, tmp_path_factory):
    """Give the finished job of a task on its toy."""

    @functools.cache
    def make(task: str) -> Any:
        job = prepare(make_recipe({**options_of(task), "out": str(tmp_path_factory.mktemp("runs") / task)}))
        list(job.run())
        return job

    return make


def plain(value: Any) -> Any:
    """Give answers as what can be compared: arrays as lists, everything else as JSON."""
    return value.tolist() if isinstance(value, np.ndarray) else to_json(value)


def same(first: Any, second: Any, tolerance: float = 0.0) -> bool:
    """Whether two nested answers agree: words and lengths exactly, numbers within the tolerance."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key], tolerance) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(
            same(one, other, tolerance) for one, other in zip(first, second, strict=True)
        )
    if isinstance(first, float) and isinstance(second, float):
        return first == second or abs(first - second) <= tolerance * max(1.0, abs(first))
    return bool(first == second)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_it_learns_from_what_pretraining_knew(task, run_of):
    toy, gain = toy_of(task), run_of(task).bundle.gain
    value = gain.after.value
    reaches = value <= toy.BAR if gain.after.main in LOWER_IS_BETTER else value >= toy.BAR
    assert reaches, f"{gain.after.main} is {value:.3f}; the toy asks for {toy.BAR}"


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
def test_it_cannot_learn_without_what_pretraining_knew(task, options_of, base_of, tmp_path):
    toy = toy_of(task)
    fresh = {**options_of(task), "model": str(base_of(toy.BASE, False)), "out": str(tmp_path / "run")}
    job = prepare(make_recipe(fresh))
    list(job.run())
    after = job.bundle.gain.after
    fails = after.value > toy.CHANCE if after.main in LOWER_IS_BETTER else after.value < toy.CHANCE
    assert fails, f"{after.main} is {after.value:.3f} without pretraining: the toy can be passed without knowledge"


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
def test_same_seed_gives_same_bits(task, run_of, options_of, tmp_path):
    job = run_of(task)
    again = prepare(make_recipe({**options_of(task), "out": str(tmp_path / "again")}))
    list(again.run())
    first, second = (hash_file(Path(one.bundle.path) / "model.safetensors") for one in (job, again))
    assert first == second
    assert job.plan.id == again.plan.id
    assert job.bundle.gain.after.values == again.bundle.gain.after.values


@pytest.mark.parametrize("task", EVERY_TASK)
def test_saving_and_loading_changes_no_bit(task, run_of):
    job = run_of(task)
    bundle = load(job.bundle.path)
    records = [dataclasses.replace(record, target=None) for record in job.intake.splits.test[:16]]
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels, "batch_tokens": bundle.facts["batch_tokens"]}
    mine = bundle.task
    examples = mine.encode(
        records, job.tokenizer, labels=job.plan.labels, max_length=int(job.plan.options["max_length"])
    )
    kept = mine.answer(job.model, examples, **settings)
    assert same(plain(bundle.answer(records)), plain(kept))


@pytest.mark.parametrize("task", EVERY_TASK)
def test_one_by_one_equals_batched(task, run_of):
    job = run_of(task)
    records = [dataclasses.replace(record, target=None) for record in job.intake.splits.test[:16]]
    together = plain(job.bundle.answer(records))
    alone = [plain(job.bundle.answer([record]))[0] for record in records]
    assert same(together, alone, tolerance=2e-5)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_predictions_are_json_and_scores_are_whole(task, run_of):
    bundle = load(run_of(task).bundle.path)
    records = run_of(task).intake.splits.test
    predictions = bundle.predict([dict(record.fields) for record in records[:5]])
    assert len(predictions) == 5
    assert json.dumps(to_json(predictions), allow_nan=False)
    assert json.dumps(to_json(bundle.gain), allow_nan=False)
    scores = bundle.score(records)
    assert scores.n == len(records)
    for metric, value in scores.values.items():
        low, high = scores.intervals.get(metric, (value, value))
        assert low - 1e-9 <= value <= high + 1e-9 or metric in LOWER_IS_BETTER, metric
    assert bundle.gain.baselines, "every task has a naive baseline"
    assert set(bundle.gain.differences) >= set(bundle.gain.baselines)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_it_loads_in_plain_transformers(task, run_of):
    job = run_of(task)
    folder = job.bundle.path
    model_class = getattr(transformers, job.intake.task.model_class(read_config(folder)))
    model = model_class.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = job.intake.task.batch(job.examples["test"][:4], tokenizer)
    inputs = {name: tensor for name, tensor in batch.items() if tensor.dim() > 0}
    with torch.inference_mode():
        theirs = job.intake.task.loss(model, inputs)
        mine = job.intake.task.loss(job.model, inputs)
    assert torch.equal(theirs, mine)


@pytest.mark.parametrize("task", EVERY_TASK)
def test_faults_in_its_rows_are_told(task, tmp_path):
    toy, layout = toy_of(task), find_task(task)
    good = toy.rows("train", 30)
    rows = [*good, *(row for row, _ in toy.FAULTS), *(row for row, _ in toy.NOTES)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    found = data.inspect(path, layout=layout)
    rejected = {row.origin.row: row for row in found.rejected}
    assert {number: row.kind for number, row in rejected.items()} == {
        len(good) + place: kind for place, (_, kind) in enumerate(toy.FAULTS, 1)
    }
    assert all(row.reason and row.do for row in rejected.values())
    assert {kind for _, kind in toy.NOTES} <= {problem.kind for problem in found.problems}
    assert len(toy.FAULTS) >= 2
    with pytest.raises(TunesmithError) as caught:
        prepare(
            make_recipe(
                {"data": str(write_rows(tmp_path / "bad.jsonl", [row for row, _ in toy.FAULTS] * 4)), "task": task}
            )
        )
    what, where, do = str(caught.value).split("\n")
    assert what.startswith("DataProblem: ")
    assert where.startswith("  where: ")
    assert do.startswith("  do:    ")


@pytest.mark.parametrize("task", ONE_TASK_OF_EACH_KIND)
def test_resuming_after_sigkill_equals_an_undisturbed_run(task, run_of, options_of, tmp_path):
    """Kill the real process at its first checkpoint, resume, and compare the weights to the bit."""
    out = tmp_path / "killed"
    values = {**options_of(task), "checkpoint_seconds": 0, "out": str(out)}
    sets = [part for key, value in values.items() if key != "data" for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "tunesmith", "train", str(values["data"]), "--quiet", *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 120
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and not list(out.glob("checkpoints/step-*/manifest.json"))
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    job = prepare_resume(out)
    assert job.resumed_from is not None
    list(job.run())
    whole = run_of(task)
    assert hash_file(out / "model.safetensors") == hash_file(whole.bundle.path / "model.safetensors")


@pytest.mark.parametrize(("task", "method"), PAIRS)
def test_every_method_works_or_declines(task, method, options_of, tmp_path):
    options = {**options_of(task), "method": method, "epochs": 1, "out": str(tmp_path / "run")}
    reason = reason_of(options)
    if reason is not None:
        assert len(reason.what) > 10, "a reason is a sentence"
        assert reason.do
        return
    job = prepare(make_recipe(options))
    assert find_method(method).why_not(task, job.anatomy) is None
    list(job.run())
    share = job.bundle.gain.trainable_share
    assert 0 < share <= 1 if is_trained(find_method(method)) else share == 0
    records = [dataclasses.replace(record, target=None) for record in job.intake.splits.test[:8]]
    assert same(plain(load(job.bundle.path).answer(records)), plain(job.bundle.answer(records)))


def reason_of(options: dict[str, Any]) -> TunesmithError | None:
    """Give why a run of these options is declined, or None."""
    try:
        prepare(make_recipe(options))
    except TunesmithError as error:
        return error
    return None


@pytest.mark.parametrize("task", WRITING)
def test_plain_generate_writes_the_same_words(task, run_of):
    """What stands in the saved generation configuration is enough: no argument has to be given."""
    job = run_of(task)
    folder = job.bundle.path
    model_class = getattr(transformers, job.intake.task.model_class(read_config(folder)))
    model = model_class.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for record in job.intake.splits.test[:3]:
        asked = dataclasses.replace(record, target=None)
        (example,) = job.bundle.task.encode([asked], tokenizer, labels=(), max_length=tokenizer.model_max_length)
        ids = torch.tensor([example.tokens])
        with torch.inference_mode():
            written = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        read = 0 if model.config.is_encoder_decoder else ids.shape[1]
        words = tokenizer.decode(written[read:], skip_special_tokens=True).strip()
        assert words == str(job.bundle.predict([dict(asked.fields)])[0].value).strip()

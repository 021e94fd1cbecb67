"""A run folder that holds what was learnt: alone or beside whole weights, found again on its base, to the bit."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers

from tunesmith.bundle.load import load
from tunesmith.errors import BundleProblem, PlanProblem
from tunesmith.methods import METHODS, find_method
from tunesmith.models.find import hash_file
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe

OURS = [name for name in METHODS if "merge" in find_method(name).OPTIONS]  # what they learn can be kept apart
MERGED = ["bitfit", "lora", "adalora", "dora", "ia3"]


@pytest.fixture(scope="module")
def run_of(toy_options, tmp_path_factory):
    """Give the finished job of a method, with its learnt part merged or apart."""

    @functools.cache
    def make(method: str, merge: str = "auto"):
        out = tmp_path_factory.mktemp("runs") / method
        options = {**toy_options, "epochs": 2, "method": method, "merge": merge, "out": str(out)}
        job = prepare(make_recipe(options))
        list(job.run())
        return job

    return make


def records_of(job):
    return [dataclasses.replace(record, target=None) for record in job.intake.splits.test[:24]]


def kept_answers(job) -> np.ndarray:
    """Give what the trained model in memory answers."""
    settings = {"labels": job.plan.labels, "batch_tokens": int(job.plan.options["batch_tokens"])}
    task, length = job.bundle.task, int(job.plan.options["max_length"])
    examples = task.encode(records_of(job), job.tokenizer, labels=job.plan.labels, max_length=length)
    return task.answer(job.model, examples, tokenizer=job.tokenizer, **settings)


@pytest.mark.parametrize("merge", ["auto", "no"])
@pytest.mark.parametrize("method", OURS)
def test_saving_and_loading_changes_no_bit(method, merge, run_of):
    job = run_of(method, merge)
    assert np.array_equal(load(job.bundle.path).answer(records_of(job)), kept_answers(job))


@pytest.mark.parametrize("method", OURS)
def test_a_run_apart_holds_only_what_was_learnt(method, run_of):
    job = run_of(method, "no")
    names = {path.name for path in Path(job.bundle.path).iterdir()}
    assert "model.safetensors" not in names
    weights = next(Path(job.bundle.path).glob("*.safetensors"))
    free = 4 * job.bundle.gain.trainable_share * 78_000  # bytes, about
    assert weights.stat().st_size < 2 * free + 20_000
    assert ("adapter_config.json" in names) == (method not in {"bitfit", "adapter"})
    assert job.plan.options["merge"] == "no"


@pytest.mark.parametrize("method", MERGED)
def test_a_run_is_a_whole_model_unless_asked_otherwise(method, run_of):
    job = run_of(method)
    folder = Path(job.bundle.path)
    assert (folder / "model.safetensors").is_file()
    assert (folder / "adapter").is_dir()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = job.intake.task.batch(job.examples["test"][:4], transformers.AutoTokenizer.from_pretrained(folder))
    with torch.inference_mode():
        assert torch.equal(job.intake.task.loss(model, batch), job.intake.task.loss(job.model, batch))


@pytest.mark.parametrize("method", MERGED)
def test_merged_and_apart_answer_alike(method, run_of):
    merged, apart = (load(run_of(method, merge).bundle.path) for merge in ("auto", "no"))
    records = records_of(run_of(method))
    assert np.abs(merged.answer(records) - apart.answer(records)).max() < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks Transformers for a property by its old name
@pytest.mark.parametrize("method", ["lora", "adalora", "dora", "ia3", "prefix", "prompt"])
def test_plain_peft_loads_it_with_identical_answers(method, run_of):
    job = run_of(method, "no")
    torch.manual_seed(77)  # what the base does not hold is drawn anew, and must come with the adapter
    base = transformers.AutoModelForSequenceClassification.from_pretrained(job.base.folder, num_labels=3)
    model = peft.PeftModel.from_pretrained(base, job.bundle.path).eval()
    batch = job.intake.task.batch(job.examples["test"][:8], job.tokenizer)
    batch.pop("labels")
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, job.model(**batch).logits)
    config = json.loads((job.bundle.path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(job.base.folder)
    assert "classifier" in config["modules_to_save"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_adapter_beside_whole_weights_is_the_calibrated_one(run_of):
    job = run_of("lora")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(job.base.folder, num_labels=3)
    model = peft.PeftModel.from_pretrained(base, job.bundle.path / "adapter").eval()
    batch = job.intake.task.batch(job.examples["test"][:8], job.tokenizer)
    batch.pop("labels")
    with torch.inference_mode():
        assert torch.allclose(model(**batch).logits, job.model(**batch).logits, atol=1e-5)


@pytest.fixture
def moved(run_of, toy_base, tmp_path):
    """Give a copy of a run apart whose base is a copy too, so that both may be harmed."""
    base, folder = tmp_path / "base", tmp_path / "run"
    shutil.copytree(toy_base, base)
    shutil.copytree(run_of("lora", "no").bundle.path, folder)
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    facts["delta"]["base"] = str(base)
    (folder / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder, base


def test_a_base_that_changed_is_refused(moved):
    folder, base = moved
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-3}), encoding="utf-8")
    with pytest.raises(BundleProblem) as caught:
        load(folder, verify=False).predict("a1")
    assert str(caught.value) == (
        f"BundleProblem: the base model '{base}' has changed since this run was trained on it\n"
        f"  where: {base}\n"
        f"  do:    put the old files back, or train again: tunesmith train {folder / 'recipe.yaml'}"
    )


def test_a_base_that_is_gone_is_refused(moved):
    folder, base = moved
    shutil.rmtree(base)
    with pytest.raises(BundleProblem) as caught:
        load(folder, verify=False).predict("a1")
    assert caught.value.what.startswith(f"this run holds only what was learnt, and its base model '{base}' cannot be")
    assert caught.value.do == f"put the base model back to {base}"


def test_tensors_that_do_not_fit_are_refused(moved):
    folder, _ = moved
    from safetensors.torch import load_file, save_file

    kept = load_file(folder / "adapter_model.safetensors")
    kept.pop(sorted(kept)[0])
    save_file(kept, folder / "adapter_model.safetensors")
    with pytest.raises(BundleProblem, match=r"does not fit its base model: base_model\.model"):
        load(folder, verify=False).predict("a1")


def test_a_method_of_ones_own_is_never_loaded_from_a_folder(moved):
    folder, _ = moved
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    (folder / "plan.json").write_text(json.dumps({**plan, "method": "os:system"}), encoding="utf-8")
    with pytest.raises(BundleProblem, match="is not one that Tunesmith ships"):
        load(folder, verify=False).predict("a1")


@pytest.mark.parametrize(
    ("method", "merge", "reason"),
    [
        ("prompt", "yes", "what method 'prompt' learns cannot be made part of the weights"),
        ("full", "no", "method 'full' changes the model's own weights: there is nothing apart to keep"),
        ("lora", "perhaps", "merge is 'perhaps'"),
    ],
)
def test_what_merge_cannot_do_is_told(method, merge, reason, toy_options):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe({**toy_options, "method": method, "merge": merge}))
    assert caught.value.what == reason
    assert caught.value.do


@pytest.mark.parametrize(
    "method", ["adalora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lora", "prompt"))]
)
def test_a_run_cut_off_in_the_middle_ends_with_the_same_bits(method, toy_options, tmp_path):
    options = {**toy_options, "epochs": 2, "method": method, "checkpoint_seconds": 0, "merge": "no"}
    whole, cut = (prepare(make_recipe({**options, "out": str(tmp_path / name)})) for name in ("whole", "cut"))
    list(whole.run())
    events = cut.run()
    for event in events:  # adalora is taking ranks away at this step
        if event.kind == "checkpoint" and event.step == 5:
            break
    events.close()
    again = prepare_resume(tmp_path / "cut")
    assert again.resumed_from is not None
    assert again.resumed_from.step == 5
    list(again.run())
    first, second = (hash_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_resuming_after_sigkill_equals_an_undisturbed_run(method, toy_options, tmp_path):
    """Kill the real process when it has made some checkpoints, resume, and compare what was learnt to the bit."""
    out = tmp_path / "killed"
    options = {**toy_options, "epochs": 4, "method": method, "checkpoint_seconds": 0}
    values = {**options, "out": str(out)}
    sets = [part for key, value in values.items() if key != "data" for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "tunesmith", "train", str(values["data"]), "--quiet", *sets]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline and not list(out.glob("checkpoints/step-*8")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    job = prepare_resume(out)
    assert job.resumed_from is not None
    list(job.run())
    whole = prepare(make_recipe({**options, "out": str(tmp_path / "whole")}))
    list(whole.run())
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert hash_file(out / name) == hash_file(tmp_path / "whole" / name)


def test_the_best_weights_of_adalora_meet_the_budget(run_of):
    from safetensors.torch import load_file

    job = run_of("adalora", "no")
    kept = load_file(job.bundle.path / "adapter_model.safetensors")
    values = [tensor for name, tensor in kept.items() if name.endswith("lora_E")]
    assert [len(tensor) for tensor in values] == [12] * 12
    assert sum(int(tensor.count_nonzero()) for tensor in values) == 8 * 12
    assert len({int(tensor.count_nonzero()) for tensor in values}) > 1


def test_only_the_keys_of_the_method_are_in_the_plan(run_of):
    options = run_of("lora").plan.options
    assert {"lora_rank", "lora_alpha", "lora_dropout", "merge"} <= options.keys()
    assert not {"adapter_size", "prompt_length", "top_layers"} & options.keys()

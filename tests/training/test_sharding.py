"""A model in shares: what does not go with it, and that two processes of which each has half learn the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from several_processes import command_of, demand_same_weights, run, started
from torch import nn

import tunesmith
from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import build_model
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.training.sharding import Shares, like, put, whole


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sharding": "zero3"}, "sharding is 'zero3'"),
        ({"averaging": "ema"}, "a model in shares does not do: averaging works on whole weights"),
        ({"optimizer": "adafactor"}, "a model in shares does not do: optimizer adafactor looks at whole matrices"),
        ({"method": "adalora"}, "a model in shares does not do: method 'adalora' works on whole weights between steps"),
        ({"adversarial": "fgm"}, "a model in shares does not do: adversarial works on whole weights"),
    ],
)
def test_what_needs_whole_weights_is_refused(changes, reason, toy_options):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe({**toy_options, "sharding": "fsdp", **changes}))
    assert caught.value.what.startswith(reason)
    assert caught.value.where == "sharding"


def test_the_plan_says_so_and_spares_nothing(toy_options):
    plan = prepare(make_recipe({**toy_options, "sharding": "fsdp", "method": "top-layers"})).plan
    assert plan.options["sharding"] == "fsdp"
    assert plan.options["prefix_blocks"] == 0
    assert plan.options["compact_embeddings"] is False
    assert "sharding" not in prepare(make_recipe(toy_options)).plan.options


class Alone:
    """What stands for an accelerator of one process."""

    device = torch.device("cpu")
    num_processes = 1
    is_main_process = True


@pytest.mark.parametrize("tied", [False, True])
def test_what_was_learnt_comes_back_into_the_model_as_it_was(tied, toy_base, tmp_path_factory):
    """The model is not dealt out here; its numbers change, and the copy without numbers takes them over."""
    import toy_world

    if tied:
        base, kind = toy_world.make_causal_base(tmp_path_factory.mktemp("causal"), steps=0), "AutoModelForCausalLM"
    else:
        base, kind = toy_base, "AutoModelForSequenceClassification"
    model = build_model(base, kind)
    anatomy = find_anatomy(model, has_fresh_head=not tied)
    shares = Shares(model, anatomy)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    again, found = shares.together(Alone())
    assert again is not model
    assert type(again) is type(model)
    assert found.blocks[0] is not anatomy.blocks[0]
    assert any(found.blocks[0] is part for part in again.modules())
    ids = torch.arange(4, 12)[None]
    with torch.inference_mode():
        assert torch.equal(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
    if tied:
        assert again.lm_head.weight is again.transformer.wte.weight


def test_whole_tensors_are_taken_as_they_are():
    parameter = nn.Parameter(torch.zeros(2, 3))
    put(parameter, torch.ones(2, 3))
    assert torch.equal(whole(parameter), torch.ones(2, 3))
    assert like(parameter, torch.ones(1)).shape == (1,)


@pytest.fixture(scope="module")
def options(toy_options):
    return {**toy_options, "epochs": 3, "dropout": 0, "threads": 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_two_processes_with_half_a_model_each_learn_what_one_does(method, options, tmp_path):
    options = {**options, "method": method}
    one = tunesmith.train(**options, out=str(tmp_path / "one"))
    done = run(command_of({**options, "sharding": "fsdp"}, tmp_path / "two", processes=2))
    assert done.returncode == 0, done.stderr
    two = tunesmith.load(tmp_path / "two")
    demand_same_weights(one.path, two.path)
    names = {key: value.shape for key, value in load_file(one.path / "model.safetensors").items()}
    assert names == {key: value.shape for key, value in load_file(two.path / "model.safetensors").items()}
    assert two.gain.after.value == pytest.approx(one.gain.after.value, abs=0.02)
    assert two.predict(["a1 the3 a2"])[0].value == "animal"


@pytest.mark.slow
def test_each_process_holds_half_and_a_stopped_run_is_gone_on_with_by_one_process(options, tmp_path):
    out = tmp_path / "two"
    many = {**options, "epochs": 6, "patience": 100, "sharding": "fsdp", "checkpoint_seconds": 0}
    process = started(command_of(many, out, processes=2), out, step=10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    newest = max((out / "checkpoints").glob("step-*"))
    step = json.loads((newest / "state.json").read_text(encoding="utf-8"))["step"]
    kept = load_file(newest / "optimizer.safetensors")
    weights = load_file(newest / "weights.safetensors")
    for name, weight in weights.items():
        if f"{name}/exp_avg" in kept:
            assert kept[f"{name}/exp_avg"].shape == weight.shape, "checkpoints are whole"
    again = subprocess.run(
        [sys.executable, "-m", "tunesmith", "train", "--resume", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ},
    )
    assert again.returncode == 0, again.stderr
    assert f"going on from step {step} of 48" in again.stdout
    whole_run = tunesmith.train(**{**many, "sharding": "none"}, out=str(tmp_path / "one"))
    demand_same_weights(whole_run.path, out)

"""A frozen base in few bits: refused where it cannot be, and put back as it was."""

from __future__ import annotations

import importlib.util

import pytest
import torch

import toy_world
from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.methods import find_method
from tunesmith.models import base_in_bits as module
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.base_in_bits import base_in_bits, demand_bits, frozen_linear_layers
from tunesmith.models.build import build_model
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

LORA = {"lora_rank": 4, "lora_alpha": 8.0, "lora_dropout": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_world.make_base(tmp_path_factory.mktemp("base") / "toy", steps=0)


def adapted(base, method: str = "lora"):
    model = build_model(base, "AutoModelForSequenceClassification", num_labels=3)
    anatomy = find_anatomy(model)
    return find_method(method).apply(model, anatomy, LORA), anatomy


def test_a_run_on_a_cpu_is_refused(toy_options):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe({**toy_options, "method": "lora", "base_bits": 4, "device": "cpu"}))
    assert str(caught.value) == (
        "PlanProblem: a base in 4 bits needs a CUDA GPU, and this run trains on cpu\n"
        "  where: base_bits\n"
        "  do:    leave base_bits out; to train in less memory use --method lora, or --set batch_tokens=512"
    )


def test_a_machine_without_bitsandbytes_is_told_what_to_install(base, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        demand_bits(8, *adapted(base), method="lora", device="cuda")
    assert caught.value.do == "pip install 'tunesmith[bits]'"


@pytest.mark.parametrize(("method", "does"), [("full", "trains"), ("dora", "measures")])
def test_methods_that_need_the_weights_are_refused(method, does, base, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(PlanProblem, match=f"method '{method}' {does} the base's own weights"):
        demand_bits(4, *adapted(base, method), method=method, device="cuda")
    demand_bits(4, *adapted(base), method="lora", device="cuda")


def test_other_bits_are_refused(base):
    with pytest.raises(PlanProblem, match="base_bits is 3"):
        demand_bits(3, *adapted(base), method="lora", device="cuda")
    demand_bits(0, *adapted(base, "full"), method="full", device="cpu")


def test_layers_are_replaced_while_training_and_the_very_same_ones_come_back(base, monkeypatch):
    model, anatomy = adapted(base)
    held = frozen_linear_layers(model, anatomy)
    assert len(held) == 12  # six in each of two blocks; companions and head are trained
    assert all(name.endswith("base_layer") for name in held)
    stand_ins = []

    def rounded(layer, bits, *, device, precision):
        small = torch.nn.Linear(layer.in_features, layer.out_features)
        small.weight = torch.nn.Parameter((layer.weight * 8).round() / 8, requires_grad=False)
        small.bias = layer.bias
        stand_ins.append((bits, str(device), precision))
        return small

    monkeypatch.setattr(module, "_in_bits", rounded)
    ids = torch.arange(5, 25).reshape(2, 10)
    before = model(input_ids=ids).logits
    with base_in_bits(model, anatomy, 4, device="cpu", precision="bf16") as count:
        assert count == 12
        inside = model(input_ids=ids).logits
        inside.sum().backward()
        assert not torch.allclose(inside, before)
    assert stand_ins == [(4, "cpu", "bf16")] * 12
    assert all(model.get_submodule(name) is layer for name, layer in held.items())
    assert torch.equal(model(input_ids=ids).logits, before)


def test_no_bits_leave_the_model_alone(base):
    model, anatomy = adapted(base)
    modules = list(map(id, model.modules()))
    with base_in_bits(model, anatomy, 0, device="cpu", precision="no") as count:
        assert count == 0
        assert list(map(id, model.modules())) == modules


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra")
@pytest.mark.parametrize(("bits", "most"), [(4, 0.3), (8, 0.05)])
def test_layers_in_few_bits_compute_about_the_same_and_pass_gradients_on(bits, most, base):
    model, anatomy = adapted(base)
    ids = torch.arange(5, 25).reshape(2, 10)
    before = model(input_ids=ids).logits.detach()
    with base_in_bits(model, anatomy, bits, device="cpu", precision="no"):
        inside = model(input_ids=ids).logits
        inside.sum().backward()
    assert 0 < float((inside.detach() - before).abs().max()) < most
    grads = [one.grad for name, one in model.named_parameters() if "lora_B" in name]
    assert all(one is not None and float(one.abs().sum()) > 0 for one in grads)
    assert torch.equal(model(input_ids=ids).logits, before)

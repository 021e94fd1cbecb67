"""What the low-rank companions of lora and dora add, against the papers' formulas."""

from __future__ import annotations

import copy

import families
import torch

from tunesmith.methods import companions, dora, lora
from tunesmith.models.anatomy import find_anatomy


def trained(method, family: str = "bert"):
    model = families.make(family)
    torch.manual_seed(0)
    model = method.apply(model, find_anatomy(model), families.OPTIONS).eval()
    families.train(model, family)
    return model


def test_a_merged_weight_is_the_base_and_alpha_over_rank_times_the_product():
    layer = companions.matrices(trained(lora))[0]
    down_RI, up_OR = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = layer.base_layer.weight + 16 / 4 * up_OR @ down_RI
    other = copy.deepcopy(layer)
    other.merge()
    assert torch.allclose(other.base_layer.weight, expected, atol=1e-6)


def test_gpt2s_transposed_weights_are_merged_too():
    layer = companions.matrices(trained(lora, "gpt2"))[0]
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = layer.base_layer.weight + 4 * product.T
    layer.merge()
    assert torch.allclose(layer.base_layer.weight, expected, atol=1e-6)


def test_a_dora_weight_is_a_length_times_a_direction():
    layer = companions.matrices(trained(dora))[0]
    sum_OI = layer.base_layer.weight + 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    lengths_O = layer.lora_magnitude_vector["default"].weight
    expected = lengths_O[:, None] * sum_OI / sum_OI.norm(dim=1, keepdim=True)
    layer.merge()
    assert torch.allclose(layer.base_layer.weight, expected, atol=1e-5)


def test_the_share_is_what_the_ranks_say():
    model = families.make("bert")
    anatomy = find_anatomy(model)
    model = lora.apply(model, anatomy, families.OPTIONS)
    free = sum(one.numel() for one in model.parameters() if one.requires_grad)
    head = sum(one.numel() for part in anatomy.fresh for one in part.parameters())
    layers = 2 * (4 * 4 * (16 + 16) + 2 * 4 * (16 + 24))  # blocks x (attention + feed-forward) x rank x (in + out)
    assert free == layers + head


def test_rates_fall_with_the_width_and_are_far_above_full_tunings():
    anatomy = find_anatomy(families.make("bert"))
    assert lora.default_learning_rate(anatomy) == 2e-3
    assert 1e-4 <= lora.default_learning_rate(_wide(anatomy, 1024)) == 3.75e-4


def _wide(anatomy, hidden: int):
    import dataclasses

    return dataclasses.replace(anatomy, hidden=hidden)

"""Weighted sums of adapters against the sums themselves."""

from __future__ import annotations

import pytest
import torch

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.methods import companions, find_method
from tunesmith.methods.delta import put_adapter, take_adapter
from tunesmith.methods.merging import merge_low_rank, read_low_rank
from tunesmith.models.anatomy import find_anatomy, linear_layers
from tunesmith.models.build import build_model

WEIGHTS = (0.7, 0.3)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {
        "encoder": (toy_world.make_base(folder / "bert", steps=0), "AutoModelForSequenceClassification"),
        "causal": (toy_world.make_causal_base(folder / "gpt2", steps=0), "AutoModelForCausalLM"),
    }


def fresh(base, seed: int = 0):
    folder, kind = base
    return build_model(folder, kind, seed=seed, **({"num_labels": 3} if "Sequence" in kind else {}))


def adapted(base, method: str, seed: int, rank: int = 4, alpha: float = 8.0):
    """Give a model with made-up numbers in its companions, and its adapter as a folder keeps it."""
    options = {"lora_rank": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "merge": "no"}
    model = fresh(base)
    anatomy = find_anatomy(model, has_fresh_head="Sequence" in base[1])
    model = find_method(method).apply(model, anatomy, options)
    generator = torch.Generator().manual_seed(seed)
    adapter = take_adapter(find_method(method), model, anatomy)
    with torch.no_grad():
        for tensor in adapter.tensors.values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    kept = {name: tensor.detach().clone() for name, tensor in adapter.tensors.items()}
    return model, anatomy, read_low_rank(kept, adapter.config)


def weights_of(model, anatomy) -> dict[str, torch.Tensor]:
    plain = companions.merge(model)
    return {name: layer.weight.detach().clone() for name, layer in linear_layers(plain, anatomy).items()}


def merged_weights(base, parts, how: str, weights=WEIGHTS) -> tuple[dict[str, torch.Tensor], object]:
    """Give the layers of a model of method lora that holds the merged adapter, and the adapter."""
    found = merge_low_rank(fresh(base), parts, weights, how)
    model = fresh(base)
    anatomy = find_anatomy(model, has_fresh_head="Sequence" in base[1])
    options = {"lora_rank": found.config["r"], "lora_alpha": found.config["lora_alpha"], "lora_dropout": 0.0}
    model = find_method("lora").apply(model, anatomy, options)
    assert not put_adapter(take_adapter(find_method("lora"), model, anatomy), found.tensors)
    return weights_of(model, anatomy), found


@pytest.mark.parametrize("kind", ["encoder", "causal"])
@pytest.mark.parametrize("methods", [("lora", "lora"), ("lora", "adalora")])
def test_cat_adds_exactly_the_weighted_sum(kind, methods, bases):
    base = bases[kind]
    model = fresh(base)
    plain = {name: layer.weight.detach() for name, layer in linear_layers(model, find_anatomy(model)).items()}
    made = [adapted(base, method, seed, rank=3 + seed) for seed, method in enumerate(methods, 1)]
    found, adapter = merged_weights(base, [part for _, _, part in made], "cat")
    alone = [weights_of(model, anatomy) for model, anatomy, _ in made]
    assert adapter.config["r"] == sum(part.rank for _, _, part in made)
    for name, weight in plain.items():
        expected = weight + sum(share * (one[name] - weight) for share, one in zip(WEIGHTS, alone, strict=True))
        assert torch.allclose(found[name], expected, atol=1e-5)
        assert not torch.allclose(found[name], weight, atol=1e-3), "there is something to sum"


def test_svd_is_the_nearest_of_its_rank(bases):
    base = bases["encoder"]
    made = [adapted(base, "lora", seed) for seed in (1, 2)]
    parts = [part for _, _, part in made]
    exact, _ = merged_weights(base, parts, "cat")
    near, adapter = merged_weights(base, parts, "svd")
    model = fresh(base)
    plain = {name: layer.weight.detach() for name, layer in linear_layers(model, find_anatomy(model)).items()}
    assert adapter.config["r"] == 4
    for name, weight in plain.items():
        left, values, right = torch.linalg.svd(exact[name] - weight)
        nearest = left[:, :4] @ torch.diag(values[:4]) @ right[:4]
        assert torch.allclose(near[name] - weight, nearest, atol=1e-5)


def test_linear_sums_the_factors(bases):
    made = [adapted(bases["encoder"], "lora", seed) for seed in (1, 2)]
    parts = [part for _, _, part in made]
    found = merge_low_rank(fresh(bases["encoder"]), parts, WEIGHTS, "linear")
    name = next(name for name in parts[0].companions if name.endswith("lora_A.weight"))
    scale = [(share * part.alpha / part.rank) ** 0.5 for share, part in zip(WEIGHTS, parts, strict=True)]
    expected = sum(one * part.companions[name] for one, part in zip(scale, parts, strict=True))
    assert torch.allclose(found.tensors[name], expected, atol=1e-6)
    assert found.config["r"] == 4


def test_heads_are_averaged_by_the_weights_over_their_sum(bases):
    made = [adapted(bases["encoder"], "lora", seed) for seed in (1, 2)]
    parts = [part for _, _, part in made]
    found = merge_low_rank(fresh(bases["encoder"]), parts, (3.0, 1.0), "cat")
    (name,) = [name for name in parts[0].fresh if name.endswith("classifier.weight")]
    assert torch.allclose(found.tensors[name], 0.75 * parts[0].fresh[name] + 0.25 * parts[1].fresh[name])


def test_one_adapter_of_weight_one_stays_itself(bases):
    base = bases["encoder"]
    made = [adapted(base, "lora", seed) for seed in (1, 2)]
    found, _ = merged_weights(base, [part for _, _, part in made], "cat", weights=(1.0, 0.0))
    alone = weights_of(*made[0][:2])
    assert all(torch.allclose(found[name], alone[name], atol=1e-6) for name in alone)


def test_what_does_not_fit_is_refused(bases):
    base = bases["encoder"]
    parts = [adapted(base, "lora", 1, rank=4)[2], adapted(base, "lora", 2, rank=6)[2]]
    for weights, how, reason in (
        (WEIGHTS, "linear", "--how linear sums factors of one rank, and these have 4, 6"),
        (WEIGHTS, "ties", "--how is 'ties'"),
        ((1.0, -1.0), "cat", "the weights sum to 0"),
    ):
        with pytest.raises(PlanProblem) as caught:
            merge_low_rank(fresh(base), parts, weights, how)
        assert caught.value.what == reason

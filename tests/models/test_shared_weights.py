from __future__ import annotations

import gc

import pytest
import torch

import toy_world
from tunesmith.methods import find_method
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import build_model
from tunesmith.models.shared_weights import SharedWeights
from tunesmith.service.loaded import LoadedBundle

OPTIONS = {
    "lora": {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "merge": "no"},
    "dora": {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "merge": "no"},
    "ia3": {"merge": "no"},
    "bitfit": {"merge": "no"},
    "top-layers": {"top_layers": 1, "merge": "no"},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_world.make_base(tmp_path_factory.mktemp("base") / "toy", steps=0)


def adapted(base, method: str, seed: int) -> torch.nn.Module:
    """A model as loading a run of that method gives it, with learnt numbers made up."""
    model = build_model(base, "AutoModelForSequenceClassification", seed=seed, num_labels=3)
    model = find_method(method).apply(model, find_anatomy(model), OPTIONS[method])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def answer(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(5, 25).reshape(2, 10), attention_mask=torch.ones(2, 10)).logits.clone()


def held_bytes(*models: torch.nn.Module) -> int:
    tensors = {tensor.data_ptr(): tensor for model in models for tensor in model.parameters()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def test_five_adapters_of_any_method_hold_the_base_once_and_answer_to_the_bit(base):
    weights, models, alone = SharedWeights(), [], []
    for seed, method in enumerate(OPTIONS):
        model = adapted(base, method, seed)
        alone.append((answer(model), held_bytes(model)))
        weights.share(model)
        models.append(model)
    for model, (expected, _) in zip(models, alone, strict=True):
        assert torch.equal(answer(model), expected)
    own = sum(size for _, size in alone)
    whole = alone[0][1]
    assert own > 4.7 * whole
    assert held_bytes(*models) < 2.1 * whole  # top-layers has one of two blocks and the pooler of its own


def test_equal_weights_are_counted_and_small_ones_are_left(base):
    weights = SharedWeights()
    first, second = adapted(base, "lora", 1), adapted(base, "lora", 2)
    assert weights.share(first) == 0
    saved = weights.share(second)
    assert 0.7 * held_bytes(second) < saved < held_bytes(second)


def test_tied_weights_stay_tied(tmp_path):
    folder = toy_world.make_causal_base(tmp_path / "causal", steps=0)
    weights = SharedWeights()
    models = [build_model(folder, "AutoModelForCausalLM") for _ in range(2)]
    for model in models:
        weights.share(model)
        assert model.lm_head.weight is model.transformer.wte.weight
    assert models[0].lm_head.weight is models[1].lm_head.weight


def test_what_nobody_holds_is_let_go(base):
    weights = SharedWeights()
    first, second = adapted(base, "lora", 1), adapted(base, "lora", 2)
    weights.share(first)
    weights.share(second)
    del first
    gc.collect()
    weights.forget_gone()
    third = adapted(base, "bitfit", 3)
    assert weights.share(third) > 0  # with the second, which holds what was the first's
    del second, third
    gc.collect()
    weights.forget_gone()
    assert not weights._known


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit", "adapter", "prefix"])
def test_runs_that_keep_their_learnt_part_apart_share_their_base(method, toy_options, tmp_path):
    import tunesmith

    runs = []
    for seed in (1, 2):
        options = {**toy_options, "epochs": 1, "seed": seed, "method": method, "merge": "no"}
        runs.append(tunesmith.train(**options, out=str(tmp_path / f"run-{seed}")).path)
    texts = [text for text, _ in toy_world.rows(20, seed=9)]
    alone = [tunesmith.load(run).predict(texts) for run in runs]
    weights = SharedWeights()
    loaded = [LoadedBundle({"run": str(run), "threads": 1}, weights) for run in runs]
    facts = [each.facts() for each in loaded]
    assert facts[0]["base"] == facts[1]["base"] != ""
    for each, expected in zip(loaded, alone, strict=True):
        found = each.answer(texts, {})
        assert [row["prediction"]["alternatives"] for row in found] == [dict(one.alternatives) for one in expected]
    models = [each.bundle.model for each in loaded]
    assert held_bytes(*models) < 1.6 * held_bytes(models[0])

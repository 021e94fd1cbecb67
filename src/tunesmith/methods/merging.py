"""One low-rank adapter made of several: their weighted sum, by PEFT's `add_weighted_adapter`.

- `cat` stands the factors side by side: exactly the weighted sum of what each adds to the weights; ranks add up.
- `svd` is the nearest to that sum which the largest of the ranks can hold.
- `linear` sums the factors themselves: of equal ranks, and rough, since each left factor then meets every right one.

What of lora and adalora is learnt can be summed; dora's lengths and ia3's factors multiply the weights and cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods.delta import Adapter

WAYS = ("cat", "svd", "linear")
METHODS = ("lora", "adalora")  # whose adapters can be summed; what comes out is one of lora

_MERGED = "merged"
_COMPANION = ".lora_"  # in the name of a tensor that is not of a fresh part


@dataclass(frozen=True)
class LowRank:
    """What a run has learnt, as lora has it."""

    companions: Mapping[str, torch.Tensor]  # by PEFT's names: the factors A (R, I) and B (O, R) of each layer
    fresh: Mapping[str, torch.Tensor]  # parts that the base model does not have, its head
    rank: int
    alpha: float  # a companion counts alpha / rank times
    targets: tuple[str, ...]  # layers
    is_transposed: bool  # layers keep their weights (I, O)


def read_low_rank(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> LowRank:
    """Give a kept adapter as lora has it; the values between adalora's factors become part of the right one.

    Args:
        tensors: Of `adapter_model.safetensors`.
        config: Of `adapter_config.json`.
    """
    found: dict[str, torch.Tensor] = {}
    rank = int(config["r"])
    for name, tensor in tensors.items():
        if _COMPANION not in name or name.endswith("lora_E"):
            continue
        if name.endswith("lora_A"):  # of adalora; PEFT divides by the triplets at the start, which is their number here
            rank = len(tensor)
            tensor = tensor * tensors[name.removesuffix("A") + "E"]
        found[name if name.endswith(".weight") else f"{name}.weight"] = tensor
    return LowRank(
        companions=found,
        fresh={name: tensor for name, tensor in tensors.items() if _COMPANION not in name},
        rank=rank,
        alpha=float(config["lora_alpha"]),
        targets=tuple(sorted(config["target_modules"])),
        is_transposed=bool(config.get("fan_in_fan_out")),
    )


def merge_low_rank(model: nn.Module, parts: Sequence[LowRank], weights: Sequence[float], how: str) -> Adapter:
    """Give the weighted sum of adapters as one; fresh parts are averaged by the same weights.

    Args:
        model: The base model with the head that all of them have; its layers are wrapped meanwhile, and left so.
        parts: Two or more, of this base model.
        weights: One for each; below 0 takes away what a run has learnt. Their sum is above 0.
        how: One of `WAYS`.

    Returns:
        Tensors by PEFT's names; of the configuration, `r` and `lora_alpha`, which are equal.

    Raises:
        PlanProblem: The parts do not fit together in this way.
    """
    _demand_fitting(parts, weights, how)
    from peft import LoraConfig, LoraModel

    tuner: Any = None
    names = [f"run{place}" for place in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        config = LoraConfig(
            r=part.rank,
            lora_alpha=cast("int", part.alpha),
            target_modules=list(part.targets),
            fan_in_fan_out=part.is_transposed,
        )
        if tuner is None:
            tuner = LoraModel(model, config, name)
        else:
            tuner.peft_config[name] = config
            tuner.inject_adapter(model, name)
        factors = _factors(model, name)
        assert factors.keys() == part.companions.keys(), "its configuration names the layers that it has"
        with torch.no_grad():
            for place, tensor in part.companions.items():
                factors[place].copy_(tensor)
    tuner.add_weighted_adapter(names, list(weights), _MERGED, combination_type=how)
    tensors = _factors(model, _MERGED)
    total = sum(weights)
    fresh = {
        name: sum(weight / total * part.fresh[name] for part, weight in zip(parts, weights, strict=True))
        for name in parts[0].fresh
    }
    rank = int(tuner.peft_config[_MERGED].r)
    return Adapter({**tensors, **fresh}, {"r": rank, "lora_alpha": float(rank)})


def _factors(model: nn.Module, adapter: str) -> dict[str, torch.Tensor]:
    """Give the factors of one adapter in the model, by the names that they have in a file."""
    from peft.tuners.lora import LoraLayer

    return {
        f"base_model.model.{name}.{factor}.weight": getattr(layer, factor)[adapter].weight
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and adapter in layer.lora_A
        for factor in ("lora_A", "lora_B")
    }


def _demand_fitting(parts: Sequence[LowRank], weights: Sequence[float], how: str) -> None:
    if how not in WAYS:
        raise PlanProblem(f"--how is '{how}'", where="--how", do=f"use one of: {', '.join(WAYS)}")
    if sum(weights) <= 0:
        raise PlanProblem(
            f"the weights sum to {sum(weights):g}", where="--merge", do="give weights whose sum is above 0"
        )
    if how == "linear" and len(ranks := sorted({part.rank for part in parts})) > 1:
        raise PlanProblem(
            f"--how linear sums factors of one rank, and these have {', '.join(map(str, ranks))}",
            where="--how",
            do="use --how cat, which is exact",
        )
    heads = [{name: tuple(tensor.shape) for name, tensor in part.fresh.items()} for part in parts]
    if any(head != heads[0] for head in heads):
        raise PlanProblem(
            "the heads of these runs have different shapes", where="--merge", do="merge runs of one task and its labels"
        )

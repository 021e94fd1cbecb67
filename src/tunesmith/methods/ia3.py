"""Three learnt vectors a block: they stretch or still the keys, the values and the feed-forward's inner states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods import companions
from tunesmith.methods.companions import adapter, merge
from tunesmith.methods.space import COMMON, Space
from tunesmith.models.anatomy import Anatomy, linear_layers, upper

__all__ = ["HEAD_FACTOR", "OPTIONS", "SPACE", "WHEN", "adapter", "apply", "default_learning_rate", "merge", "why_not"]

OPTIONS = ("adapted_layers", "merge")
WHEN = "many small variants of one base: the fewest numbers of all, beside prompts"
HEAD_FACTOR = 0.5
SPACE: Space = COMMON


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for families whose keys and values PEFT cannot name: no shape tells a key from a query."""
    if anatomy.family in _families():
        return companions.no_linear_layers(anatomy)
    return (
        f"PEFT does not know which layers of {anatomy.family or 'this model'} make keys and values; it knows "
        + ", ".join(sorted(_families()))
    )


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Put a vector of ones behind the keys and values, and before the feed-forward's second layer.

    Args:
        model: Base model with its head. Changed in place; its answers are the same at first.
        anatomy: Where its blocks and its fresh parts are, and of what family it is.
        options: `adapted_layers`, in how many blocks, from the top (0: in all).

    Source: Liu et al. 2022, section 3.3. Which layers these are comes from PEFT's table of model families; in some of
    them it takes the queries for the keys, which scales the same products.
    """
    from peft import IA3Config

    outer, inner = _families()[anatomy.family]
    layers = linear_layers(model, upper(anatomy, int(options.get("adapted_layers", 0))))
    feed = [name for name in layers if _is_called(name, inner)]
    chosen = [name for name in layers if _is_called(name, (*outer, *inner))]
    is_transposed = any(not isinstance(layers[name], nn.Linear) for name in chosen)
    config = IA3Config(target_modules=chosen, feedforward_modules=feed, fan_in_fan_out=is_transposed)
    return companions.accompany(model, anatomy, config)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give the paper's 3e-3: factors near one are of the same size in every model."""
    return 3e-3


def _is_called(name: str, endings: tuple[str, ...]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _families() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Give what PEFT knows: family -> (layers scaled behind, layers scaled before), by the ends of their names."""
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as BEFORE,
    )
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as ALL,
    )

    return {family: (tuple(names), tuple(BEFORE[family])) for family, names in ALL.items() if family in BEFORE}

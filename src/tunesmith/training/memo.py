"""What several runs of one process share: rows that were read once, texts that were encoded once, one base in memory.

A search makes twenty runs of the same rows and the same base model. Each run is prepared as any other is; a memo only
answers with what an earlier one of them made, wherever nothing that it was made of has changed.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from tunesmith.training.recipe import Recipe

Made = TypeVar("Made")

_ONLY_TRAINING = (
    *("method", "top_layers", "lora_rank", "lora_alpha", "lora_dropout", "adapter_size", "adapter_places"),
    *("adapted_layers", "base_bits", "sharding"),
    *("prompt_length", "merge", "epochs", "batch_size", "gradient_accumulation_steps", "learning_rate"),
    *(
        "head_learning_rate_factor",
        "weight_decay",
        "warmup_ratio",
        "max_grad_norm",
        "dropout",
        "attention_dropout",
        "max_steps",
        "out",
    ),
    *("optimizer", "momentum", "schedule", "layer_decay", "unfreeze", "r_drop", "adversarial", "adversarial_epsilon"),
    *("adversarial_steps", "averaging", "ema_decay", "swa_share", "prefix_cache", "cache_mib", "patience", "augment"),
)


def reading(recipe: Recipe) -> Recipe:
    """Give the recipe without the keys that only shape training: two with the same reading give the same rows.

    A key that is not known to shape training alone counts as reading; a memo is then of less use, and never wrong.
    """
    plain = Recipe()
    return dataclasses.replace(recipe, **{name: getattr(plain, name) for name in _ONLY_TRAINING})


class Memo:
    """Keeps what was made, by all that it was made of. Not for threads; lives as long as whoever holds it."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def recall(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Give what was made for this key, or make it; what cannot be compared is made each time."""
        try:
            is_known = key in self._made
        except TypeError:
            return make()
        if not is_known:
            self._made[key] = make()
        found: Made = self._made[key]
        return found

    def copy(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Give a copy that may be changed. Torch's generator is then as it was after `make`, whose draws may go on."""
        kept, state = self.recall(key, lambda: (make(), torch.get_rng_state()))
        torch.set_rng_state(state)
        return copy.deepcopy(kept)


class Forgetful(Memo):
    """Keeps nothing: a run alone needs no second copy of its base model."""

    def recall(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Make it."""
        return make()

    def copy(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Make it."""
        return make()

"""What may be searched of a recipe: ranges and choices, mostly around the value that a plan would take by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    is_log: bool = False  # drawn so that halving and doubling are equally likely
    is_whole: bool = False
    is_factor: bool = False  # both ends are times the value that the plan would take
    at_most: str = ""  # "blocks" or "hidden": the base model's own number is the end where that is lower


@dataclass(frozen=True)
class Choices:
    """A few values, in no order that matters."""

    values: tuple[Any, ...]
    is_factor: bool = False  # each is times the value that the plan would take; whole numbers stay whole


Space = Mapping[str, Range | Choices]

COMMON: Space = {
    # Half an order of magnitude to either side: the published grids of BERT's kin (2e-5 to 5e-5, 1e-5 to 3e-5) and
    # those of LoRA's are narrower, and the defaults here come from few runs (docs/notebook.md).
    "learning_rate": Range(0.3, 3.0, is_log=True, is_factor=True),
    "batch_size": Choices((0.5, 1.0, 2.0), is_factor=True),
    "epochs": Range(0.3, 1.0, is_whole=True, is_factor=True),  # the default is the most that ever paid: see plan
}
"""What every method that trains may vary; a method's own `SPACE` adds what it listens to."""

GENERAL: Space = {
    "weight_decay": Range(0.0, 0.1),
    "warmup_ratio": Range(0.0, 0.3),
    "head_learning_rate_factor": Range(0.3, 3.0, is_log=True, is_factor=True),
    "dropout": Range(0.0, 0.3),
    "max_grad_norm": Range(0.3, 3.0, is_log=True),
    "lora_alpha": Choices((8.0, 16.0, 32.0)),
    "lora_dropout": Range(0.0, 0.2),
}
"""What is searched only when it is asked for by name."""

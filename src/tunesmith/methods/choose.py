"""Choose a method by a few written rules: the first one that holds, and the sentence that says why.

Each rule says where it comes from: [paper] the literature, [measured] docs/notebook.md, [arithmetic] sizes alone.
Nothing here looks at scores: whoever has the time asks `tunesmith compare-methods`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.methods import METHODS

AUTO = "auto"
CONTRASTIVE_ROWS = 16  # of a label; the SetFit paper's gain over full tuning is large at 8 and nearly gone at 64
FEW_ROWS = 200  # below this full tuning has too few updates to be steady
LARGE_PARAMETERS = 300_000_000  # from here on low-rank companions are as good as full tuning in the paper's tables
_FULL_BYTES = 16  # of a parameter while all are trained: weight, gradient and two moments of 4 bytes each
_ROOM = 0.7  # of the free memory may be planned for; the rest is for activations
_PASSES = {"full": 3.0, "top-layers": 1.5}  # forward passes that one training step costs, roughly


@dataclass(frozen=True)
class Situation:
    """What is known when a method is chosen."""

    task: str
    rows: int  # to train on
    rows_a_label: int | None  # of the label in the middle; None where the task has no labels
    parameters: int  # of the base model
    is_encoder: bool  # reads the whole text at once
    free_memory_mib: float
    device: str = "cpu"
    budget_seconds: float = float("inf")
    pass_seconds: float = 0.0  # one forward pass over all training rows, roughly; 0 where it is not known
    epochs: float = 5.0  # that training is likely to take


@dataclass(frozen=True)
class Choice:
    """A method, the recipe keys that go with it, and why."""

    method: str
    why: str
    options: Mapping[str, Any] = field(default_factory=dict)


def choose_method(known: Situation, methods: Collection[str] = METHODS) -> Choice:
    """Give the method that suits, and say why.

    Args:
        known: What is known of rows, base model and machine.
        methods: Those that there are; a rule whose method is missing is passed over.
    """
    for rule in (_few_labels, _little_memory, _little_time, _large_base, _few_rows):
        choice = rule(known)
        if choice is not None and choice.method in methods:
            return choice
    size = _millions(known.parameters)
    why = f"{known.rows:,} rows are enough to tune all {size} parameters, and memory and time allow it"
    return Choice("full", why)


def _few_labels(known: Situation) -> Choice | None:
    """Few rows of each label: sentence pairs make much of them [paper: Tunstall et al. 2022, figure 1]."""
    rows = known.rows_a_label
    if known.task != "text-classification" or not known.is_encoder or rows is None or rows > CONTRASTIVE_ROWS:
        return None
    why = f"there are about {rows} rows of each label: comparing rows with each other makes more of so few"
    return Choice("contrastive", why)


def _little_memory(known: Situation) -> Choice | None:
    """Full tuning would not fit: companions need gradient and moments for a hundredth [arithmetic]."""
    needed_mib, room_mib = _FULL_BYTES * known.parameters / 2**20, _ROOM * known.free_memory_mib
    if needed_mib <= room_mib:
        return None
    size = _millions(known.parameters)
    why = (
        f"to train all {size} parameters takes {needed_mib / 1024:.1f} GiB, and {room_mib / 1024:.1f} GiB are to be had"
    )
    return Choice("lora", why)


def _little_time(known: Situation) -> Choice | None:
    """Not enough time to go through all blocks and back: the lowest ones stay as they are [arithmetic]."""
    whole = known.pass_seconds * known.epochs
    if not known.pass_seconds or whole * _PASSES["full"] <= known.budget_seconds:
        return None
    why = f"full tuning would take about {_time(whole * _PASSES['full'])}, and {_time(known.budget_seconds)} are given"
    if whole * _PASSES["top-layers"] <= known.budget_seconds:
        return Choice("top-layers", f"{why}: only the top blocks learn", {"top_layers": 2})
    return Choice("top-layers", f"{why}: only the head learns, on states that are computed once", {"top_layers": 0})


def _large_base(known: Situation) -> Choice | None:
    """A large base: as good as full tuning, and small to keep [paper: Hu et al. 2021, tables 2 to 4]."""
    if known.parameters < LARGE_PARAMETERS:
        return None
    size = _millions(known.parameters)
    return Choice("lora", f"with {size} parameters low-rank companions reach what full tuning does, in less memory")


def _few_rows(known: Situation) -> Choice | None:
    """Few rows: full tuning varies much with the seed [paper: Mosbach et al. 2021; Ben-Zaken et al. 2022, figure 2]."""
    if known.rows >= FEW_ROWS:
        return None
    size = _millions(known.parameters)
    return Choice(
        "lora", f"{known.rows:,} rows are few for all {size} parameters: a small change to each layer is steadier"
    )


def _millions(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f} billion"
    return f"{count / 1e6:.0f} million" if count >= 1e6 else f"{count:,}"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"

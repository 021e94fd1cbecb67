"""What a person may decide about an update. No torch here: `tunesmith update --help` reads this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import PlanProblem, nearest_first


@dataclass(frozen=True)
class Strategy:
    """How an update learns the new without losing the old."""

    meaning: str
    replays: bool  # whether old rows are mixed in
    recipe: Mapping[str, Any] = field(default_factory=dict)  # keys that it sets unless the person does
    starts_anew: bool = False  # from the base model instead of the parent
    takes_all: bool = False  # all old rows that can be found, instead of a buffer


AUTO = "auto"

STRATEGIES = {
    "replay": Strategy("new rows mixed with kept old ones (the default)", True),
    "distil": Strategy(
        "replay, and the parent's answers on its own labels are learnt too (the default where labels are new, the more "
        "the fewer of the old rows are replayed)",
        True,
        {"distil": 1.0},
    ),
    "ewc": Strategy("new rows alone; weights stay where old answers depend on them", False, {"ewc": 1000.0}),
    "adapter": Strategy(
        "replay into a new low-rank adapter; the parent's weights stay frozen", True, {"method": "lora"}
    ),
    "head": Strategy("replay into the head alone: seconds", True, {"method": "top-layers", "top_layers": 0}),
    "retrain": Strategy("all rows that were kept, from the base model: the honest upper bound", True, {}, True, True),
    "naive": Strategy("new rows alone, as if nothing could be forgotten: to see what the others save", False),
}


_DECIDED = frozenset({"data", "valid", "test", "task", "columns", "text", "label", "model", "parent", "out", "budget"})


@dataclass(frozen=True)
class UpdateOptions:
    """What is asked of one update."""

    strategy: str = AUTO  # replay, or distil where labels are new
    data: str = ""  # new labelled rows; empty: feedback of the store
    test: str = ""  # rows to measure the new ones on; empty: a share of the new rows
    replay_rows: int = 20  # old rows of each label that are replayed, and kept for the next update; 0 keeps none
    replay_share: float = 0.05  # or this share of a label's rows, where that is more (0..1)
    replay_least: int = 2000  # or its part of so many rows in all, where that is more: small files are kept whole
    per_person: int = 300  # rows of feedback that one person may give to one update: more are left out
    cost: float = 0.15  # steps of the update as a share of those of a full retrain, unless the recipe says how many
    out: str = ""  # run folder; empty: RUN-v2 and so on
    recipe: Mapping[str, Any] = field(default_factory=dict)  # recipe keys that the person sets

    def __post_init__(self) -> None:
        if self.strategy != AUTO and self.strategy not in STRATEGIES:
            raise PlanProblem(
                f"no strategy '{self.strategy}'",
                where="--strategy",
                do=f"use one of: auto, {nearest_first(self.strategy, STRATEGIES)}",
            )
        decided = sorted(_DECIDED & set(self.recipe) - ({"model"} if self.strategy == "retrain" else set()))
        if decided:
            raise PlanProblem(
                f"an update decides '{decided[0]}' itself: it goes on from its parent, with the rows that it is given",
                where="--set",
                do=f"leave {decided[0]} out" + ("; or --strategy retrain" if decided[0] == "model" else ""),
            )
        bounds = {
            "replay_rows": (0, 10**6),
            "replay_share": (0, 1),
            "replay_least": (0, 10**7),
            "per_person": (1, 10**9),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise PlanProblem(
                    f"{name} is {getattr(self, name)}",
                    where="--" + name.replace("_", "-"),
                    do=f"choose {least} to {most}",
                )
        if not 0 < self.cost <= 10:
            raise PlanProblem(f"cost is {self.cost:g}", where="--cost", do="give a share such as 0.2")

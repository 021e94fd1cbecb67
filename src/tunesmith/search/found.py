"""What is asked of a sweep, and what it has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.bundle.load import Bundle
from tunesmith.search.study import Trial


@dataclass(frozen=True)
class SweepOptions:
    """How a recipe is searched."""

    trials: int = 20  # in all, over all processes and resumptions
    budget_seconds: float = float("inf")  # for this call; measuring the best trial comes on top
    methods: tuple[str, ...] = ()  # default: the recipe's
    space: tuple[str, ...] = ()  # default: what the methods declare
    database: str = ""  # SQLAlchemy URL; default: a file in the sweep's folder
    jobs: int = 0  # processes; 0 is one, or with Ray as many as the cluster has room for
    engine: str = "local"  # or "ray"


@dataclass(frozen=True)
class Found:
    """What a sweep has found so far."""

    folder: Path
    study: str
    database: str  # without its password
    metric: str
    methods: tuple[str, ...]
    space: Mapping[str, Mapping[str, str]]
    trials: tuple[Trial, ...]
    best: Trial | None
    curve: tuple[tuple[int, float, float], ...]  # number, value, best so far
    importance: Mapping[str, float]
    recipe: str  # the best one's, as YAML
    seconds: float  # of this call
    ended: str  # why the search ended, in words
    remarks: tuple[str, ...] = ()
    bundle: Bundle | None = None  # the best trial's, with what the test rows say

    @property
    def usual(self) -> Trial | None:
        """The trial with the recipe as it would have been without a sweep; of several methods the first."""
        return next((trial for trial in self.trials if trial.is_usual and trial.state == "complete"), None)

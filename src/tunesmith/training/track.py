"""Send a run's events to an experiment tracker as well: TensorBoard, MLflow or Weights & Biases, by Accelerate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra, PlanProblem, nearest_first
from tunesmith.types import Event, Plan

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}  # name -> package


def demand_tracker(name: str) -> None:
    """Check that a tracker is known and installed, before anything is trained.

    Raises:
        PlanProblem: No such tracker.
        MissingExtra: Its package is not installed.
    """
    if name not in TRACKERS:
        raise PlanProblem(f"no tracker '{name}'", where="track", do=f"use one of: {nearest_first(name, TRACKERS)}")
    if importlib.util.find_spec(TRACKERS[name]) is None:
        raise MissingExtra(f"{name} is not installed", where="track", do=f"pip install 'tunesmith[{name}]'")


@contextmanager
def open_trackers(name: str, folder: Path, plan: Plan) -> Iterator[Callable[[Event], None]]:
    """Give a function that takes events; it does nothing when `name`, of the tracker, is empty."""
    if not name:
        yield lambda event: None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    demand_tracker(name)
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = {"logging_dir": str(folder / "tracking")} if kind.requires_logging_directory else {}
    tracker = kind(folder.name, **place)
    tracker.start()
    options = {key: value for key, value in plan.options.items() if isinstance(value, (int, float, str))}
    tracker.store_init_configuration({**options, "task": plan.task, "base": plan.base, "seed": plan.seed})
    try:
        yield lambda event: _send(tracker, event)
    finally:
        tracker.finish()


def _send(tracker: Any, event: Event) -> None:
    if event.kind in {"step", "evaluation"}:
        part = "train" if event.kind == "step" else "valid"
        values = {f"{part}/{key}": value for key, value in event.values.items()}
        tracker.log(values, step=event.step)

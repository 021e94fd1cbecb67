"""Send a run's events to an experiment tracker as well: TensorBoard, MLflow or Weights & Biases, by Accelerate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunesmith.errors import MissingExtra, PlanProblem, nearest_first
from tunesmith.types import Event

if TYPE_CHECKING:
    from tunesmith.training.job import Job

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
def open_trackers(job: Job) -> Iterator[Callable[[Event], None]]:
    """Give a function that takes events; it does nothing when the recipe names no tracker."""
    name = job.recipe.track
    if not name:
        yield lambda event: None
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert job.folder is not None
    demand_tracker(name)
    kind = LOGGER_TYPE_TO_CLASS[name]
    place = {"logging_dir": str(job.folder / "tracking")} if kind.requires_logging_directory else {}
    tracker = kind(job.folder.name, **place)
    tracker.start()
    options = {key: value for key, value in job.plan.options.items() if isinstance(value, (int, float, str))}
    tracker.store_init_configuration({**options, "task": job.plan.task, "base": job.plan.base, "seed": job.plan.seed})
    try:
        yield lambda event: _send(tracker, event)
    finally:
        tracker.finish()


def _send(tracker: object, event: Event) -> None:
    if event.kind in {"step", "evaluation"}:
        part = "train" if event.kind == "step" else "valid"
        values = {f"{part}/{key}": value for key, value in event.values.items()}
        tracker.log(values, step=event.step)  # type: ignore[attr-defined]

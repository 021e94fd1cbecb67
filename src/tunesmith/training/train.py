"""The verbs of this room, as Python has them: `train` and `resume`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith.bundle.load import Bundle
from tunesmith.errors import PlanProblem
from tunesmith.training.anytime import Anytime, prepare_anytime
from tunesmith.training.job import Job
from tunesmith.training.multi_task.tasks_file import is_tasks_file
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.processes import process_rank
from tunesmith.training.recipe import Recipe, canonical, make_recipe, read_recipe
from tunesmith.training.self_training import (
    SelfTraining,
    is_resumed_self_training,
    is_self_training,
    prepare_self_training,
    resume_self_training,
)
from tunesmith.types import Event


def train(data: str | Path, *, on_event: Callable[[Event], None] | None = None, **options: Any) -> Bundle:
    """Adapt a base model to the labelled rows in a file, measure what that gained, and keep the result.

    Args:
        data: A file of labelled rows, a folder saved by the datasets library, or a recipe (`.yaml`, `.json` recipe).
        on_event: Called with each Event as it happens, e.g. to show progress.
        options: Recipe keys, e.g. `epochs=3`, `label="stars"`; see `tunesmith.Recipe`.

    Returns:
        The finished run: `run.gain`, `run.predict([...])`, `run.path`.

    Raises:
        TunesmithError: In three parts: what happened, where, what to do.
    """
    if is_tasks_file(data):
        raise PlanProblem(
            "this recipe has several tasks, and a run has one",
            where=str(data),
            do=f"tunesmith train {data}; in Python: tunesmith.training.multi_task.run.train_together(...)",
        )
    is_recipe = Path(data).suffix in {".yaml", ".yml"}
    values = {**read_recipe(Path(data)), **canonical(options)} if is_recipe else {"data": str(data), **options}
    return _finish(ready(make_recipe(values)), on_event)


def resume(path: str | Path, *, on_event: Callable[[Event], None] | None = None) -> Bundle:
    """Go on with an unfinished run from its newest whole checkpoint; the weights end as if it had never stopped."""
    return _finish(ready_again(path), on_event)


def ready(recipe: Recipe) -> Job | Anytime | SelfTraining:
    """Make the run of a recipe ready, of whatever kind it is."""
    if is_self_training(recipe):
        return prepare_self_training(recipe)
    return prepare_anytime(recipe) if recipe.budget else prepare(recipe)


def ready_again(path: str | Path) -> Job | SelfTraining:
    """Make ready to go on with an unfinished run, of whatever kind it is."""
    return resume_self_training(path) if is_resumed_self_training(path) else prepare_resume(path)


def _finish(job: Job | Anytime | SelfTraining, on_event: Callable[[Event], None] | None) -> Bundle:
    for event in job.run():
        if on_event is not None:
            on_event(event)
    if job.bundle is None:
        raise PlanProblem(
            f"process {process_rank()} of this run makes no bundle; the first one does",
            where="RANK",
            do="start runs of several processes from the command line: tunesmith train ... --processes 2",
        )
    return job.bundle

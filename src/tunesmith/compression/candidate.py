"""A smaller model on its way to be a run of its own: it learns from the run that it stands for, by the one loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.load import Bundle
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.methods import METHODS, find_method
from tunesmith.training.job import Job
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import Recipe, make_recipe, read_recipe
from tunesmith.training.teaching import why_no_teacher
from tunesmith.types import Event

_KEPT = (
    *("data", "valid", "test", "columns", "text", "label", "metric", "max_rejected", "valid_share", "test_share"),
    *("baseline_rows", "abstain_at", "seed", "threads", "device", "mixed_precision", "batch_size", "batch_tokens"),
)
"""Recipe keys of the run that hold for what is made of it: its rows, how they are cut and measured, and the machine."""

Show = Callable[[Job, Iterable[Event]], None]
"""Goes through the events of a job and may show them."""


def drain(_: Job, events: Iterable[Event]) -> None:
    """Go through the events, and show none."""
    for _event in events:
        pass


@dataclass(frozen=True)
class Workshop:
    """What every step of a compression works with."""

    parent: Bundle  # the run that is compressed, opened with torch
    folder: Path  # to work in
    name: str  # of the bundle that comes out
    unlabelled: str = ""  # rows without labels to learn from
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe keys, as the person set them
    show: Show = drain
    say: Callable[[str], None] = lambda text: None
    stop_signal: Callable[[], int] = lambda: 0
    remarks: list[str] = field(default_factory=list)  # what the person should know; grows with each job

    def job(self, base: str | Path, what: str, **changes: Any) -> Job:
        """Make a run ready that learns from the parent.

        Args:
            base: The model that it starts from.
            what: That model in words, for the plan.
            changes: Recipe keys; what the person set goes before them.

        Raises:
            DataProblem: The rows are not those of the parent any more.
        """
        recipe = self._recipe(str(base), **changes)
        job = prepare(recipe)
        _demand_same_rows(self.parent, job)
        self.remarks.extend(one for one in job.remarks if one not in self.remarks)
        job.plan = dataclasses.replace(job.plan, base=what, parent=self.parent.id)
        job.teacher_folder, job.name = self.folder / "teacher", self.name
        return job

    def _recipe(self, base: str, **changes: Any) -> Recipe:
        asked = read_recipe(self.parent.path / "recipe.yaml")
        names = (*_KEPT, *self.parent.task.options)
        values = {name: asked[name] for name in names if name in asked}
        values |= {"task": self.parent.plan.task, "model": base, "method": "full"}
        if why_no_teacher(self.parent.task) is None:
            values |= {"teacher": str(self.parent.path.absolute()), "unlabelled": self.unlabelled}
        return make_recipe({**values, **changes, **self.settings})


def _demand_same_rows(parent: Bundle, job: Job) -> None:
    """Refuse other rows than the parent's; one that learnt from more rows than its files have is told of."""
    planned = parent.plan.data
    if job.intake.splits.fingerprint == planned["fingerprint"]:
        return
    files = {part: file["sha256"] for part, file in planned["files"].items() if part in job.intake.files}
    if files != {part: file["sha256"] for part, file in job.intake.files.items()}:
        raise DataProblem(
            "the rows that this run was trained on have changed since",
            where=", ".join(str(file["path"]) for file in planned["files"].values()),
            do="put the files back as they were, or train again",
        )
    job.remarks.append("the run learnt from other rows besides those of its files; the smaller model has these alone")


def demand_compressible(bundle: Bundle, unlabelled: str) -> None:
    """Refuse to train a smaller model of a run whose weights are not all its own, or that is asked in its own way.

    Raises:
        PlanProblem: Says why.
    """
    method, where = bundle.plan.method, str(bundle.path)
    if method in METHODS and (hasattr(find_method(method), "own_task") or hasattr(find_method(method), "deal")):
        raise PlanProblem(
            f"method '{method}' asks its model in a way of its own, which a smaller model cannot be trained for",
            where=where,
            do="compress a run of another method; `tunesmith methods` lists them",
        )
    if (delta := bundle.facts.get("delta")) and not delta["merged"]:
        raise PlanProblem(
            "this run holds what was learnt apart from its base model",
            where=where,
            do="train it again with --set merge=yes, and compress that",
        )
    if unlabelled and (reason := why_no_teacher(bundle.task)):
        raise PlanProblem(
            f"unlabelled rows are learnt from what the run says of them: {reason}",
            where="unlabelled",
            do="leave --unlabelled out",
        )


def longest_read(bundle: Bundle) -> dict[str, Any]:
    """Give the recipe keys by which a model of the same tokenizer reads texts as the run does."""
    return {"max_length": int(bundle.facts["max_length"]), "head_learning_rate_factor": 1.0}

"""Many small runs of some rows of one file, each measured on the same test rows; what they share is computed once."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.data.store import choose
from tunesmith.errors import PlanProblem
from tunesmith.methods import find_method, is_trained
from tunesmith.models.prefix_cache import FrozenPrefix, States, frozen_blocks
from tunesmith.tasks import Example
from tunesmith.training.intake import Intake
from tunesmith.training.job import Job
from tunesmith.training.memo import Made, Memo
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import Recipe
from tunesmith.types import Scores, Splits


@dataclass(frozen=True)
class Measured:
    """What one run did."""

    job: Job
    scores: Scores
    values: list[Any]  # its answers to the test rows


class Bench:
    """Trains on some of the rows; what does not change from run to run is computed once.

    Args:
        recipe: Of all runs.
        rows: The pool as training rows, validation and test rows.
        folder: For the states of frozen blocks.
        stop_signal: Asked after every step.
    """

    def __init__(self, recipe: Recipe, rows: Intake, folder: Path, *, stop_signal: Callable[[], int]) -> None:
        self.recipe = dataclasses.replace(recipe, prefix_cache="no", out="")
        self.rows, self.memo, self.folder, self.stop_signal = rows, _BaseMemo(), folder, stop_signal
        self._states: States | None = None
        self._blocks = 0
        # Texts are cut in the same place in all runs, so that their states are the same.
        whole = self._prepared(range(len(rows.splits.train)), recipe.seed)
        self.recipe = dataclasses.replace(self.recipe, max_length=int(whole.plan.options["max_length"]))
        self._pool = whole.examples["train"]

    def train(self, places: Sequence[int], seed: int) -> Measured:
        """Train on the rows at these places of the pool, and measure on the test rows."""
        job = self._prepared(places, seed)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, self.spared(job):
            job.folder = Path(folder)
            for _ in job.learn(self.stop_signal):
                pass
            scores, answers = job.measure()
            decoded = job.intake.task.decode(answers, labels=job.plan.labels)
            return Measured(job, scores, [value for value, _, _ in decoded])

    def _prepared(self, places: Sequence[int], seed: int) -> Job:
        """Make a run ready whose training rows are at these places; the labels are known from the start."""
        splits = self.rows.splits
        train = choose(splits.train, places)
        fingerprint = data.fingerprint(train, splits.valid, splits.test)
        some = dataclasses.replace(self.rows, splits=Splits(train, splits.valid, splits.test, fingerprint))
        return prepare(dataclasses.replace(self.recipe, seed=seed), memo=self.memo, rows=some)

    @contextlib.contextmanager
    def spared(self, job: Job) -> Iterator[None]:
        """Run a job's frozen blocks once for all texts of all runs, where its method leaves some alone."""
        if self._states is None:
            self._blocks = frozen_blocks(job.anatomy)
            self._states = States(self.folder / "prefix.f32", job.anatomy.hidden, self.recipe.cache_mib * 2**20)
        if not self._blocks:
            yield
            return
        prefix = FrozenPrefix(job.anatomy, self._blocks, self._states)
        with prefix:
            if not self._states.is_whole:
                prefix.remember(lambda: self._run_all(job))
            yield

    def _run_all(self, job: Job) -> None:
        """Put every text through the model, as training and answering will."""
        for examples in (self.pool, job.examples["valid"], job.examples["test"]):
            job.intake.task.answer(job.model.eval(), examples, **settings_of(job))

    @property
    def pool(self) -> Sequence[Example]:
        """All rows of the pool as every run reads them."""
        return self._pool


def demand_method(name: str) -> None:
    """Refuse a method that does not learn more from more labels of the same rows.

    Raises:
        PlanProblem: It learns nothing, or holds labels back itself.
    """
    method = find_method(name)
    if hasattr(method, "deal") or not is_trained(method):
        what = f"method '{name}' cannot show what more labels bring"
        raise PlanProblem(what, where="method", do="use top-layers, full, lora ...")


class _BaseMemo(Memo):
    """Keeps the base model, and no rows: those of each run are others."""

    def recall(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Give what was made for this key, or make it."""
        return make() if isinstance(key, tuple) and key[0] == "examples" else super().recall(key, make)


def settings_of(job: Job) -> dict[str, Any]:
    """Give what a task asks for when it answers with the model of a run."""
    return {
        "tokenizer": job.tokenizer,
        "labels": job.plan.labels,
        "batch_tokens": int(job.plan.options["batch_tokens"]),
    }

"""One update on its way: a training job with what it is held against, and the files that it leaves beside the model."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.bundle.kept_rows import record_of
from tunesmith.bundle.load import Bundle
from tunesmith.bundle.unfinished import NOTE, ROWS
from tunesmith.bundle.updated import FILE
from tunesmith.data.replay import FILE as KEPT
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.models.build import build_model, build_tokenizer, read_config
from tunesmith.models.find import find_base
from tunesmith.training import consolidation
from tunesmith.training.job import Job
from tunesmith.training.measure import Yardstick
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import Recipe
from tunesmith.types import Event, Plan, Record
from tunesmith.updating import matrix
from tunesmith.updating.rows import key_of, old_rows, records_of

TRAINED_ON = "trained_on.json"
"""Keys of the normalised texts that the model has learnt from, itself or through its parents; no text can be had back
from them, and the gate finds out by them whether rows that a model is measured on were learnt."""


@dataclass
class Update:
    """An update that is ready to start. `run` may be called once."""

    job: Job
    parent: Bundle
    note: Mapping[str, Any]  # what `update.json` says
    lineage: matrix.Lineage | None = field(default=None, init=False)  # set when it is measured
    _answers: tuple[Any, float | None] | None = field(default=None, init=False, repr=False)  # the parent's

    @property
    def plan(self) -> Plan:
        """What was decided."""
        return self.job.plan

    @property
    def folder(self) -> Path | None:
        """Where it is kept."""
        return self.job.folder

    @property
    def bundle(self) -> Bundle | None:
        """The finished candidate."""
        return self.job.bundle

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the person should know before it starts."""
        return (*self.note["remarks"], *self.job.remarks)

    def run(self, stop_signal: Callable[[], int] = lambda: 0) -> Iterator[Event]:
        """Train, measure and keep the candidate; raises as `Job.run` does, and where its rows are gone."""
        rows = Path(self.job.recipe.data).parent
        if not (rows / NOTE).is_file():
            raise DataProblem(
                "rows that this update was to learn from were deleted meanwhile",
                where=str(rows),
                do=f"start it again: tunesmith update {self.parent.path}",
            )
        yield from self.job.run(stop_signal)

    def with_parent(self, naive: Yardstick) -> Yardstick:
        """Add the parent's answers on the same test rows as what was there before."""
        task, plan = self.job.intake.task, self.plan
        records = self.job.intake.splits.test
        start = time.perf_counter()
        answers = self._parents_answers
        main = str(plan.options["metric"])
        scores = task.score(records, answers, labels=self.parent.labels, main=main, seed=plan.seed)
        scores = dataclasses.replace(scores, seconds=time.perf_counter() - start)
        return dataclasses.replace(naive, before=scores, answers={**naive.answers, "before": answers})

    @functools.cached_property
    def _parents_answers(self) -> Any:
        return self.parent.answer(self.job.intake.splits.test)

    def files(self) -> dict[str, bytes]:
        """Give what the bundle holds beside the model: lineage, kept rows, keys of texts, perhaps a Fisher."""
        assert self.job.folder is not None
        rows = self.job.folder / ROWS
        self.lineage = self._lineage()
        kept = (rows / KEPT).read_bytes() if (rows / KEPT).is_file() else b""  # deleted in this very moment
        note = (json.dumps(self.note, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        found = {FILE: matrix.write_lineage(self.lineage), TRAINED_ON: self._keys(), NOTE: note}
        if kept:
            found[KEPT] = kept
        if self.plan.options.get("ewc"):
            found[consolidation.FILE] = self._fisher()
        return found

    def _lineage(self) -> matrix.Lineage:
        test, number = self.job.intake.splits.test, int(self.note["number"])
        places = _places_by_step(test)
        answers = self.job.test_answers
        mine = {step: self._score(some, answers, self.plan.labels) for step, some in places.items()}
        theirs = {step: self._score(some, self._parents_answers, self.parent.labels) for step, some in places.items()}
        before = matrix.read_lineage(self.parent)
        if before is None:
            before = matrix.first_lineage(
                self.parent, theirs.get(0, self.parent.gain.after.value), len(places.get(0, ()))
            )
        step = matrix.Step(
            self.plan.id,
            str(Path(str(self.job.folder)).absolute()),
            str(self.note["strategy"]),
            str(self.note["source"]),
            str(self.note["source_sha256"]),
            int(self.note["new"]),
            int(self.note["replayed"]),
            tuple(self.note["new_labels"]),
            self.job.training_seconds,
            self.plan.steps,
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            dict(self.note["persons"]),
        )
        own = places.get(number, [])
        return matrix.with_step(
            before,
            step,
            [mine.get(each) for each in range(number + 1)],
            test_rows=len(own),
            before=theirs.get(number),
            untrained=self._untrained([test[place] for place in own]) if own else None,
        )

    def _score(self, places: Sequence[int], answers: Any, labels: Sequence[str]) -> float:
        records = [self.job.intake.splits.test[place] for place in places]
        some = answers[np.array(places)] if isinstance(answers, np.ndarray) else [answers[place] for place in places]
        task, main = self.job.intake.task, str(self.plan.options["metric"])
        return task.score(records, some, labels=labels, main=main, seed=self.plan.seed).value

    def _untrained(self, records: Sequence[Record]) -> float | None:
        """Score the base model of the first training with its head as it is drawn; None where there is none."""
        task: Any = self.parent.task
        lineage = matrix.read_lineage(self.parent)
        if not task.has_fresh_head:
            return None
        try:
            base = find_base(lineage.base if lineage else self.parent.plan.base)
            entries = task.model_config(self.plan.labels)
            model = build_model(base.folder, task.model_class(read_config(base.folder)), seed=self.plan.seed, **entries)
            tokenizer = build_tokenizer(base.folder)
        except TunesmithError:  # the base model is gone; the other measures do without
            return None
        settings = {"labels": self.plan.labels, "max_length": int(self.plan.options["max_length"])}
        examples = task.encode(records, tokenizer, **settings)
        batch_tokens = int(self.plan.options["batch_tokens"])
        answers = task.answer(model, examples, tokenizer=tokenizer, labels=self.plan.labels, batch_tokens=batch_tokens)
        main = str(self.plan.options["metric"])
        return float(task.score(records, answers, labels=self.plan.labels, main=main, seed=self.plan.seed).value)

    def _keys(self) -> bytes:
        old = known_keys(self.parent)
        mine = {key_of(record) for record in self.job.intake.splits.train}
        keys = sorted(mine | (old or set()))
        content = {"format": 1, "is_whole": old is not None, "keys": [f"{key:016x}" for key in keys]}
        return (json.dumps(content) + "\n").encode()

    def _fisher(self) -> bytes:
        from safetensors.torch import load_file, save

        paths = (self.parent.path / consolidation.FILE, Path(self.job.recipe.data).parent / consolidation.FILE)
        before = next((load_file(path) for path in paths if path.is_file()), None)
        examples = self.job.examples["train"]
        found = consolidation.measure_fisher(
            self.job.model, self.parent.task, examples, self.job.tokenizer, before=before
        )
        return bytes(save(found))


def known_keys(bundle: Bundle) -> set[int] | None:
    """Give the keys of the texts that a bundle has learnt from; None where they cannot all be found out."""
    path = bundle.path / TRAINED_ON
    if path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        return {int(key, 16) for key in content["keys"]} if content["is_whole"] else None
    try:
        rows = old_rows(bundle)
    except TunesmithError:
        return None
    if not rows.is_whole:
        return None
    return {key_of(record_of(bundle.task, row)) for row in rows.rows if row.part == "train"}


def _places_by_step(records: Sequence[Record]) -> dict[int, list[int]]:
    """Give the places of the test rows that each update brought: an id begins with its number."""
    places: dict[int, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(int(record.id.split("-", 1)[0]), []).append(place)
    return places


def make_update(folder: Path, note: Mapping[str, Any], parent: Bundle, recipe: Recipe) -> Update:
    """Prepare the training job of an update whose rows are written.

    Args:
        folder: Of the candidate.
        note: What `update.json` says.
        parent: Open.
        recipe: Of the candidate.
    """
    if recipe.ewc:
        _measure_parents_fisher(parent, Path(recipe.data).parent)
    job = prepare_resume(folder) if (folder / "plan.json").is_file() else prepare(recipe)
    update = Update(job, parent, note)
    job.own_before, job.own_files = update.with_parent, update.files
    return update


def _measure_parents_fisher(parent: Bundle, rows: Path) -> None:
    """Find out how much each weight of the parent matters, where it does not hold that itself."""
    from safetensors.torch import save

    from tunesmith.bundle.atomic import write_file

    if (parent.path / consolidation.FILE).is_file() or (rows / consolidation.FILE).is_file():
        return
    old = records_of(parent.task, old_rows(parent).part("train"))
    examples = parent.encode(old[:: max(1, len(old) // consolidation.MOST_ROWS)])
    model = build_model(parent.path, parent.task.model_class(read_config(parent.path)))
    found = consolidation.measure_fisher(model, parent.task, examples, parent.tokenizer)
    write_file(rows / consolidation.FILE, bytes(save(found)))

"""Open a bundle, check that it is whole, and answer with it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.bundle.atomic import MANIFEST, find_damage
from tunesmith.errors import BundleProblem
from tunesmith.tasks import TASKS, Task, find_task
from tunesmith.types import Gain, Origin, Plan, Prediction, Record, Scores, from_json

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 512  # rows that are read, sorted by length and answered together when a stream is predicted


@dataclass(frozen=True)
class Bundle:
    """A tuned model in a folder. Cheap to open; the model is built when the first answer is asked for."""

    path: Path
    facts: Mapping[str, Any]  # bundle.json
    plan: Plan
    gain: Gain
    own_task: Task | None = None  # as given to `load`, for a task that is not in the catalogue

    @property
    def id(self) -> str:
        """Hash of the plan that made it."""
        return str(self.facts["id"])

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it answers with, in index order."""
        return tuple(self.facts["labels"])

    @property
    def threshold(self) -> float | None:
        """Confidence below which it abstains; None when it always answers."""
        return None if self.facts["threshold"] is None else float(self.facts["threshold"])

    @functools.cached_property
    def task(self) -> Task:
        """The task it was tuned for."""
        if self.own_task is not None:
            return self.own_task
        name = str(self.facts["task"])
        if name not in TASKS:  # never `module:NAME` from a file that somebody else may have written
            raise BundleProblem(
                f"this run's task, '{name}', is not one that Tunesmith ships",
                where=str(self.path / "bundle.json"),
                do="if you trust it, open the run with tunesmith.load(RUN, task=YOUR_TASK)",
            )
        return find_task(name)

    @functools.cached_property
    def _engine(self) -> tuple[Any, Any]:
        """Model and tokenizer, built once."""
        from tunesmith.models.build import build_model, build_tokenizer
        from tunesmith.models.find import check_folder

        check_folder(self.path)
        return build_model(self.path, self.task.model_class), build_tokenizer(self.path)

    def answer(self, records: Sequence[Record]) -> np.ndarray[Any, Any]:
        """Give the task's raw answers (for classification: calibrated logits, rows by labels) in the records' order."""
        model, tokenizer = self._engine
        max_length = int(self.facts["max_length"])
        examples = self.task.encode(records, tokenizer, labels=self.labels, max_length=max_length)
        batch_tokens = int(self.facts["batch_tokens"])
        return self.task.answer(model, examples, pad_id=tokenizer.pad_token_id, batch_tokens=batch_tokens)

    def predict(self, inputs: str | Sequence[str]) -> list[Prediction]:
        """Answer one text or several; an answer's `value` is None where the bundle abstains.

        Raises:
            TypeError: Something other than text was given.
        """
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"predict takes text, or a list of texts; this is {type(text).__name__}: {text!r:.80}")
        # Arguments of a command may hold bytes that are no text; no tokenizer takes them.
        readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        records = [Record(str(row), {"text": text}, None, Origin("input", row)) for row, text in enumerate(readable, 1)]
        return list(self.predictions(records))

    def predictions(self, records: Iterable[Record]) -> Iterator[Prediction]:
        """Answer a stream of records of any length, in order, holding a few hundred at a time."""
        waiting = iter(records)
        while part := list(itertools.islice(waiting, _AT_ONCE)):
            start = time.perf_counter()
            decoded = self.task.decode(self.answer(part), labels=self.labels)
            seconds = (time.perf_counter() - start) / len(part)
            for value, confidence, alternatives in decoded:
                is_sure = self.threshold is None or confidence is None or confidence >= self.threshold
                name = uuid.uuid4().hex
                yield Prediction(name, value if is_sure else None, confidence, alternatives, seconds, self.id)

    def score(self, records: Sequence[Record]) -> Scores:
        """Answer records with known targets and score the answers, with intervals."""
        self._engine  # noqa: B018 - built here, so that only answering is timed
        start = time.perf_counter()
        answers = self.answer(records)
        seconds = time.perf_counter() - start
        main = str(self.plan.options["metric"])
        scores = self.task.score(records, answers, labels=self.labels, main=main, seed=self.plan.seed)
        if self.threshold is not None:
            precision = float(self.plan.options["abstain_precision"])
            scores = self.task.with_abstention(
                scores, answers, records, labels=self.labels, threshold=self.threshold, precision=precision
            )
        return dataclasses.replace(scores, seconds=seconds)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {self.plan.task}, {len(self.labels)} labels)"

    def _repr_html_(self) -> str:
        """Show the report's table in a notebook."""
        from tunesmith.bundle.report import gain_table_html

        return gain_table_html(self.name, self.gain)


def load(path: str | Path, *, verify: bool = True, task: Task | None = None) -> Bundle:
    """Open a run folder.

    Args:
        path: The folder that `train` made.
        task: Your own task object, for a run of a task that is not in the catalogue.
        verify: Compare every file with the manifest's hashes first (about 0.1 seconds for 100 MB).

    Raises:
        BundleProblem: The folder is missing, unfinished, damaged, or of a newer format.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        near = (
            sorted(item.name for item in folder.parent.iterdir() if (item / MANIFEST).is_file())
            if folder.parent.is_dir()
            else []
        )
        listed = f"; {folder.parent} has: {', '.join(near[:5])}" if near else ""
        raise BundleProblem(
            f"there is no run folder '{path}'{listed}",
            where=str(path),
            do="give the folder that `tunesmith train` named in its last lines",
        )
    if not (folder / MANIFEST).is_file():
        is_started = (folder / "plan.json").is_file()
        raise BundleProblem(
            "this run is not finished" if is_started else "this folder is no run: it has no manifest.json",
            where=str(folder),
            do=f"tunesmith train --resume {path}" if is_started else "give the folder that `tunesmith train` made",
        )
    faults = find_damage(folder) if verify else []
    if faults:
        raise BundleProblem(
            f"this run folder is damaged: {'; '.join(faults[:3])}"
            + (f" and {len(faults) - 3} more" if len(faults) > 3 else ""),
            where=str(folder),
            do="restore it from a copy, or train again: tunesmith train " + str(folder / "recipe.yaml"),
        )
    if not (folder / "bundle.json").is_file():
        raise BundleProblem(
            "this folder is no run: it has no bundle.json",
            where=str(folder),
            do="give the folder that `tunesmith train` made, not a checkpoint in it",
        )
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    if facts.get("format") != 1:
        raise BundleProblem(
            f"this run folder has format {facts.get('format')}; this version of Tunesmith reads format 1",
            where=str(folder),
            do="update Tunesmith: pip install --upgrade tunesmith",
        )
    plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    gain = from_json(Gain, json.loads((folder / "gain.json").read_text(encoding="utf-8")))
    return Bundle(folder, facts, plan, gain, task)

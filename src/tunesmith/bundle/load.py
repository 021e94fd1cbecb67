"""Open a bundle, check that it is whole, and answer with it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, NEXT, complete, explain_os_errors, find_damage
from tunesmith.bundle.exported import FOLDER, Exported, choose_exported, name_of
from tunesmith.bundle.members import ENTRY, TOKENS, Ensemble, open_ensemble
from tunesmith.data.layout import Cells, Fault
from tunesmith.engines import AUTO, TORCH
from tunesmith.errors import BundleProblem, DataProblem
from tunesmith.methods import own_task
from tunesmith.tasks import TASKS, Answered, Example, Task, find_task
from tunesmith.tasks.shown_rows import FILE, read_rows, with_rows
from tunesmith.types import Gain, Origin, Plan, Prediction, Record, Scores, from_json

Input = str | Mapping[str, Any]

_AT_ONCE = 512  # rows that are read, sorted by length and answered together when a stream is predicted


@dataclass(frozen=True)
class Bundle:
    """A tuned model in a folder. Cheap to open; the model is built when the first answer is asked for."""

    path: Path
    facts: Mapping[str, Any]  # bundle.json
    plan: Plan
    gain: Gain
    own_task: Task | None = None  # as given to `load`, for a task that is not in the catalogue
    exported: Exported | None = None  # what answers in place of torch
    threads: int | None = None  # CPU threads of an answer; None: what the engine would take
    remark: str = ""  # what the person should know of how it answers
    settings: Mapping[str, Any] = field(default_factory=dict)  # of its task, as an export has chosen them
    ensemble: Ensemble | None = None  # the runs that answer together in its place
    is_apart: bool = False  # built from base model and learnt part, also where the folder has them merged

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

    @functools.cached_property
    def speed(self) -> Mapping[str, Any]:
        """Where the time of its training went, and how much of the machine it used; empty for older runs."""
        path = self.path / "speed.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def threshold(self) -> float | None:
        """Confidence below which it abstains; None when it always answers."""
        return None if self.facts["threshold"] is None else float(self.facts["threshold"])

    @functools.cached_property
    def task(self) -> Task:
        """The task it was tuned for."""
        if self.own_task is not None:
            return self._as_asked(self.own_task.configured({**self.plan.options, **self.settings}))
        name = str(self.facts["task"])
        if name not in TASKS:  # never `module:NAME` from a file that somebody else may have written
            raise BundleProblem(
                f"this run's task, '{name}', is not one that Tunesmith ships",
                where=str(self.path / "bundle.json"),
                do="if you trust it, open the run with tunesmith.load(RUN, task=YOUR_TASK)",
            )
        return self._as_asked(find_task(name).configured({**self.plan.options, **self.settings}))

    def _as_asked(self, task: Task) -> Task:
        """Give the task as the run's method asks it, with the training rows that it shows, if any."""
        if self.exported is not None:  # only tasks that are asked as they are can be exported; methods load torch
            return task
        asked = own_task(self.plan.method, task, self.plan.options)
        return with_rows(asked, read_rows(self.path / FILE) if (self.path / FILE).is_file() else ())

    @functools.cached_property
    def _engine(self) -> tuple[Any, Any]:
        """Model (or what runs it) and tokenizer, built once."""
        if self.exported is not None:
            return self.exported.open(self.path / "config.json", threads=self.threads)
        if self.ensemble is not None:
            return self.ensemble.model, self.ensemble.tokenizer
        import torch

        from tunesmith.bundle.delta import rebuild
        from tunesmith.models.build import build_model, build_tokenizer, read_config
        from tunesmith.models.find import check_folder

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if (delta := self.facts.get("delta")) and (self.is_apart or not delta["merged"]):
            return rebuild(self.path, delta, self.plan, self.task), build_tokenizer(self.path)
        check_folder(self.path)
        model_class = self.task.model_class(read_config(self.path))
        return build_model(self.path, model_class), build_tokenizer(self.path)

    def answer(self, records: Sequence[Record], **options: Any) -> Any:
        """Give the task's raw answers (for classification: calibrated logits, rows by labels) in the records' order.

        Args:
            records: What to answer.
            options: Of the task, for this call alone, e.g. `max_new_tokens` of one that writes text.
        """
        return self.answer_encoded(self.encode(records, **options), **options)

    @property
    def model(self) -> Any:
        """What answers: a torch module, or an engine that does without torch; built when it is first asked for."""
        return self._engine[0]

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that goes with it."""
        return self._engine[1]

    def encode(self, records: Sequence[Record], **options: Any) -> list[Example]:
        """Give the records as the model takes them in: for each one window or several, in order."""
        task, max_length = self.task.configured(options), int(self.facts["max_length"])
        return task.encode(records, self.tokenizer, labels=self.labels, max_length=max_length)

    def answer_encoded(self, examples: Sequence[Example], **options: Any) -> Any:
        """Give the task's raw answers to what `encode` gave, one for each record."""
        if self.ensemble is not None and self.ensemble.kind != TOKENS:  # each member reads the rows in its own way
            return self.ensemble.answer_encoded(examples)
        model, tokenizer = self._engine
        task = self.task.configured(options)
        batch_tokens = int(self.facts["batch_tokens"]) if self.exported is None else self.exported.batch_tokens
        return task.answer(model, examples, tokenizer=tokenizer, labels=self.labels, batch_tokens=batch_tokens)

    def predict(self, inputs: Input | Sequence[Input], **options: Any) -> list[Prediction]:
        """Answer one input or several; an answer's `value` is None where the bundle abstains.

        Args:
            inputs: A text, or what the task asks for by role, e.g. `{"question": "...", "context": "..."}`; or a list.
            options: Of the task, for this call alone, e.g. `max_new_tokens=20`.

        Raises:
            TypeError: Something other than text was given.
            DataProblem: An input lacks something that the task needs.
        """
        each = [inputs] if isinstance(inputs, (str, Mapping)) else list(inputs)
        return list(self.predictions([self.record(one, row) for row, one in enumerate(each, 1)], **options))

    def stream(self, given: Input, **options: Any) -> Iterator[str]:
        """Answer one input piece by piece as it is written; only tasks that answer in words can.

        Raises:
            TypeError: The task has no words to stream.
        """
        task: Any = self.task.configured(options)
        if not hasattr(task, "stream"):
            raise TypeError(f"task {task.name} answers at once; use predict")
        model, tokenizer = self._engine
        yield from task.stream(model, tokenizer, self.record(given))

    def record(self, given: Input, row: int = 1) -> Record:
        """Make a record of one input, checked as a row of a file would be."""
        if not isinstance(given, (str, Mapping)):
            raise TypeError(f"predict takes text, or a list of texts; this is {type(given).__name__}: {given!r:.80}")
        form = self.task.forms[0]
        if isinstance(given, str):
            # Arguments of a command may hold bytes that are no text; no tokenizer takes them.
            given = {next(iter(form.inputs)): given.encode("utf-8", "replace").decode("utf-8")}
        if form.inputs.keys() == {"text"} and isinstance(given.get("text"), str):  # any text will do, also an empty one
            return Record(str(row), {"text": given["text"]}, None, Origin("input", row))
        try:
            fields = self.task.read_input(Cells(given))
        except Fault as fault:
            raise DataProblem(fault.reason, where=f"input {row}", do=fault.do) from fault
        return Record(str(row), fields, None, Origin("input", row))

    def predictions(self, records: Iterable[Record], **options: Any) -> Iterator[Prediction]:
        """Answer a stream of records of any length, in order, holding a few hundred at a time."""
        waiting = iter(records)
        while part := list(itertools.islice(waiting, _AT_ONCE)):
            start = time.perf_counter()
            answers = self.answer(part, **options)
            yield from self.decoded(answers, (time.perf_counter() - start) / len(part))

    def decoded(self, answers: Any, seconds: float) -> Iterator[Prediction]:
        """Yield raw answers as predictions; `seconds` is what each of them took."""
        for value, confidence, alternatives in self.task.decode(answers, labels=self.labels):
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
            decoded = self.task.decode(answers, labels=self.labels)
            scores = with_abstention(scores, self.task, records, decoded, self.threshold, precision)
        return dataclasses.replace(scores, seconds=seconds)

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {self.plan.task}, {len(self.labels)} labels)"

    def _repr_html_(self) -> str:
        """Show the report's table in a notebook."""
        from tunesmith.bundle.report import gain_table_html

        return gain_table_html(self.name, self.gain)


def sureness(task: Task, records: Sequence[Record], decoded: Sequence[Answered]) -> tuple[Any, Any]:
    """Give the confidence of each answer (N; 1 where there is none) and whether it is right (N)."""
    import numpy as np

    confidence = [1.0 if confidence is None else confidence for _, confidence, _ in decoded]
    is_right = [task.is_right(record, value) for record, (value, _, _) in zip(records, decoded, strict=True)]
    return np.array(confidence), np.array(is_right, dtype=bool)


def with_abstention(
    scores: Scores,
    task: Task,
    records: Sequence[Record],
    decoded: Sequence[Answered],
    threshold: float,
    precision: float,
) -> Scores:
    """Add `details["abstain"]`: threshold, coverage, the precision reached here and the one asked for."""
    from tunesmith import metrics

    reached = metrics.at_threshold(*sureness(task, records, decoded), threshold)
    details = {**scores.details, "abstain": {"precision": precision, "threshold": threshold, **reached}}
    return dataclasses.replace(scores, details=details)


def load(
    path: str | Path,
    *,
    verify: bool = True,
    task: Task | None = None,
    engine: str = AUTO,
    threads: int | None = None,
) -> Bundle:
    """Open a run folder.

    Args:
        path: The folder that `train` made.
        task: Your own task object, for a run of a task that is not in the catalogue.
        engine: What answers: torch, an engine that `tunesmith export` made a model for, or auto: the latter where it
            can run here, else torch (the bundle's `remark` then says why).
        threads: CPU threads of an answer; None leaves it to the engine.
        verify: Compare every file with the manifest's hashes first (about 0.1 seconds for 100 MB).

    Raises:
        BundleProblem: The folder is missing, unfinished, damaged, of a newer format, or not exported for the engine.
        MissingExtra: The engine that is asked for is not installed.
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
    if (folder / NEXT).is_dir():  # a better model was being put in its place when something stopped it
        with explain_os_errors(folder, "putting the newer model in its place"):
            complete(folder)
    if not (folder / MANIFEST).is_file():
        is_started = (folder / "plan.json").is_file()
        raise BundleProblem(
            "this run is not finished" if is_started else "this folder is no run: it has no manifest.json",
            where=str(folder),
            do=f"tunesmith train --resume {path}" if is_started else "give the folder that `tunesmith train` made",
        )
    manifest = _manifest(folder)
    has_export = bool(name_of(manifest)) and engine != TORCH
    if verify:
        _demand_whole(folder, lambda name: not _is_exported(name) and not (has_export and _is_weights(name)))
        if has_export:
            _demand_whole_export(folder)
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
    if ENTRY in facts and engine not in {AUTO, TORCH}:
        raise BundleProblem(
            f"an ensemble answers with torch, and engine '{engine}' was asked for",
            where=str(folder),
            do="answer with --engine auto, or export a model that was distilled from it",
        )
    exported, remark = choose_exported(folder, manifest, engine)
    settings: dict[str, Any] = {}
    if exported is not None and exported.engine == TORCH:  # no model of its own: the run's, in 8 bits
        settings, exported = {"weights": exported.facts["quantized"]}, None
    if verify and has_export and exported is None:
        _demand_whole(folder, _is_weights)
    plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    gain = from_json(Gain, json.loads((folder / "gain.json").read_text(encoding="utf-8")))
    open_run = functools.partial(load, verify=verify, engine=TORCH, threads=threads)
    ensemble = open_ensemble(folder, facts, open_run) if ENTRY in facts else None
    return Bundle(folder, facts, plan, gain, task, exported, threads, remark, settings, ensemble)


def _manifest(folder: Path) -> Mapping[str, Any]:
    """Give the manifest; nothing where it cannot be read, which `find_damage` tells of."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_exported(name: str) -> bool:
    return name.startswith(f"{FOLDER}/")


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _demand_whole(folder: Path, is_wanted: Callable[[str], bool]) -> None:
    if faults := find_damage(folder, is_wanted):
        raise BundleProblem(
            f"this run folder is damaged: {_listed(faults)}",
            where=str(folder),
            do="restore it from a copy, or train again: tunesmith train " + str(folder / "recipe.yaml"),
        )


def _demand_whole_export(folder: Path) -> None:
    if faults := find_damage(folder, _is_exported):
        raise BundleProblem(
            f"what this run was exported to is damaged: {_listed(faults)}",
            where=str(folder),
            do=f"export it again: tunesmith export {folder}; or answer with --engine torch",
        )


def _listed(faults: Sequence[str]) -> str:
    return "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")

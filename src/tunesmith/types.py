"""The nouns that travel between rooms. Frozen dataclasses; standard library only.

Every noun turns into plain JSON with `to_json`: that is what `--json` prints and what a run folder keeps.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


def to_json(value: Any) -> Any:
    """Give `value` as dicts, lists, strings, numbers, booleans and None, ready for `json.dumps`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_json(noun: Any, content: Any) -> Any:
    """Build a noun back from what `to_json` gave; unknown entries are left out, so that older code reads newer files.

    Args:
        noun: A dataclass of this file, or a type hint that one of its fields has.
        content: Parsed JSON.
    """
    if dataclasses.is_dataclass(noun):
        hints = _hints(noun)
        return noun(
            **{  # type: ignore[operator]
                item.name: from_json(hints[item.name], content[item.name])
                for item in dataclasses.fields(noun)
                if item.name in content
            }
        )
    inner = typing.get_args(noun)
    if content is None or not inner:
        return content
    origin = typing.get_origin(noun)
    if origin is Sequence:
        return tuple(from_json(inner[0], item) for item in content)
    if origin is tuple:
        kinds = itertools.repeat(inner[0]) if inner[-1] is Ellipsis else inner
        return tuple(from_json(kind, item) for kind, item in zip(kinds, content, strict=False))
    if origin is Mapping:
        return {key: from_json(inner[1], item) for key, item in content.items()}
    nouns = [kind for kind in inner if dataclasses.is_dataclass(kind)]  # Scores | None
    return from_json(nouns[0], content) if nouns else content


_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)  # working them out takes longest


@dataclass(frozen=True)
class Origin:
    """Where something stood in the user's own files."""

    path: str
    row: int  # 1-based; the physical line where the row starts in text files (a header is line 1), else the row count

    def __str__(self) -> str:
        return f"{self.path}:{self.row}"


@dataclass(frozen=True)
class Record:
    """One usable row: the fields that a task reads and the target that it learns."""

    id: str
    fields: Mapping[str, Any]  # by role, e.g. {"text": "..."}; not by the user's column names
    target: Any  # None where the row carries no answer (prediction)
    origin: Origin


@dataclass(frozen=True)
class Span:
    """A labelled stretch of a text."""

    start: int  # characters from the beginning of the text
    end: int  # exclusive: text[start:end]
    label: str = ""


@dataclass(frozen=True)
class Entity:
    """A stretch of a text that a model found; two are equal where text, label and place are."""

    text: str  # what stands there
    label: str
    start: int  # characters from the beginning of the text
    end: int  # exclusive
    score: float = field(default=1.0, compare=False)  # 0..1


@dataclass(frozen=True)
class Problem:
    """Something noticed in the data, in three parts like an error, but not (yet) a reason to stop."""

    severity: Severity
    kind: str  # a stable slug, e.g. "empty-text", "conflicting-labels"
    what: str
    do: str
    origin: Origin | None = None
    count: int = 1  # rows concerned


@dataclass(frozen=True)
class Rejected:
    """One row that could not be used, and why."""

    origin: Origin
    kind: str
    reason: str
    do: str
    fields: Mapping[str, str]  # what could be read of the row, each value cut to 200 characters


@dataclass(frozen=True)
class Augmentation:
    """What one kind of augmentation added to the training rows."""

    kind: str  # synonyms, delete, swap, back_translate, mixup
    settings: Mapping[str, Any]
    rows: int  # made and learnt from beside the labelled ones; 0 for what is done while training
    left_out: Mapping[str, int]  # why -> copies that were not used
    samples: tuple[tuple[str, str], ...] = ()  # a text as it was, and its copy


@dataclass(frozen=True)
class Inspection:
    """What is in a data file, as far as it can be told without a model."""

    path: str
    format: str  # csv, jsonl, parquet, datasets
    encoding: str  # utf-8, utf-8-sig, gb18030; empty for binary formats
    delimiter: str  # empty unless format is csv
    sha256: str
    rows: int  # data rows read, usable or not
    used: int
    columns: tuple[str, ...]
    roles: Mapping[str, str]  # role -> column, e.g. {"text": "review", "label": "stars"}
    inferred: tuple[str, ...]  # one sentence for each thing that was guessed, with the option that overrides it
    label_counts: Mapping[str, int]
    length_histogram: tuple[tuple[int, int, int], ...]  # (from, to, rows) in characters, `to` exclusive
    duplicates: int  # rows whose normalised text stood earlier in the file
    personal: Mapping[str, int]  # kind of personal data -> rows that hold it
    rejected: tuple[Rejected, ...]
    problems: tuple[Problem, ...]
    augmented: tuple[Augmentation, ...] = ()  # of a training run: copies that were added to its training rows


@dataclass(frozen=True)
class Splits:
    """The records in three parts; a text and its duplicates are all in the same part."""

    train: Sequence[Record]  # tuples of few rows; of many, views of what is on disk
    valid: Sequence[Record]
    test: Sequence[Record]
    fingerprint: str  # sha256 over ids, fields and targets of the three parts, in order


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, decided before it starts. Its id is the hash of its content."""

    task: str
    method: str
    base: str  # as the user named it
    base_sha256: str  # of the base model's weights and configuration
    data: Mapping[str, Any]  # paths, file hashes, roles, fingerprint, rows in each part
    labels: tuple[str, ...]
    options: Mapping[str, Any]  # every resolved recipe key that shapes training
    seed: int
    device: str
    threads: int
    precision: str  # no, bf16, fp16
    steps: int  # optimiser steps if training does not stop early
    expected_seconds: float
    expected_memory_mib: float
    versions: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""  # id of the bundle that this one updates

    @property
    def essence(self) -> dict[str, Any]:
        """All that shapes the weights, as JSON: without estimates, and with files and base by hash, not by name."""
        content: dict[str, Any] = to_json(self)
        for name in ("expected_seconds", "expected_memory_mib", "base"):
            content.pop(name)
        files = self.data.get("files", {})
        content["data"]["files"] = {part: file.get("sha256", "") for part, file in files.items()}
        return content

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of a hash over all that shapes the weights."""
        text = json.dumps(self.essence, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Event:
    """One thing that happened in a run; what progress lines, logs and pages are made of."""

    kind: Literal["stage", "step", "evaluation", "checkpoint", "note", "end", "trial"]
    seconds: float  # steps: spent training, over all resumptions; stages: since the command started
    step: int = 0
    values: Mapping[str, float] = field(default_factory=dict)  # e.g. loss, learning_rate, accuracy
    text: str = ""


@dataclass(frozen=True)
class Scores:
    """How good a set of answers is, with what is needed to believe it and to look closer."""

    values: Mapping[str, float]  # metric -> value, shares in 0..1
    intervals: Mapping[str, tuple[float, float]]  # metric -> 95% bootstrap interval over the rows
    n: int  # rows scored
    main: str  # the metric that decides
    seconds: float = 0.0  # what it cost to train (if anything) and to answer
    per_label: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # precision, recall, f1, support
    details: Mapping[str, Any] = field(default_factory=dict)  # task-shaped, see the task's `score`
    worst: tuple[Mapping[str, Any], ...] = ()  # the most confident mistakes

    def __repr__(self) -> str:
        shown = []
        for name, value in self.values.items():
            low, high = self.intervals.get(name, (None, None))
            shown.append(f"{name}={value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else ""))
        return f"Scores({', '.join(shown)}, n={self.n})"

    @property
    def value(self) -> float:
        """The main metric's value."""
        return self.values[self.main]

    @property
    def interval(self) -> tuple[float, float]:
        """The main metric's 95% interval."""
        return self.intervals[self.main]


@dataclass(frozen=True)
class Difference:
    """A paired bootstrap comparison of two sets of answers on the same rows."""

    metric: str
    value: float  # first minus second
    interval: tuple[float, float]  # 95%
    n: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Gain:
    """What adaptation brought: naive baselines, the model before and the model after, on the same test rows."""

    baselines: Mapping[str, Scores]  # by name: "majority", "tfidf"
    before: Scores | None  # zero-shot; None where the base model has no way to answer untrained
    after: Scores
    differences: Mapping[str, Difference]  # after minus each baseline (and minus "before"), main metric
    trainable_share: float  # 0..1 of all parameters
    seconds: float  # the whole run
    verdict: str  # in plain words
    advice: tuple[str, ...] = ()  # what would help, when the verdict is not a clear win

    def __repr__(self) -> str:
        scores = {**self.baselines, **({"before": self.before} if self.before else {}), "after": self.after}
        lines = [
            f"  {name:<10} {each.main} {each.value:.3f} ({each.interval[0]:.3f} to {each.interval[1]:.3f})"
            for name, each in scores.items()
        ]
        return "\n".join(["Gain", *lines, f"  {self.verdict}"])


@dataclass(frozen=True)
class Comparison:
    """Several bundles on the same rows."""

    metric: str
    scores: Mapping[str, Scores]  # by run, in the order given
    differences: Mapping[str, Difference]  # "a - b" for each pair of runs
    winners: Mapping[str, Mapping[str, float]]  # label -> F1 by run, best first
    changed: tuple[Mapping[str, Any], ...]  # rows that the runs answer differently: text, row, expected, answers by run
    changed_count: int
    n: int
    rejected: tuple[Rejected, ...] = ()  # rows of the file that could not be used
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """One answer. `value` is None where the model abstains."""

    id: str
    value: Any
    confidence: float | None  # 0..1, calibrated
    alternatives: Mapping[str, float]  # every label with its score, best first
    seconds: float
    bundle: str  # id of the bundle that answered


@dataclass(frozen=True)
class Feedback:
    """What a person said of one answer, or the answer that they gave to a row that nobody had answered."""

    id: str
    prediction: str  # id of the Prediction it is about; empty where a row was labelled without one
    model: str  # the name it was served under
    bundle: str  # id of the bundle that answered
    fields: Mapping[str, Any]  # by role, personal data masked
    answered: Any  # what the bundle said; None where it abstained
    is_correct: bool | None  # None where only a comment or a corrected answer was given
    corrected: Any  # what it should have said, as in a labelled file; None where nothing was corrected
    comment: str
    by: str  # who said it: the name of a key, or of a person at the terminal
    subject: str  # whom the row is about, as the caller names them: their rows can be deleted; empty where unknown
    at: float  # seconds since 1970, UTC

"""What the gate looks at: champion and candidate on the same rows, asked in turn.

Letters: N rows.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.bundle.load import Bundle
from tunesmith.data.noise import disturbed, letters_of
from tunesmith.tasks import Answered
from tunesmith.types import Feedback, Record

Truths = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]

_TIMED_ROWS = 20
_TIMES = 7  # each row is asked of both, in turn
_MISTYPED_ROWS = 300
_MISTYPED_SHARE = 0.1  # of the letters
DRAWS = 500  # bootstrap resamples of what has no closed form


@dataclass(frozen=True)
class Side:
    """One bundle's answers to the golden rows, in their order."""

    bundle: Bundle
    decoded: tuple[Answered, ...]
    is_right: Truths  # (N)
    is_finite: bool

    @property
    def values(self) -> list[Any]:
        """What it answered."""
        return [value for value, _, _ in self.decoded]

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """How sure it was (N); 1 where it does not say."""
        return np.array([1.0 if sure is None else sure for _, sure, _ in self.decoded])


def asked(bundle: Bundle, records: Sequence[Record]) -> Side:
    """Let a bundle answer the records."""
    answers = bundle.answer(records)
    is_finite = not isinstance(answers, np.ndarray) or bool(np.isfinite(answers).all())
    if not is_finite:
        answers = np.nan_to_num(answers)
    decoded = tuple(bundle.task.decode(answers, labels=bundle.labels))
    rights = (bundle.task.is_right(record, value) for record, (value, _, _) in zip(records, decoded, strict=True))
    return Side(bundle, decoded, np.fromiter(rights, dtype=bool, count=len(records)), is_finite)


@dataclass(frozen=True)
class Trial:
    """Both sides, and all that the rules may ask of them; what costs time is measured when it is asked for."""

    champion: Side
    candidate: Side
    records: tuple[Record, ...]  # the golden rows: those that the champion was measured on, then new ones
    is_new: Truths  # (N) rows that only the candidate's update brought
    feedback: Sequence[Feedback] = ()  # that the update learnt from
    per_person: int = 300  # rows of feedback that one person may give to one update
    trusted: frozenset[str] = field(default_factory=frozenset)  # people whose feedback need not agree with anything

    @functools.cached_property
    def latency(self) -> tuple[float, float]:
        """The 95th percentile over rows of the median time of an answer: champion's and candidate's, in seconds."""
        step = max(1, len(self.records) // _TIMED_ROWS)
        some = self.records[::step][:_TIMED_ROWS]
        sides = (self.champion.bundle, self.candidate.bundle)
        for bundle in sides:
            for record in some[:3]:
                bundle.answer([record])
        taken: tuple[list[float], list[float]] = ([], [])
        for record in some:
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(_TIMES):
                for bundle, mine in zip(sides, times, strict=True):
                    start = time.perf_counter()
                    bundle.answer([record])
                    mine.append(time.perf_counter() - start)
            for mine, all_of_it in zip(times, taken, strict=True):
                all_of_it.append(statistics.median(mine))
        first, second = (float(np.percentile(each, 95)) for each in taken)
        return first, second

    @functools.cached_property
    def mistyped(self) -> tuple[Shares, Shares, npt.NDArray[np.int64]] | None:
        """How often (0..1) each side is right when a row is mistyped, and the rows' places; None where none can be.

        Few rows are mistyped several times each: where a mistake falls is chance, which should not decide.
        """
        task: Any = self.champion.bundle.task
        names = getattr(task, "noisy_fields", ())
        if not names:
            return None
        step = max(1, -(-len(self.records) // _MISTYPED_ROWS))
        places = np.arange(0, len(self.records), step)
        some = [self.records[place] for place in places]
        texts = [str(record.fields[name]) for record in some for name in names if record.fields.get(name)]
        letters = letters_of(texts)
        times = max(1, _MISTYPED_ROWS // len(some))
        others = [_mistyped(record, names, letters, seed) for seed in range(times) for record in some]
        first, second = (
            asked(side.bundle, others).is_right.reshape(times, -1).mean(0) for side in (self.champion, self.candidate)
        )
        return first, second, places


def _mistyped(record: Record, names: Sequence[str], letters: tuple[str, str], seed: int) -> Record:
    changed = {
        name: disturbed(record.fields[name], "typos", _MISTYPED_SHARE, seed=seed, letters=letters)
        for name in names
        if isinstance(record.fields.get(name), str)
    }
    return Record(record.id, {**record.fields, **changed}, record.target, record.origin)


def draws(n: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Give the rows of each bootstrap resample (DRAWS, N); the same for the same n and seed."""
    return np.random.default_rng(seed).integers(0, n, size=(DRAWS, n))


def least(values: npt.NDArray[np.float64]) -> float:
    """Give the lower 95% limit (one-sided) of resampled values."""
    return float(np.percentile(values, 5))

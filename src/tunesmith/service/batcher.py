"""Which rows go to a model together, and when. No process, no clock of its own: whoever calls says what time it is.

Rows wait in lines: those of one model with the same options stand in one line, because only they can be answered
together. A batch begins with the row that has waited longest and takes the rows most like it in length.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.service.pool_settings import Limits
from tunesmith.service.refusals import Busy

_WINDOW = 8  # batches' worth of rows among which those of like length are looked for
_SLOW_CHANGE = 0.2  # weight of the newest batch in what a batch takes
_FIRST_GUESS_SECONDS = 0.02  # that a batch takes, before any was seen
_LEAST_WAIT_SECONDS = 0.05  # that a refused client is told to wait
_LEAST_STANDING_SECONDS = 0.05  # that a standing queue may always hold


@dataclass(eq=False)
class Row:
    """One input that waits for its answer."""

    request: Any  # whose it is; rows of a request that is cancelled go together
    place: int  # among the request's inputs
    model: str  # key of what answers
    options: str  # as JSON
    tokens: int  # about
    since: float  # seconds, when it came
    is_alone: bool = False  # goes by itself: the batch that it was in failed
    tries: int = 0  # how often it was sent to a worker
    is_stream: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows for one call of one model."""

    model: str
    options: str
    rows: tuple[Row, ...]

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return max(row.tokens for row in self.rows) * len(self.rows)


@dataclass
class _Line:
    rows: collections.deque[Row] = field(default_factory=collections.deque)


class Batcher:
    """The queue of one pool.

    Args:
        limits: How long rows wait and how many may.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting = 0  # rows
        self._lines: dict[tuple[str, str, bool], _Line] = {}
        self._spent: dict[str, float] = {}  # model -> seconds of work given to it, for fairness
        self._seconds = _FIRST_GUESS_SECONDS  # that a batch takes
        self._rows = 1.0  # that a batch has
        self._stands_since: float | None = None
        self._coming = 0  # requests on their way to the queue, when last told

    def add(self, rows: Sequence[Row], now: float, *, workers: int) -> None:
        """Let one request's rows wait, all or none.

        Args:
            rows: Of one model and one set of options.
            now: Seconds.
            workers: That answer at once.

        Raises:
            Busy: Too many wait; says when it is worth asking again.
        """
        if self.waiting and self.waiting + len(rows) > self.room(now, workers=workers):
            seconds = self.expected_seconds(self.waiting + len(rows), workers=workers)
            raise Busy.of(max(_LEAST_WAIT_SECONDS, seconds))
        if self._stands_since is None:
            self._stands_since = now
        for row in rows:
            self._line(row).rows.append(row)
        self.waiting += len(rows)

    def full_for(self, now: float, *, workers: int, coming: int = 0) -> float:
        """Give after how many seconds one more row would be let in; 0 where it is now.

        Args:
            now: Seconds.
            workers: That answer at once.
            coming: Requests that were let in and have not come as far as the queue. They count as waiting: where more
                come in at a time than can be looked at, the queue itself is empty in between.
        """
        self._coming, before = coming, self.waiting + coming
        self._note_empty()
        if before and self._stands_since is None:
            self._stands_since = now
        if not before or before < self.room(now, workers=workers):
            return 0.0
        return max(_LEAST_WAIT_SECONDS, self.expected_seconds(before + 1, workers=workers))

    def room(self, now: float, *, workers: int) -> int:
        """Give how many rows may wait now: many in a burst, few once the queue stands, so that nobody waits long.

        Source: the controlled delay of Nichols and Jacobson 2012, with refusal in place of dropping.
        """
        limits = self.limits
        has_stood = self._stands_since is not None and now - self._stands_since > limits.burst_seconds
        if not limits.standing_batches or not has_stood:
            return limits.queue_rows
        seconds = max(_LEAST_STANDING_SECONDS, limits.standing_batches * self._seconds)
        return min(limits.queue_rows, max(1, math.ceil(seconds / self._seconds * self._rows * max(1, workers))))

    def expected_seconds(self, rows: int, *, workers: int) -> float:
        """Give after how long this many waiting rows will have been answered, as batches went lately."""
        return math.ceil(rows / max(1.0, self._rows)) * self._seconds / max(1, workers)

    def put_back(self, rows: Sequence[Row]) -> None:
        """Let rows wait again, before all others and each by itself: the batch that they were in failed."""
        for row in reversed(rows):
            row.is_alone = True
            self._line(row).rows.appendleft(row)
        self.waiting += len(rows)

    def cancel(self, request: Any) -> list[Row]:
        """Take a request's rows out; give those that waited."""
        gone: list[Row] = []
        for name, line in list(self._lines.items()):
            mine = [row for row in line.rows if row.request is request]
            if mine:
                line.rows = collections.deque(row for row in line.rows if row.request is not request)
                gone += mine
            if not line.rows:
                del self._lines[name]
        self.waiting -= len(gone)
        self._note_empty()
        return gone

    def take(
        self, now: float, *, can: Callable[[str], bool] = lambda model: True, wants_stream: bool = False
    ) -> Batch | None:
        """Give the rows that a free worker should answer now; None where it is better to wait, or nothing waits.

        Args:
            now: Seconds.
            can: Says whether this worker can be asked a model now.
            wants_stream: Whether it is to write piece by piece; else to answer a batch.
        """
        due = [
            (self._spent.get(model, 0.0), line.rows[0].since, (model, options, is_stream))
            for (model, options, is_stream), line in self._lines.items()
            if is_stream == wants_stream and can(model) and self._is_due(line, now)
        ]
        if not due:
            return None
        key = min(due)[2]
        line = self._lines[key]
        rows = self._chosen(line)
        chosen = {id(row) for row in rows}
        line.rows = collections.deque(row for row in line.rows if id(row) not in chosen)
        if not line.rows:
            del self._lines[key]
        self.waiting -= len(rows)
        self._note_empty()
        return Batch(key[0], key[1], tuple(rows))

    def due_at(self) -> float | None:
        """Give when some line will be due even if no more rows come; None where nothing waits."""
        times = [line.rows[0].since + self.limits.wait_seconds for line in self._lines.values()]
        return min(times, default=None)

    def done(self, batch: Batch, seconds: float) -> None:
        """Learn what a batch took; charge its model for it."""
        waiting = {model for model, _, _ in self._lines}
        least = min((self._spent.get(model, 0.0) for model in waiting), default=0.0)
        # A model that was silent for long starts level with the others, and not with all that it saved.
        self._spent[batch.model] = max(self._spent.get(batch.model, 0.0), least) + seconds
        self._seconds += _SLOW_CHANGE * (seconds - self._seconds)
        self._rows += _SLOW_CHANGE * (len(batch.rows) - self._rows)

    def forget(self, model: str) -> None:
        """Forget what a model that is gone was charged."""
        self._spent.pop(model, None)

    def has_rows_of(self, model: str) -> bool:
        """Whether rows wait for a model."""
        return any(name == model for name, _, _ in self._lines)

    def rows(self) -> list[Row]:
        """Give all rows that wait."""
        return [row for line in self._lines.values() for row in line.rows]

    def _line(self, row: Row) -> _Line:
        if (row.model, row.options, row.is_stream) not in self._lines:
            waiting = [self._spent.get(model, 0.0) for model, _, _ in self._lines]
            if waiting:
                self._spent[row.model] = max(self._spent.get(row.model, 0.0), min(waiting))
        return self._lines.setdefault((row.model, row.options, row.is_stream), _Line())

    def _is_due(self, line: _Line, now: float) -> bool:
        first, limits = line.rows[0], self.limits
        if first.is_alone or first.is_stream or now - first.since >= limits.wait_seconds:
            return True
        widest = max(row.tokens for row in line.rows)
        return len(line.rows) >= limits.batch_rows or widest * len(line.rows) >= limits.batch_tokens

    def _chosen(self, line: _Line) -> list[Row]:
        """Give the first row and those most like it in length, as many as fit, in the order in which they came."""
        first, limits = line.rows[0], self.limits
        if first.is_alone or first.is_stream:
            return [first]
        near = [row for row in list(line.rows)[1 : limits.batch_rows * _WINDOW] if not row.is_alone]
        chosen = [first]
        widest = first.tokens
        for row in sorted(near, key=lambda row: (abs(row.tokens - first.tokens), row.since)):
            if len(chosen) >= limits.batch_rows:
                break
            if max(widest, row.tokens) * (len(chosen) + 1) <= limits.batch_tokens:
                widest = max(widest, row.tokens)
                chosen.append(row)
        return sorted(chosen, key=lambda row: row.since)

    def _note_empty(self) -> None:
        if not self.waiting and not self._coming:
            self._stands_since = None

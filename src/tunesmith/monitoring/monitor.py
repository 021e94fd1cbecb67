"""Watch one model: take in what it answered, compare windows of it with the reference, keep the numbers.

Taking in a row costs a few microseconds: it is put on a queue. All else is done by a thread in the background, which
spends at most a fiftieth of its time on comparisons. Nothing here raises into the service, and no text is kept: the
queue holds some hundred for a moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.monitoring import page
from tunesmith.monitoring.accuracy import Accuracy
from tunesmith.monitoring.alarm import Alarm
from tunesmith.monitoring.alerts import Alert, Window, read_rules
from tunesmith.monitoring.drift import DEALS, Finding, Null, calibrate_domain, can_tell_domains, compare
from tunesmith.monitoring.embedding import TokenTable
from tunesmith.monitoring.kept import Kept, read_kept, write_kept
from tunesmith.monitoring.observed import Observed
from tunesmith.monitoring.reference import Reference, read_reference, reference_of_served
from tunesmith.monitoring.sinks import open_sinks
from tunesmith.monitoring.traits import Traits, measure, no_traits
from tunesmith.monitoring.worker import Worker

_LOGGER = logging.getLogger("tunesmith.monitoring")
_OUTCOMES = 500  # that the share of failures is over
_CODES = 20  # kinds of failure that are told apart
_TIMELINE = 200  # comparisons that a page can draw


@dataclass(frozen=True)
class Pace:
    """How much is looked at, and how often."""

    window_rows: int = 400  # compared with the reference; see docs/monitoring.md for what other sizes find
    hop_rows: int = 50  # new rows between two comparisons
    least_rows: int = 100  # in the window before the first one
    first_rows: int = 500  # that become the reference where there is none
    rows_at_once: int = 100  # measured in one go; of more that wait, as many, evenly spaced
    permutations: int = 100  # for the spread of the domain classifier's scores, once
    rest: float = 50.0  # times as long as a comparison took that none is made: it costs 2% of a core at most
    save_seconds: float = 30.0  # between two savings of the state
    rules_seconds: float = 1.0  # between two looks at the rules ...
    idle_seconds: float = 9.0  # ... and so much longer where nothing was asked, answered or said since


class Monitor:
    """What is known of one served model.

    Args:
        model: The name that it is served under.
        reference: What its rows should look like; None: the first rows that are served say so.
        alarm: Checks and where alerts go; None: the shipped rules, to the log.
        state: File that keeps windows and counts over a restart; None: nothing is kept.
        pace: How much is looked at, and how often.
        worker: The thread that does the work; None: one of its own. See also `in_background`.
        in_background: False does all work at once in `observe` (for tests, and for streams that are not live).
        bundle: Id of the bundle that answers, where there is no reference to say so.
        labels: Its labels.
        awaits_reference: Rows wait until `use` or `learn_from_first_rows` is called.
        clock: Gives the time in seconds since 1970.
    """

    def __init__(
        self,
        model: str,
        reference: Reference | None = None,
        *,
        alarm: Alarm | None = None,
        state: Path | None = None,
        pace: Pace | None = None,
        worker: Worker | None = None,
        in_background: bool = True,
        bundle: str = "",
        labels: Sequence[str] = (),
        awaits_reference: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.model = model
        self.bundle = bundle if reference is None else reference.bundle
        self.pace = pace or Pace()
        self.alarm = alarm or _usual_alarm()
        self.reference: Reference | None = None
        self.window: Traits = no_traits(0)
        self.findings: tuple[Finding, ...] = ()
        self.timeline: deque[Mapping[str, float]] = deque(maxlen=_TIMELINE)
        self.accuracy = Accuracy()
        self.counts = Counter[str]()  # rows, skipped, failed, faults, checks
        self.failures = Counter[str]()  # by code
        self.remark = ""  # why there is no reference from the training data
        self.started = clock()
        self._labels, self._state, self._clock = tuple(labels), state, clock
        self._awaits_reference, self._in_background = awaits_reference, in_background
        self._worker = worker or Worker()
        self._owns_worker = worker is None
        self._waiting: deque[Observed] = deque(maxlen=max(self.pace.window_rows, self.pace.rows_at_once))
        self._first: list[Observed] = []
        self._table: TokenTable | None = None
        self._outcomes: deque[bool] = deque(maxlen=_OUTCOMES)
        self._null: Null | None = None
        self._calibrating: threading.Thread | None = None
        self._new_rows = 0
        self._next_check = self._next_save = self._next_rules = 0.0  # by the monotonic clock
        self._is_dirty = False
        self._looked_at: tuple[int, ...] = ()  # the counts when the rules were last looked at
        self._is_closing = threading.Event()
        self._lock = threading.Lock()  # counts, queue, judgements: held for microseconds
        self._working = threading.Lock()  # everything else: held by whoever works
        if reference is not None:
            self.use(reference)
        elif not awaits_reference:
            self._use_learnt()
        if in_background:
            self._worker.add(self)

    # What the service calls.

    def observe(self, rows: Sequence[Observed]) -> None:
        """Take in answered rows."""
        try:
            with self._lock:
                self.counts["rows"] += len(rows)
                room = (self._waiting.maxlen or 0) - len(self._waiting)
                self.counts["skipped"] += max(0, len(rows) - room)
                self._waiting.extend(rows)
                self._outcomes.extend([False] * len(rows))
        except Exception:  # a monitor is never the reason that a request fails
            self._fault("taking in rows")
        if not self._in_background:
            self.work()

    def feedback(self, is_correct: bool, *, confidence: float | None = None) -> None:
        """Take in what a person said of an answer.

        Args:
            is_correct: Whether it was right.
            confidence: 0..1, of that answer, where it is known: for the calibration error.
        """
        try:
            with self._lock:
                self.accuracy.add(bool(is_correct), confidence)
                self._is_dirty = True
        except Exception:
            self._fault("taking in feedback")
        if not self._in_background:
            self.work()

    def failed(self, code: str) -> None:
        """Take in that an input got no answer.

        Args:
            code: The stable code of the refusal, e.g. "timeout".
        """
        try:
            with self._lock:
                self.counts["failed"] += 1
                is_known = code in self.failures or len(self.failures) < _CODES
                self.failures[code if is_known else "other"] += 1
                self._outcomes.append(True)
                self._is_dirty = True
        except Exception:
            self._fault("taking in a failure")

    def snapshot(self) -> Mapping[str, float]:
        """Give every number that is known, by the names of `catalogue.METRICS` and `catalogue.SHARES`."""
        try:
            with self._lock:
                counts, outcomes, judged = Counter(self.counts), list(self._outcomes), self.accuracy.values()
            standing = {"alerts_standing": float(len(self.alarm.standing()))}
            standing["alerts_raised_total"] = float(self.alarm.raised)
            shown = page.numbers(counts, outcomes, self.window, self.reference, self.findings)
            return {**shown, **judged, **standing}
        except Exception:
            self._fault("counting")
            return {"faults_total": float(self.counts["faults"])}

    def alerts(self) -> tuple[Alert, ...]:
        """Give the alerts that stand."""
        return self.alarm.standing()

    def report(self) -> Mapping[str, Any]:
        """Give all that a page shows, as JSON: numbers, findings with their meaning, mixes, timeline, alerts."""
        with self._lock:
            calibration, failures = self.accuracy.calibration(), dict(self.failures)
        return {
            "model": self.model,
            "bundle": self.bundle,
            "since": self.started,
            "remark": self.remark,
            **page.compared(self.window, self.reference, self.findings),
            "numbers": {name: value for name, value in self.snapshot().items() if ":" not in name},
            "failures": failures,
            "reliability": None if calibration is None else calibration[0],
            "timeline": list(self.timeline),
            "alerts": [page.shown(alert) for alert in self.alarm.standing()],
            "alerts_over": [page.shown(alert) for alert in self.alarm.over()],
        }

    def close(self) -> None:
        """Measure what waits, keep the state, and end."""
        self._is_closing.set()
        self._worker.remove(self)
        if self._owns_worker:
            self._worker.close()
        try:
            with self._working:
                self._measure_waiting()
                self._save()
        except Exception:
            self._fault("closing")

    @property
    def _learnt_file(self) -> Path | None:
        return None if self._state is None else self._state.with_name(f"first-{self._state.name}")

    def _use_learnt(self) -> None:
        """Take up the reference that an earlier process learnt from its first rows, if it was of the same bundle."""
        path = self._learnt_file
        if path is None or not path.is_file():
            return
        try:
            found = read_reference(path)
        except TunesmithError as error:
            _LOGGER.warning("the monitor of %s begins anew: %s", self.model, error.what)
            return
        if found.bundle == self.bundle:
            self.use(found)

    # What compares, and when.

    def use(self, reference: Reference) -> None:
        """Compare with this reference from now on; takes up the windows that an earlier process kept for it."""
        with self._working:
            self.reference, self.bundle = reference, reference.bundle
            self.window = no_traits(reference.inputs.vectors_ND.shape[1])
            self.findings, self._null, self._new_rows = (), None, 0
            self._awaits_reference = False
            self._first.clear()
            self._restore(reference)

    def learn_from_first_rows(self, reason: str, *, table: TokenTable | None = None) -> None:
        """Take the rows that are served first as the reference, because there is no other.

        Args:
            reason: Why, for the report.
            table: The model's token embeddings, where they are known.
        """
        with self._working:
            self.remark, self._table = reason, table
            self._awaits_reference = False
        self._use_learnt()

    def work(self) -> None:
        """Measure the rows that wait, compare if it is time, look at the rules, keep the state. Never raises."""
        try:
            with self._working:
                self._measure_waiting()
                if self._is_due():
                    self._check()
                self._look_at_rules()
                if self._state is not None and self._is_dirty and time.monotonic() >= self._next_save:
                    self._save()
        except Exception:
            self._fault("working")

    def _measure_waiting(self) -> None:
        if self._awaits_reference:
            return
        rows = self._take()
        if not rows:
            return
        self._is_dirty = True
        if self.reference is None:
            self._first += rows
            if len(self._first) < self.pace.first_rows:
                return
            self._learn()
            return
        found = measure(rows, self.reference.embedder, self.reference.categories)
        self.window = self.window.then(found).last(self.pace.window_rows)
        self._new_rows += len(rows)

    def _learn(self) -> None:
        """Make the reference of the first rows, and keep it: the next process compares with the same."""
        self.reference = reference_of_served(self._first, bundle=self.bundle, labels=self._labels, table=self._table)
        self.window = no_traits(self.reference.inputs.vectors_ND.shape[1])
        self._first.clear()
        if self._learnt_file is not None:
            self.reference.save(self._learnt_file)

    def _take(self) -> list[Observed]:
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            step = max(1.0, len(waiting) / self.pace.rows_at_once)
            taken = [waiting[int(place * step)] for place in range(min(len(waiting), self.pace.rows_at_once))]
            self.counts["skipped"] += len(waiting) - len(taken)
        return taken

    def _is_due(self) -> bool:
        is_enough = self._new_rows >= self.pace.hop_rows and len(self.window) >= self.pace.least_rows
        return self.reference is not None and is_enough and time.monotonic() >= self._next_check

    def _check(self) -> None:
        assert self.reference is not None
        start = time.monotonic()
        self._new_rows = 0
        self._calibrate(self.reference)
        null = self._null if len(self.window) == self.pace.window_rows else None
        reference = self.reference
        self.findings = compare(
            reference.inputs, reference.outputs, self.window, categories=reference.categories, null=null
        )
        self.counts["checks"] += 1
        end = time.monotonic()
        self._next_check = end + (end - start) * self.pace.rest if self._in_background else 0.0
        self._next_rules = 0.0
        lowest = {f"{each.name}_p_value": each.adjusted for each in self.findings}
        scores = {f"{each.name}_score": each.score for each in self.findings}
        self.timeline.append({"at": self._clock(), "rows": float(self.counts["rows"]), **lowest, **scores})

    def _calibrate(self, reference: Reference) -> None:
        """See to it that the spread of the domain classifier's scores gets known, once for each size of the window.

        That takes seconds, so in the background it has a thread of its own, which ends when it is done.
        """
        sizes = (len(reference.inputs), len(self.window))
        is_known = self._null is not None and self._null.rows == sizes
        if len(self.window) < self.pace.window_rows or is_known or not can_tell_domains(reference.inputs, self.window):
            return
        if not self._in_background:
            self._null = self._found_null(reference, self.window)
        elif self._calibrating is None or not self._calibrating.is_alive():
            self._calibrating = threading.Thread(
                target=self._find_null, args=(reference, self.window), name="tunesmith-calibration", daemon=True
            )
            self._calibrating.start()

    def _find_null(self, reference: Reference, window: Traits) -> None:
        try:
            with self._worker.heavy:
                found = self._found_null(reference, window)
            with self._working:
                if self.reference is reference and found is not None:
                    self._null, self._is_dirty = found, True
        except Exception:
            self._fault("calibrating")

    def _found_null(self, reference: Reference, window: Traits) -> Null | None:
        """Deal at random, many times; rests four times as long as it works, where it works in the background."""
        moment = [time.monotonic()]

        def rest() -> bool:
            if self._in_background:
                self._is_closing.wait(min(1.0, 4 * (time.monotonic() - moment[0])))
                moment[0] = time.monotonic()
            return not self._is_closing.is_set()

        return calibrate_domain(reference.inputs, window, permutations=self.pace.permutations, rest=rest)

    def _look_at_rules(self) -> None:
        now = time.monotonic()
        counts = (*(self.counts[name] for name in ("rows", "failed", "checks")), self.accuracy.count)
        wait = self.pace.idle_seconds if counts == self._looked_at and self._in_background else 0.0
        if now < self._next_rules + wait:
            return
        self._looked_at = counts
        self._next_rules = now + (self.pace.rules_seconds if self._in_background else 0.0)
        self.alarm.look(Window(self.model, self._clock(), self.snapshot()))

    def _fault(self, doing: str) -> None:
        """Count it; log the first ones whole, so that a log is not filled."""
        self.counts["faults"] += 1
        if self.counts["faults"] <= 3:
            _LOGGER.exception("the monitor of %s failed while %s", self.model, doing)

    # What survives a restart.

    def _save(self) -> None:
        if self._state is None or self.reference is None:
            return
        self._is_dirty = False
        self._next_save = time.monotonic() + self.pace.save_seconds
        with self._lock:
            kept = Kept(
                bundle=self.bundle,
                reference_at=self.reference.at,
                window=self.window,
                judgements=dict(self.accuracy.arrays()),
                judged=self.accuracy.count,
                changes=self.accuracy.changes,
                counts=dict(self.counts),
                failures=dict(self.failures),
                started=self.started,
                null=self._null,
                timeline=tuple(self.timeline),
                alarm=self.alarm.state(),
            )
        try:
            write_kept(self._state, kept)
        except TunesmithError as error:  # a full disk; the service goes on, and the next saving may succeed
            _LOGGER.warning("the monitor of %s could not keep its state: %s", self.model, error.what)

    def _restore(self, reference: Reference) -> None:
        if self._state is None or (kept := read_kept(self._state)) is None:
            return
        if kept.bundle != self.bundle:
            return
        with self._lock:
            self.counts.update(kept.counts)
            self.failures.update(kept.failures)
            self.started = kept.started
            later = [(bool(right), confidence) for right, confidence in self.accuracy.judgements()]
            self.accuracy = Accuracy.of_arrays(kept.judgements, count=kept.judged, changes=kept.changes)
            for right, confidence in later:
                self.accuracy.add(right, confidence)
        if kept.reference_at == reference.at:
            self.window = kept.window
            self._null = kept.null if kept.null is not None and kept.null.deals == DEALS else None
        self.timeline.extend(kept.timeline)
        self.alarm.restore(kept.alarm)


def _usual_alarm() -> Alarm:
    rules = read_rules(None)
    return Alarm(rules, open_sinks(rules.sinks, path=rules.path))

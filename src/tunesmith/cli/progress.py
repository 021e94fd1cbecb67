"""The live line of a training run: step, loss, rate, best validation score, time left. Always on stderr."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tunesmith.cli.output import Output
from tunesmith.errors import Stopped
from tunesmith.training.processes import is_orphaned, process_rank
from tunesmith.types import Event, Plan


class Job(Protocol):
    """What is run here: training, and pretraining."""

    @property
    def plan(self) -> Plan:
        """What was decided."""

    @property
    def folder(self) -> Path | None:
        """Where it is kept."""

    def run(self, stop_signal: Callable[[], int]) -> Iterable[Event]:
        """Do it, event by event."""


def work(job: Job, output: Output, *, resume: str) -> None:
    """Run a job and show its events; the first Ctrl-C or SIGTERM saves and stops, a second one stops at once.

    Args:
        job: Ready to start.
        output: Where words go.
        resume: The command that goes on with a stopped run, without the run's name.
    """
    with stop_signals(is_waiting=process_rank() > 0) as stop_signal:
        try:
            show_events(job, job.run(stop_signal=stop_signal), output)
        except Stopped as stopped:
            stopped.do = f"go on with: {resume} {job.folder}"
            raise


@contextlib.contextmanager
def stop_signals(*, is_waiting: bool = False) -> Iterator[Callable[[], int]]:
    """Give what tells whether to save and stop: 0, or the number of the first signal; a second one stops at once.

    Args:
        is_waiting: A signal ends the process at once until it is first asked for: one that waits for another process
            does so inside a library, where it hears nothing, and has nothing to save.
    """
    asked: list[int] = []
    is_open = not is_waiting

    def ask(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        asked.append(number)

    def tell() -> int:
        nonlocal is_open
        if not is_open:
            is_open = True
            for number in kept:
                signal.signal(number, ask)
        if not asked and is_orphaned():
            asked.append(signal.SIGTERM)
        return asked[0] if asked else 0

    first = signal.SIG_DFL if is_waiting else ask
    kept = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield tell
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def show_events(job: Job, events: Iterable[Event], output: Output) -> None:
    """Show events: one live line on a terminal, else a line for each evaluation; notes on lines of their own."""
    if output.is_quiet:
        for _ in events:
            pass
        return
    line = _LiveLine(job.plan.steps) if sys.stderr.isatty() else _PlainLines(job.plan.steps)
    try:
        for event in events:
            line.take(event)
            if event.kind == "note":
                line.close()  # wiped, and drawn again at the next step
                for words in event.text.splitlines():
                    output.say(words)
    finally:
        line.close()


def describe(steps: int, event: Event, best: float | None, seconds_a_step: float) -> str:
    """Give the progress as one line of at most 79 characters."""
    left = clock(max(0, steps - event.step) * seconds_a_step)
    parts = [f"{event.step}/{steps}", f"loss {event.values.get('loss', 0.0):.3f}"]
    parts.append(f"rate {event.values.get('learning_rate', 0.0):.1e}")
    parts.append(f"best {best:.3f}" if best is not None else "best -")
    parts.append(f"{1 / max(seconds_a_step, 1e-9):.1f} steps/s")
    parts.append(f"at most {left} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """Give seconds as 0:07, 12:30 or 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Pace:
    """Keeps the best score and the recent time a step takes."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.best: float | None = None
        self.seconds_a_step = 0.0
        self._last: Event | None = None

    def note(self, event: Event) -> None:
        """Take in one event."""
        self.steps = int(event.values.get("steps", self.steps)) if event.kind == "stage" else self.steps
        if event.kind == "evaluation":
            self.best = event.values.get("best", self.best)
        if event.kind != "step":
            self._last = None  # what lies between is not training
            return
        if self._last is not None:
            seconds = event.seconds - self._last.seconds
            self.seconds_a_step = seconds if not self.seconds_a_step else 0.9 * self.seconds_a_step + 0.1 * seconds
        self._last = event


class _LiveLine:
    """One line that is written over and over."""

    def __init__(self, steps: int) -> None:
        self.pace = _Pace(steps)
        self._drawn = 0.0

    def take(self, event: Event) -> None:
        """Show one event."""
        self.pace.note(event)
        if event.kind == "stage":
            self._write(event.text + " ...")
        elif event.kind == "step" and time.perf_counter() - self._drawn > 0.1:
            self._drawn = time.perf_counter()
            self._write(describe(self.pace.steps, event, self.pace.best, self.pace.seconds_a_step))

    def close(self) -> None:
        """Wipe the line."""
        self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text[:79]}")
        sys.stderr.flush()


class _PlainLines:
    """A line for each stage and evaluation, for logs and pipes."""

    def __init__(self, steps: int) -> None:
        self.pace = _Pace(steps)

    def take(self, event: Event) -> None:
        """Show one event."""
        self.pace.note(event)
        if event.kind == "stage":
            sys.stderr.write(f"{event.text} ...\n")
        elif event.kind == "evaluation":
            scores = {name: value for name, value in event.values.items() if name not in {"best", "train_loss"}}
            listed = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
            sys.stderr.write(f"step {event.step}/{self.pace.steps}  {listed}  ({clock(event.seconds)})\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing to wipe."""

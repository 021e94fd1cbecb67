"""What is seen of a search while it goes on: a line for each trial that is over, and a live one. Always on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any

from tunesmith.bundle.report import amount
from tunesmith.cli.progress import clock
from tunesmith.types import Event

_WIDTH = 79


class SearchProgress:
    """Shows the events of a sweep."""

    def __init__(self, asked: Any, metric: str, *, is_quiet: bool) -> None:
        self.asked, self.metric, self.is_quiet = asked, metric, is_quiet
        self.is_live = sys.stderr.isatty() and not is_quiet
        self.started = time.perf_counter()
        self.over = 0  # trials that ended, of this call and of earlier ones
        self.here = 0  # of this call
        self.seconds = 0.0  # that they took
        self.pruned = 0
        self.best = ""
        self._drawn = 0.0

    def take(self, event: Event) -> None:
        """Show one event."""
        if self.is_quiet:
            return
        if event.kind == "trial":
            self._take_trial(event)
        elif event.kind in {"stage", "note"} and event.text:
            self._line(f"{event.text} ..." if event.kind == "stage" else event.text)
        elif event.kind == "stage":
            self.over = event.step
        elif event.kind == "step" and self.is_live and time.perf_counter() - self._drawn > 0.1:
            self._drawn = time.perf_counter()
            self._write(self.describe(event))

    def describe(self, event: Event) -> str:
        """Give where the search stands as one line of at most 79 characters."""
        parts = [f"trial {self.over + 1}/{self.asked.trials}", f"step {event.step}"]
        parts.append(f"loss {event.values.get('loss', 0.0):.3f}")
        parts.append(f"best {self.best}" if self.best else "best -")
        parts.append(f"{self.pruned} given up")
        if (left := self.seconds_left()) is not None:
            parts.append(f"at most {clock(left)} left")
        return "  ".join(parts)[:_WIDTH]

    def seconds_left(self) -> float | None:
        """Give the time that is left: by what a trial took so far, or by the budget; None where nothing is known."""
        spent = time.perf_counter() - self.started
        guesses = [self.asked.budget_seconds - spent] if self.asked.budget_seconds != float("inf") else []
        if self.here:
            guesses.append((self.asked.trials - self.over) * self.seconds / self.here)
        return max(0.0, min(guesses)) if guesses else None

    def _take_trial(self, event: Event) -> None:
        values = event.values
        self.over, self.pruned = int(values["trials"]), int(values["pruned"])
        self.here, self.seconds = self.here + 1, self.seconds + values["trial_seconds"]
        reached = amount(self.metric, values.get("value"))
        state, _, settings = event.text.partition(": ")
        if "best" in values:
            self.best = f"{amount(self.metric, values['best'])} (trial {int(values['best_trial'])})"
        is_best = values.get("best_trial") == event.step
        mark = "*" if is_best else " "
        state = state.partition(" ")[0]
        line = f"trial {event.step:<3}{mark} {reached:>6}  {state:<8} {clock(values['trial_seconds']):>6}  {settings}"
        self._line(line)

    def close(self) -> None:
        """Wipe the live line."""
        if self.is_live:
            self._write("")

    def _line(self, text: str) -> None:
        if self.is_live:
            self._write("")
        sys.stderr.write(text[:_WIDTH] + "\n")
        sys.stderr.flush()

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text[:_WIDTH]}")
        sys.stderr.flush()

"""Choose how many CPU threads a run takes where nobody said it: no more than there are cores that others leave free.

The threads of a matrix product wait for each other. With one thread for each core, and one core taken by another
program, all of them wait for the thread that has to share: a training step then takes many times as long as with one
thread fewer (docs/notebook.md).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from tunesmith.training.processes import process_count
from tunesmith.training.recipe import AUTO

if TYPE_CHECKING:
    from tunesmith.bundle.load import Bundle

_LEAST_SECONDS = 0.25  # over which a load says something


@dataclass(frozen=True)
class _Reading:
    at: float  # seconds
    busy: float  # seconds of CPU that everybody has taken of the cores that this process may use
    own: float  # seconds of CPU that this process has taken


def _granted() -> set[int]:
    """Give the cores that this process may use, by number."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _read() -> _Reading:
    granted = _granted()
    cores = [times for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in granted]
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's seconds stand in those of users too
    busy = sum(sum(times) - sum(getattr(times, name, 0.0) for name in idle) for times in cores)
    return _Reading(time.monotonic(), busy, time.process_time())


class _Others:
    """How many cores other programs keep busy, from the last look to this one."""

    def __init__(self) -> None:
        self._last, self._cores = _read(), 0.0

    def cores(self) -> float:
        """Give it; the last answer again where that is too short a time."""
        now = _read()
        seconds = now.at - self._last.at
        if seconds >= _LEAST_SECONDS:
            self._cores = max(0.0, (now.busy - self._last.busy - (now.own - self._last.own)) / seconds)
            self._last = now
        return self._cores


_others = _Others()  # looks for the first time when this module is imported, well before a model has been built


def take_free_cores(bundle: Bundle) -> str:
    """Build what answers, and let torch take no more threads than cores are free meanwhile; give the remark.

    Args:
        bundle: Open, and asked nothing yet. One that torch does not answer for, or whose threads were said, stays.
    """
    if bundle.exported is not None or bundle.threads is not None:
        return ""
    _others.cores()
    bundle.model  # noqa: B018 - it is built when it is first asked for
    threads, remark = thread_count(AUTO, where="OMP_NUM_THREADS")
    torch.set_num_threads(threads)
    return remark


def thread_count(asked: int | str, *, where: str = "threads: N in the recipe") -> tuple[int, str]:
    """Give how many CPU threads a run takes, and a remark where those are fewer than torch would take.

    A number holds; so does OMP_NUM_THREADS, and what a launcher shared out among processes.

    Args:
        asked: A recipe's `threads`: a number, or auto.
        where: What the person can set instead.
    """
    usual = torch.get_num_threads()
    if asked != AUTO:
        return int(asked), ""
    if os.environ.get("OMP_NUM_THREADS") or process_count() > 1 or usual == 1:
        return usual, ""
    busy = _others.cores()
    granted = len(_granted())
    threads = free_threads(usual, granted=granted, busy=busy)
    if threads == usual:
        return usual, ""
    return threads, (
        f"CPU threads: {threads} instead of {usual}, because other programs keep {busy:.1f} of {granted} cores busy "
        f"({where} decides otherwise)"
    )


def free_threads(usual: int, *, granted: int, busy: float) -> int:
    """Give how many threads find a core of their own.

    Args:
        usual: That would be taken on an idle machine.
        granted: Cores that this process may use.
        busy: Of these, how many other programs take, such as 0.8.
    """
    return max(1, min(usual, int(granted - busy + 0.5)))

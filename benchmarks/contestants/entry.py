"""How a contestant's script starts and ends: a job as JSON in, what it took as JSON out. Standard library only.

A package, command or recipe key that is not there ends the script with status 3 and one line that says so; the
benchmark then reports it as not run. Everything else that goes wrong ends it with a traceback.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOT_RUN = 3


class NotRun(Exception):
    """This contestant cannot take part here."""


class Clock:
    """CPU seconds (threads and finished children included) and wall seconds since it was made or restarted."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._cpu, self._wall = _cpu(), time.perf_counter()

    @property
    def cpu(self) -> float:
        return _cpu() - self._cpu

    @property
    def process_cpu(self) -> float:
        """Since the process began: imports count."""
        return _cpu()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    def taken(self) -> dict[str, float]:
        """Give both, under the names that every benchmark uses."""
        return {"timed_cpu_seconds": self.cpu, "timed_wall_seconds": self.wall}


def _cpu() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def run(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Do the job that the first argument names and write what it took where the second one says."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        values = work(job)
    except (NotRun, ImportError) as reason:
        print(f"{type(reason).__name__}: {reason}" if isinstance(reason, ImportError) else str(reason), flush=True)
        sys.exit(NOT_RUN)
    Path(sys.argv[2]).write_text(json.dumps(values), encoding="utf-8")

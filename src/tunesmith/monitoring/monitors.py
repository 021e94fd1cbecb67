"""The monitors of one service: one for each bundle that answers, their references made in child processes."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import TunesmithError
from tunesmith.monitoring.alarm import Alarm
from tunesmith.monitoring.alerts import Rules, read_rules
from tunesmith.monitoring.catalogue import METRICS
from tunesmith.monitoring.embedding import TokenTable
from tunesmith.monitoring.monitor import Monitor, Pace
from tunesmith.monitoring.reference import Reference, read_reference
from tunesmith.monitoring.sinks import Outbox, open_sinks, wait_until_sent
from tunesmith.monitoring.worker import Worker

_LOGGER = logging.getLogger("tunesmith.monitoring")
_MOST_SECONDS = 900.0  # for making a reference


class Monitors:
    """Makes monitors, and gives them one thread and one set of alert sinks.

    Args:
        folder: For states and references; what is in it may be removed at any time, and is made again.
        rules: A rules file; None: the shipped one.
        pace: How much is looked at, and how often.

    Raises:
        PlanProblem: The rules file is not what it should be.
    """

    def __init__(self, folder: Path, *, rules: str | Path | None = None, pace: Pace | None = None) -> None:
        self._folder, self._pace = folder, pace
        self._rules: Rules = read_rules(rules, metrics=list(METRICS))
        self.outboxes: dict[str, Outbox] = open_sinks(self._rules.sinks, path=self._rules.path)
        self._worker = Worker()
        self._monitors: dict[tuple[str, str], Monitor] = {}
        self._making: dict[str, threading.Thread] = {}  # bundle -> who makes its reference
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False

    def monitor(self, model: str, bundle: str, run: Path, *, labels: Sequence[str] = ()) -> Monitor:
        """Give the monitor of a bundle under a name; makes it when it is first asked for, and returns at once.

        Where no reference is kept, a child process makes one from the run's own rows; until then answered rows wait
        (the last few hundred). Where the rows are gone, the first ones that are served become the reference.

        Args:
            model: The name that is served.
            bundle: Id of the bundle.
            run: Its folder.
            labels: Its labels.
        """
        with self._lock:
            if (found := self._monitors.get((model, bundle))) is not None:
                return found
            monitor = Monitor(
                model,
                alarm=Alarm(self._rules, self.outboxes),
                state=self._folder / f"{_key(model, bundle)}.safetensors",
                pace=self._pace,
                worker=self._worker,
                bundle=bundle,
                labels=labels,
                awaits_reference=True,
            )
            self._monitors[model, bundle] = monitor
            thread = threading.Thread(target=self._find_reference, args=(monitor, run), daemon=True)
            self._making[f"{model} {bundle}"] = thread
            thread.start()
            return monitor

    def all(self) -> tuple[Monitor, ...]:
        """Give every monitor."""
        with self._lock:
            return tuple(self._monitors.values())

    def forget(self, model: str, bundle: str) -> None:
        """Close the monitor of a bundle that no longer answers; its state stays."""
        with self._lock:
            monitor = self._monitors.pop((model, bundle), None)
        if monitor is not None:
            monitor.close()

    def close(self, seconds: float = 5.0) -> None:
        """Keep every state, send the alerts that wait, end the children."""
        with self._lock:
            self._is_closed = True
            children = list(self._children)
        for child in children:
            child.kill()
        for monitor in self.all():
            monitor.close()
        self._worker.close(seconds)
        wait_until_sent(self.outboxes, seconds=seconds)

    def wait_for_references(self, seconds: float) -> None:
        """Wait until each monitor knows what it compares with, for at most so long each."""
        for thread in list(self._making.values()):
            thread.join(seconds)

    def _find_reference(self, monitor: Monitor, run: Path) -> None:
        path = self._folder / f"reference-{_key(monitor.bundle)}.safetensors"
        with self._one_at_a_time:  # ten models at once would need the memory of ten
            if self._is_closed:
                return
            reason = "" if path.is_file() else self._make(run, path)
            found = self._read(path)
        if found is not None and len(found.inputs):
            monitor.use(found)
            return
        table = found.embedder if found is not None and isinstance(found.embedder, TokenTable) else None
        reason = reason or "the rows that it was made from are gone"
        _LOGGER.warning("the first requests to %s will say what is usual: %s", monitor.model, reason)
        monitor.learn_from_first_rows(reason, table=table)

    def _read(self, path: Path) -> Reference | None:
        try:
            return read_reference(path) if path.is_file() else None
        except TunesmithError:  # damaged: it is made again at the next start
            path.unlink(missing_ok=True)
            return None

    def _make(self, run: Path, path: Path) -> str:
        """Make a reference in a child process, which gives its memory back; give why it could not, or nothing."""
        command = [sys.executable, "-m", "tunesmith.monitoring", str(run), str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
        except OSError as error:
            return f"no process could be started: {error.strerror}"
        with self._lock:
            self._children.add(child)
            if self._is_closed:
                child.kill()
        try:
            _, said = child.communicate(timeout=_MOST_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return f"looking at the training data took more than {_MOST_SECONDS:g} seconds"
        finally:
            with self._lock:
                self._children.discard(child)
        lines = said.decode("utf-8", "replace").strip().splitlines()
        if lines:
            return lines[0]
        return "" if child.returncode == 0 else f"the process ended with {child.returncode}"


def _key(*parts: str) -> str:
    """Give a file name for what people may have named anyhow."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]

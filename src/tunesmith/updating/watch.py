"""The whole circle unattended: when enough feedback has come, update in a child process, ask the gate, promote.

Everything that happened is a line of `watch.jsonl` in the registry's folder, and nothing else is remembered: after a
kill at any moment the next watcher reads the log, finishes the update that was broken off, and goes on. One watcher at
a time holds a lock for each name.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tunesmith.bundle.atomic import MANIFEST, explain_os_errors
from tunesmith.bundle.names import folder_of
from tunesmith.bundle.registry import Registry, Version
from tunesmith.bundle.unfinished import NOTE, ROWS
from tunesmith.errors import MachineProblem, RegistryProblem, TunesmithError
from tunesmith.types import to_json

_LEAST_ROWS = 10  # of a scheduled update
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 60.0, 6 * 3600.0
_MOST_DOUBLINGS = 10  # of the wait: more only make a number that is too large for a float
_PASSED_ON = (signal.SIGINT, signal.SIGTERM)
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_TRIES = 3  # of one candidate, before another is begun


@dataclass(frozen=True)
class WatchOptions:
    """When to update, and how."""

    rows: int = 200  # new feedback that starts an update at once
    every_seconds: float = 0.0  # and after so long with at least ten new rows; 0: never by the clock
    poll_seconds: float = 10.0  # between two looks
    canary_share: float = 0.0  # of the requests a passed candidate answers first; 0: promoted at once
    canary_seconds: float = 3600.0  # after which a canary that is still there is promoted
    update: tuple[str, ...] = ()  # further arguments of `tunesmith update`


@dataclass
class Watcher:
    """Watches one name. `turn` does what is due, once; `watch` goes on until it is told to stop."""

    name: str
    registry: Registry
    store_url: str
    options: WatchOptions
    pending: Callable[[Version], int]  # feedback that the live version has not learnt from
    start: Callable[[Sequence[str]], int] | None = None  # runs `tunesmith ARGUMENTS`, gives its exit code
    now: Callable[[], float] = time.time
    tell: Callable[[Mapping[str, Any]], None] = lambda line: None  # each line of the log, as it is written
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def log(self) -> Path:
        """Where everything is written that happened."""
        return self.registry.folder / folder_of(self.name) / "watch.jsonl"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the name for this watcher; the system frees it when the process ends, however it ends.

        Raises:
            MachineProblem: Another watcher holds it.
        """
        lock = FileLock(self.log.with_name("watch.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise MachineProblem(
                f"another process is watching '{self.name}'",
                where=str(self.registry.folder),
                do="leave it to that one, or end it first",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def watch(self, stop: Callable[[], int]) -> None:
        """Take one turn after the other until `stop` gives a signal's number."""
        while not stop():
            self.turn()
            until = time.monotonic() + self.options.poll_seconds
            while not stop() and time.monotonic() < until:
                time.sleep(min(0.2, self.options.poll_seconds))

    def turn(self) -> str:
        """Do what is due now; give the kind of the last line that was written, or "waiting"."""
        lines = self.lines()
        try:
            if self.now() < _wait_until(lines):
                return "waiting"
            if settled := self._settle_canary(lines):
                return settled
            if begun := unfinished(lines):
                return self._update(begun, failures=_failures(lines), is_resumed=True)
            live = self._live()
            count = self.pending(live)
            if not self._is_due(lines, live, count):
                return "waiting"
            folder = _next_folder(live.run)
            self._write("begun", run=str(folder), parent=live.number, rows=count)
            return self._update({"run": str(folder), "parent": live.number}, failures=_failures(lines))
        except TunesmithError as error:  # the store is locked, say: it is tried again later
            return self._fail(error.what, error.do, failures=_failures(lines))

    def lines(self) -> list[dict[str, Any]]:
        """Give the log so far; a line that was cut short by a crash is left out."""
        if not self.log.is_file():
            return []
        found = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def _live(self) -> Version:
        live = self.registry.live(self.name)
        if live is None:
            raise RegistryProblem(
                f"no version of '{self.name}' is live",
                where=str(self.registry.folder),
                do=f"promote one: tunesmith registry promote {self.name} NUMBER",
            )
        return live

    def _is_due(self, lines: Sequence[Mapping[str, Any]], live: Version, count: int) -> bool:
        """Whether enough is new since the last attempt on this live version, or the time is up."""
        attempts = [line for line in lines if line["event"] == "begun" and line.get("parent") == live.number]
        fresh = count - int(attempts[-1]["rows"]) if attempts else count
        if fresh >= self.options.rows:
            return True
        last = max([float(line["at"]) for line in lines if line["event"] == "begun"], default=None)
        if last is None:  # the clock starts with the first look
            starts = [float(line["at"]) for line in lines if line["event"] == "started"]
            last = starts[0] if starts else self.now()
        is_time = self.options.every_seconds > 0 and self.now() - last >= self.options.every_seconds
        return is_time and fresh >= min(_LEAST_ROWS, self.options.rows)

    def _update(self, begun: Mapping[str, Any], *, failures: int, is_resumed: bool = False) -> str:
        """Run the child, then read from the registry what it has come to."""
        folder = Path(str(begun["run"]))
        arguments = ["update", "--name", self.name, "--store", self.store_url, "--registry", str(self.registry.folder)]
        has_rows = (folder / ROWS / NOTE).is_file() or (folder / MANIFEST).is_file()
        if is_resumed:
            self._write("resumed", run=str(folder))
        if has_rows:
            arguments += ["--resume", str(folder)]
        else:
            _clear_away(folder)
            parent = self.registry.version(self.name, int(begun["parent"]))
            arguments += [str(parent.run), "--out", str(folder)]
        arguments += ["--quiet", *self.options.update]
        code = (self.start or self._start)(arguments)
        version = next((one for one in self.registry.versions(self.name) if one.run == folder.resolve()), None)
        if code in _STOPPED:  # nothing is written: the next watcher finds it unfinished and goes on
            return "stopped"
        if code or version is None:
            said = f"tunesmith update left with {code}"
            return self._fail(said, "see the lines above in the log of the watcher", failures, run=str(folder))
        return self._take(version)

    def _take(self, version: Version) -> str:
        """Promote what passed, at once or by way of a canary; keep what did not."""
        failed = [rule for rule in (version.gate or {}).get("rules", ()) if not rule["passed"]]
        if not self.registry.may_promote(version) or version.gate is None:
            reasons = {rule["name"]: rule["reason"] for rule in failed}
            return self._write("blocked", version=version.number, run=str(version.run), reasons=reasons)
        if self.options.canary_share > 0:
            self.registry.set_canary(self.name, version.number, self.options.canary_share)
            return self._write("canary", version=version.number, share=self.options.canary_share)
        self.registry.promote(self.name, version.number)
        return self._write("promoted", version=version.number, run=str(version.run))

    def _settle_canary(self, lines: Sequence[Mapping[str, Any]]) -> str:
        """Promote the canary that this watcher set and that has been there long enough; wait while it is there.

        One that the service took away stays away, and one that a person set is theirs: both give an empty string.
        """
        canary = self.registry.traffic(self.name).canary
        told = [line for line in lines if line["event"] in {"canary", "promoted"}]
        is_own = canary is not None and told and told[-1] == {**told[-1], "event": "canary", "version": canary.number}
        if canary is None or not is_own:
            return ""
        if self.now() - float(told[-1]["at"]) < self.options.canary_seconds:
            return "waiting"
        self.registry.promote(self.name, canary.number)
        return self._write("promoted", version=canary.number, run=str(canary.run))

    def _fail(self, what: str, do: str, failures: int, **more: Any) -> str:
        wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(failures, _MOST_DOUBLINGS))
        return self._write("failed", what=what, do=do, failures=failures + 1, again_at=self.now() + wait, **more)

    def note(self, event: str, **values: Any) -> str:
        """Write one line that is not about an update, e.g. that a watcher started."""
        return self._write(event, **values)

    def _write(self, event: str, **values: Any) -> str:
        line = {"at": self.now(), "event": event, **to_json(values)}
        with explain_os_errors(self.log, "writing the log of the watcher"):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a+b") as file:
                is_cut = file.tell() > 0 and not self.log.read_bytes().endswith(b"\n")
                text = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
                file.write((b"\n" if is_cut else b"") + text)
                file.flush()
                os.fsync(file.fileno())
        self.tell(line)
        return event

    def _start(self, arguments: Sequence[str]) -> int:
        """Run `tunesmith ARGUMENTS` in a child; a signal that stops the watcher stops it too, with its work saved."""
        command = [sys.executable, "-m", "tunesmith", *arguments, "--with-parent"]
        # The child stops when its end of the pipe closes: also when this process is killed.
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            while True:
                try:
                    return self._child.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if self._child.poll() is None:
                self._child.send_signal(signal.SIGTERM)
                self._child.wait()
            self._child = None

    def pass_on(self, number: int) -> None:
        """Pass a signal on to the update that is going on, if any."""
        child = self._child
        if child is not None and child.poll() is None and number in _PASSED_ON:
            child.send_signal(signal.SIGTERM)


def unfinished(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Give the update that was begun and came to no end; None where there is none, or it failed too often."""
    begun: Mapping[str, Any] | None = None
    failed = 0
    for line in lines:
        if line["event"] == "begun":
            begun, failed = line, 0
        elif line["event"] == "failed":
            failed += 1
        elif line["event"] in {"promoted", "blocked", "canary"}:
            begun = None
    return begun if failed < _TRIES else None


def _failures(lines: Sequence[Mapping[str, Any]]) -> int:
    """Give how many attempts failed one after the other."""
    told = [line for line in lines if line["event"] in {"promoted", "blocked", "canary", "failed"}]
    return int(told[-1].get("failures", 0)) if told and told[-1]["event"] == "failed" else 0


def _wait_until(lines: Sequence[Mapping[str, Any]]) -> float:
    told = [line for line in lines if line["event"] in {"promoted", "blocked", "canary", "failed"}]
    return float(told[-1].get("again_at", 0.0)) if told and told[-1]["event"] == "failed" else 0.0


def _next_folder(run: Path) -> Path:
    stem, _, last = run.name.rpartition("-v")
    stem, number = (stem, int(last) + 1) if stem and last.isdigit() else (run.name, 2)
    while (folder := run.parent / f"{stem}-v{number}").exists():
        number += 1
    return folder


def _clear_away(folder: Path) -> None:
    """Remove a folder that was begun and has no rows yet: an update that was killed while it read them."""
    import shutil

    if folder.is_dir() and not (folder / MANIFEST).exists() and not (folder / "plan.json").exists():
        shutil.rmtree(folder)

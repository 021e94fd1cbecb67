"""One thread that lets monitors do their work, a few times a second."""

from __future__ import annotations

import threading
from typing import Protocol


class Working(Protocol):
    """What has work to do now and then."""

    def work(self) -> None:
        """Do what there is to do; never raises."""


class Worker:
    """A thread for any number of monitors; it starts with the first and is no reason to keep a process alive.

    Args:
        pause_seconds: Between two rounds.
    """

    def __init__(self, pause_seconds: float = 0.25) -> None:
        self.heavy = threading.Lock()  # held by the one member that does something long in a thread of its own
        self._pause = pause_seconds
        self._members: list[Working] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = threading.Event()

    def add(self, member: Working) -> None:
        """Let one more do its work from now on."""
        with self._lock:
            if member not in self._members:
                self._members.append(member)
            if self._thread is None and not self._is_closed.is_set():
                self._thread = threading.Thread(target=self._run, name="tunesmith-monitor", daemon=True)
                self._thread.start()

    def remove(self, member: Working) -> None:
        """Let it rest."""
        with self._lock:
            if member in self._members:
                self._members.remove(member)

    def close(self, seconds: float = 5.0) -> None:
        """End the thread after the round that it is in."""
        self._is_closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)

    def _run(self) -> None:
        while not self._is_closed.wait(self._pause):
            with self._lock:
                members = list(self._members)
            for member in members:
                if not self._is_closed.is_set():
                    member.work()

"""The process that workers are forked from: it has imported what takes seconds, and has run nothing.

A worker that dies is replaced in the time of a fork and of loading its models; a fresh Python would first import torch
and Transformers for several seconds. It has one thread, no model and no sockets to clients, so forking is safe.

    python -m tunesmith.service.nursery CONTROL_FD MODULE...

In:   fork (number; with a socket as ancillary data)    kill (number)
Out:  ready    forked (number, pid)    ended (number, code)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence

from tunesmith.service import wire

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def main(arguments: Sequence[str]) -> int:
    """Import, then fork on demand until the service closes the line or dies."""
    parent = os.getppid()
    die_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole group; the service says when to end
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=int(arguments[0]))
    for name in arguments[1:]:
        with contextlib.suppress(ImportError):  # the worker that needs it will say so
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker would else copy every page it looks at
    _Nursery(control).run()
    return 0


class _Nursery:
    """Forks, kills, and tells who has ended."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}  # process id -> the service's number
        self._ear, self._bell = socket.socketpair()
        for end in (self._ear, self._bell):
            end.setblocking(False)

    def run(self) -> None:
        """Serve until the line is closed; then nobody is left."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with a handler, a child's end wakes the select
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._say({"op": "ready"})
        try:
            while True:
                ready, _, _ = select.select([self._control, self._ear], [], [])
                if self._ear in ready:
                    with contextlib.suppress(BlockingIOError):
                        self._ear.recv(4096)
                    self._reap()
                if self._control in ready and not self._obey():
                    return
        finally:
            for pid in self._numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _obey(self) -> bool:
        """Do what the next message says; False where the service is gone."""
        content, lines, _, _ = socket.recv_fds(self._control, 4, 1)
        if not content:
            return False
        size = int.from_bytes(content, "big")
        body = b""
        while len(body) < size:
            part = self._control.recv(size - len(body))
            if not part:
                return False
            body += part
        message = wire.unpack(body)
        if message["op"] == "fork":
            self._fork(int(message["number"]), lines[0])
        elif message["op"] == "kill":
            for pid in [pid for pid, number in self._numbers.items() if number == message["number"]]:
                os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, number: int, line: int) -> None:
        nursery = os.getpid()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self._control, self._ear, self._bell):
                end.close()
            _be_worker(line, nursery)
        os.close(line)
        self._numbers[pid] = number
        self._say({"op": "forked", "number": number, "pid": pid})

    def _reap(self) -> None:
        while self._numbers:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                self._say({"op": "ended", "number": number, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: wire.Message) -> None:
        self._control.sendall(wire.pack(message))


def _be_worker(line: int, nursery: int) -> None:
    """Be a worker for the rest of this process' life."""
    code = 1
    try:
        die_with_parent(nursery)
        work(socket.socket(fileno=line))
        code = 0
    finally:
        os._exit(code)


def work(line: socket.socket) -> None:
    """Take messages and send answers until the other side closes the line."""
    import faulthandler

    from tunesmith.service.desk import Desk

    with contextlib.suppress(OSError, ValueError):  # no standard error to tell of a crash on
        faulthandler.enable()
    lock = threading.Lock()

    def say(message: wire.Message) -> None:
        content = wire.pack(message)
        with lock, contextlib.suppress(OSError):  # the service is gone: this process ends as soon as it reads that
            line.sendall(content)

    desk = Desk(say)
    while (message := wire.receive(line)) is not None:
        desk.take(message)


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent dies, where it can (Linux); else the closed line ends it."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

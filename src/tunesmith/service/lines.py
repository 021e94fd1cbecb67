"""The line to one worker, and how workers come to be: forked from the nursery, or threads of this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tunesmith.bundle.exported import name_of
from tunesmith.errors import MachineProblem
from tunesmith.service import wire
from tunesmith.tasks import TASKS

Heard = Callable[[dict[str, Any]], None]
Lost = Callable[[str], None]

_ALWAYS = ("psutil", "tunesmith.service.desk", "tunesmith.bundle.load", "tunesmith.tasks.base")
_TORCH = ("torch", "transformers", "safetensors.torch", "tunesmith.models.build")
_DELTA = ("peft", "tunesmith.methods.delta", "tunesmith.methods.companions")


class Line(Protocol):
    """To one worker."""

    pid: int  # 0 where it is no process

    def send(self, message: wire.Message) -> None:
        """Send a message; one that cannot be sent any more is lost, and `lost` is called."""

    def kill(self) -> None:
        """End the worker at once, whatever it does."""

    def close(self) -> None:
        """Let the worker end when it has done what was asked."""


class Lines(Protocol):
    """Where workers come from."""

    async def open(self, heard: Heard, lost: Lost) -> Line:
        """Start a worker; `heard` is called with each message of it, `lost` once, when it is gone, with the reason."""

    async def close(self) -> None:
        """End all that is left."""


class ThreadLines:
    """Workers that are threads of this process. They cannot be killed: what hangs is left behind."""

    async def open(self, heard: Heard, lost: Lost) -> Line:
        """Start one."""
        return _ThreadLine(heard, lost)

    async def close(self) -> None:
        """Do nothing: each line ends its own."""


class _ThreadLine:
    pid = 0

    def __init__(self, heard: Heard, lost: Lost) -> None:
        from tunesmith.service.desk import Desk

        self._loop = asyncio.get_running_loop()
        self._heard, self._lost = heard, lost
        self._is_open = True
        self._desk = Desk(self._say)

    def _say(self, message: wire.Message) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._hear, dict(message))

    def _hear(self, message: dict[str, Any]) -> None:
        if self._is_open:
            self._heard(message)

    def send(self, message: wire.Message) -> None:
        self._desk.take(message)

    def kill(self) -> None:
        if self._is_open:
            self._is_open = False
            self._desk.close()
            self._loop.call_soon(self._lost, "killed")

    def close(self) -> None:
        self.kill()


class NurseryLines:
    """Workers forked from one process that has imported what takes long.

    Args:
        threads: CPU threads of one worker.
        modules: What is imported before the first fork, see `modules_for`.
    """

    def __init__(self, *, threads: int, modules: Sequence[str]) -> None:
        self._threads, self._modules = threads, tuple(modules)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None  # held, because it closes the line when it is let go
        self._hearing: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._lines: dict[int, _ProcessLine] = {}
        self._ended: list[_ProcessLine] = []  # whose lines may still be closing
        self._number = 0
        self._starting = asyncio.Lock()

    async def open(self, heard: Heard, lost: Lost) -> Line:
        """Fork one; starts the nursery where it is not there (any more)."""
        async with self._starting:
            if self._control is None:
                await self._start()
        if self._control is None:
            raise MachineProblem("the process that workers come from ended", do="see its words above")
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        self._number += 1
        line = _ProcessLine(self, self._number, heard, lost)
        self._lines[self._number] = line
        message = wire.pack({"op": "fork", "number": self._number})
        try:
            socket.send_fds(self._control, [message], [theirs.fileno()])
        except OSError as error:
            mine.close()
            raise MachineProblem("no worker could be started", do="it is tried again") from error
        finally:
            theirs.close()
        await line.connect(mine)
        return line

    async def _start(self) -> None:
        mine, theirs = socket.socketpair()
        mine.setblocking(True)
        numbers = {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tunesmith.service.nursery", str(theirs.fileno()), *self._modules],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **numbers, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"},
        )
        theirs.close()
        self._control = mine
        self._ready = asyncio.get_running_loop().create_future()
        reader, self._writer = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(mine.fileno())))
        self._hearing = asyncio.create_task(self._hear(reader))
        await self._ready

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while (message := await wire.read(reader)) is not None:
            if message["op"] == "ready" and self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            line = self._lines.get(message.get("number", 0))
            if line is not None and message["op"] == "forked":
                line.pid = int(message["pid"])
            if line is not None and message["op"] == "ended":
                line.gone(int(message["code"]))
        if self._control is not None:
            self._control.close()
            self._control = None
        await _closed(self._writer)
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)
        for line in list(self._lines.values()):
            line.gone(None)
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    def tell(self, message: wire.Message) -> None:
        """Send a message to the nursery itself."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is gone, and so are its workers
                self._control.sendall(wire.pack(message))

    def forget(self, number: int) -> None:
        """Let go of a worker that has ended."""
        line = self._lines.pop(number, None)
        if line is not None:
            self._ended = [one for one in self._ended if one.writer is not None and not one.is_closed] + [line]

    async def close(self) -> None:
        """End nursery and workers."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()  # it may still be importing; the system ends its workers with it
            await asyncio.to_thread(self._process.wait)
        if self._hearing is not None:
            await self._hearing
        await asyncio.gather(*(_closed(line.writer) for line in self._ended))


async def _closed(writer: asyncio.StreamWriter | None) -> None:
    """Close a line and wait until it is."""
    if writer is not None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _ProcessLine:
    """To a forked worker. It is lost when the nursery says that it has ended, and only then: its code is known."""

    def __init__(self, nursery: NurseryLines, number: int, heard: Heard, lost: Lost) -> None:
        self.pid = 0
        self._nursery, self._number, self._heard, self._lost = nursery, number, heard, lost
        self.writer: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._is_gone = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing of the line is left."""
        return self._hearing is None or self._hearing.done()

    async def connect(self, line: socket.socket) -> None:
        reader, self.writer = await asyncio.open_connection(sock=line, limit=2**24)
        self._hearing = asyncio.create_task(self._hear(reader))

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        while (message := await wire.read(reader)) is not None:
            self._heard(message)
        self.kill()  # a worker that closed its line is of no use

    def send(self, message: wire.Message) -> None:
        if self.writer is not None and not self._is_gone:
            self.writer.write(wire.pack(message))

    def kill(self) -> None:
        if not self._is_gone:
            self._nursery.tell({"op": "kill", "number": self._number})

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def gone(self, code: int | None) -> None:
        """Note that the process has ended, and tell."""
        if self._is_gone:
            return
        self._is_gone = True
        self._nursery.forget(self._number)
        self.close()
        self._lost("its parent ended" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}")


def lines_of(kind: str, *, threads: int, modules: Sequence[str]) -> Lines:
    """Give where workers come from: `processes` or `threads`."""
    return ThreadLines() if kind == "threads" else NurseryLines(threads=threads, modules=modules)


def modules_for(runs: Sequence[Path]) -> tuple[str, ...]:
    """Give what loading these run folders will import: torch only where one of them needs it.

    Args:
        runs: What can be read of them decides; a folder that cannot be read is taken for one that needs torch.
    """
    found = list(_ALWAYS)
    for run in runs:
        manifest, facts, config = (_read(run / name) for name in ("manifest.json", "bundle.json", "config.json"))
        found += [TASKS[facts["task"]]] if facts.get("task") in TASKS else []
        if name_of(manifest):
            continue
        found += _TORCH
        delta = facts.get("delta")
        found += _DELTA if isinstance(delta, dict) and not delta.get("merged") else ()
        family = str(config.get("model_type", "")).replace("-", "_")
        found += [f"transformers.models.{family}.modeling_{family}"] if family.isidentifier() else []
    return tuple(dict.fromkeys(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

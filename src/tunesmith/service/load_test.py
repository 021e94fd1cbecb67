"""A load test over real HTTP: many keep-alive connections, raw asyncio, so that the asking does not become the limit.

Two ways of asking. Closed: each of N clients asks again as soon as it is answered; that finds the capacity. Open:
requests come by chance at a rate (Poisson), whether or not earlier ones are answered; a request's time then runs from
when it should have been sent, so that a stall is not hidden by the clients waiting for it.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlsplit

_OPEN_SECONDS = 10.0  # to open a connection
_ANSWER_SECONDS = 60.0  # after which an answer counts as lost
_MOST_CONNECTIONS = 256  # of an open load; further requests wait here, and their time runs
_SETTLE_SHARE = 0.1  # of a stage at its beginning that is not counted


@dataclass(frozen=True)
class Target:
    """What is asked."""

    url: str  # of the service
    model: str
    inputs: Sequence[Any]  # taken in turn
    key: str = ""


@dataclass(frozen=True)
class Stage:
    """What came of one load."""

    name: str
    seconds: float  # counted
    sent: int
    answered: int
    refused: int  # 429, as it should be under too much load
    failed: Mapping[str, int]  # anything else: status or kind of failure -> how often
    answer_seconds: Sequence[float] = field(repr=False)  # of those that were answered, ascending
    refusal_seconds: Sequence[float] = field(repr=False)  # of those that were refused, ascending

    @property
    def per_second(self) -> float:
        """Answers."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, share: float, *, of_refusals: bool = False) -> float:
        """Give the time (seconds) that this share (0..1) kept to; 0 where there are none."""
        times = self.refusal_seconds if of_refusals else self.answer_seconds
        return times[min(len(times) - 1, int(share * len(times)))] if times else 0.0

    def to_json(self) -> dict[str, Any]:
        """Give the numbers, without each single time."""
        quantiles = {f"p{round(100 * share)}_seconds": self.percentile(share) for share in (0.5, 0.95, 0.99)}
        return {
            "name": self.name,
            "seconds": self.seconds,
            "sent": self.sent,
            "answered": self.answered,
            "per_second": self.per_second,
            "refused": self.refused,
            "refused_p99_seconds": self.percentile(0.99, of_refusals=True),
            "failed": dict(self.failed),
            **quantiles,
        }


class _Counts:
    """Counts what comes back once a stage has settled."""

    def __init__(self, start: float, seconds: float) -> None:
        self.start, self.until = start + _SETTLE_SHARE * seconds, start + seconds
        self.sent = 0
        self.answers: list[float] = []
        self.refusals: list[float] = []
        self.failed: collections.Counter[str] = collections.Counter()

    def note(self, since: float, status: int | str) -> None:
        if since < self.start:
            return
        self.sent += 1
        seconds = time.perf_counter() - since
        if status == 200:
            self.answers.append(seconds)
        elif status == 429:
            self.refusals.append(seconds)
        else:
            self.failed[str(status)] += 1

    def stage(self, name: str) -> Stage:
        seconds = max(1e-9, min(time.perf_counter(), self.until) - self.start)
        return Stage(
            name,
            seconds,
            self.sent,
            len(self.answers),
            len(self.refusals),
            dict(self.failed),
            sorted(self.answers),
            sorted(self.refusals),
        )


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        path = f"/v1/models/{quote(target.model, safe='')}:predict"
        key = f"authorization: Bearer {target.key}\r\n" if target.key else ""
        self._head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{key}content-type: application/json\r\n"
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._needed = 0  # bytes of the answer; 0: its headers are not whole
        self._answer: asyncio.Future[int] | None = None

    async def ask(self, content: bytes) -> int | str:
        """Send one request; give its status, or the kind of failure."""
        loop = asyncio.get_running_loop()
        try:
            if self._transport is None:
                opening = loop.create_connection(lambda: self, self._host, self._port)
                await asyncio.wait_for(opening, _OPEN_SECONDS)
        except (OSError, TimeoutError) as error:
            return type(error).__name__
        assert self._transport is not None
        answer: asyncio.Future[int] = loop.create_future()
        self._answer = answer
        self._read, self._needed = b"", 0
        timer = loop.call_later(_ANSWER_SECONDS, self._fail, TimeoutError())
        self._transport.write(f"{self._head}content-length: {len(content)}\r\n\r\n".encode() + content)
        try:
            return await answer
        except (OSError, TimeoutError, ValueError, IndexError) as error:
            self.close()
            return type(error).__name__
        finally:
            timer.cancel()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on, until the answer is whole."""
        self._read += data
        try:
            if not self._needed:
                head, end, _ = self._read.partition(b"\r\n\r\n")
                if not end:
                    return
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self._needed = len(head) + len(end) + length
            if len(self._read) < self._needed:
                return
            status = int(self._read.split(b" ", 2)[1])
        except (ValueError, IndexError) as error:
            self._fail(error)
            return
        if b"connection: close" in self._read.partition(b"\r\n\r\n")[0].lower():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError())

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._transport is not None:
            self._transport.abort()  # nothing is left to be sent; the end is told before another connection opens
            self._transport = None


def _contents(target: Target) -> list[bytes]:
    return [json.dumps({"inputs": [given]}, ensure_ascii=False).encode() for given in target.inputs]


async def ask_closed(target: Target, *, clients: int, seconds: float, name: str = "closed") -> Stage:
    """Let clients ask one after the other, each as fast as it is answered."""
    contents, start = _contents(target), time.perf_counter()
    counts = _Counts(start, seconds)

    async def client(number: int) -> None:
        connection, place = _Connection(target), number
        while (since := time.perf_counter()) < start + seconds:
            status = await connection.ask(contents[place % len(contents)])
            counts.note(since, status)
            place += clients
            if status == 429 or isinstance(status, str):  # one that is refused waits before it asks again
                await asyncio.sleep(0.05)
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return counts.stage(name)


async def ask_open(target: Target, *, rate: float, seconds: float, name: str = "open", seed: int = 0) -> Stage:
    """Send requests by chance at a rate (a second), answered or not."""
    contents, chance = _contents(target), random.Random(seed)
    idle = collections.deque(_Connection(target) for _ in range(_MOST_CONNECTIONS))
    waiting: collections.deque[float] = collections.deque()  # when those should have been sent for which none is idle
    start = time.perf_counter()
    counts = _Counts(start, seconds)
    tasks: set[asyncio.Task[None]] = set()
    number = 0

    async def send(connection: _Connection, since: float) -> None:
        nonlocal number
        while True:
            number += 1
            counts.note(since, await connection.ask(contents[number % len(contents)]))
            if not waiting:
                idle.append(connection)
                return
            since = waiting.popleft()

    due = start
    while due < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if idle:
            task = asyncio.create_task(send(idle.pop(), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        else:
            waiting.append(due)
        due += chance.expovariate(rate)
    unsent = len(waiting)
    waiting.clear()
    await asyncio.gather(*tasks)
    if unsent:  # neither the service nor these clients kept up
        counts.failed["not sent"] += unsent
    for connection in idle:
        connection.close()
    await asyncio.sleep(0)  # lets the sockets close
    return counts.stage(name)


def batches_of(metrics: str) -> tuple[int, int]:
    """Give how many batches and rows the service counted so far, from the text of its /metrics."""
    values = {"count": 0, "sum": 0}
    for line in metrics.splitlines():
        for kind in values:
            if line.startswith(f"tunesmith_batch_rows_{kind}"):
                values[kind] = round(float(line.rsplit(" ", 1)[1]))
    return values["count"], values["sum"]

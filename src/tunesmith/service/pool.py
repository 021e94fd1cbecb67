"""Answers requests with worker processes: one queue, batches, retries, streams. Keeps `Answering`.

A request is its rows. They wait in the batcher, go to a worker in batches with others' rows, and come back one by one;
the request is answered when all of its rows are. A batch that fails, or whose worker dies or hangs, is asked row by
row once more, so that only the row that is to blame gets no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.service.answering import Answer, Input, Load, ServedModel
from tunesmith.service.batcher import Batch, Batcher, Row
from tunesmith.service.crew import Crew, Running, Worker
from tunesmith.service.deployed import Deployed, Slot, compare
from tunesmith.service.lines import lines_of, modules_for
from tunesmith.service.models import Models, run_of
from tunesmith.service.pool_settings import PoolSettings, Served
from tunesmith.service.refusals import BadInput, Busy, ModelFault, NotReady, Refusal, TooSlow, WorkerLost
from tunesmith.types import Prediction, from_json

_MOST_TRIES = 2  # of one row
_CHARACTERS_A_TOKEN = 4.0  # before any text of a model was counted
_SLOW_CHANGE = 0.1
_SHADOW_ROOM = 0.25  # of the queue that may be full when a shadow is still asked
_STREAM_SECONDS = 5.0  # more than a request's own time, before a worker that writes counts as hung
_TICK_SECONDS = 0.02

Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(eq=False)
class _Request:
    """One request on its way."""

    slot: Slot
    deployed: Deployed
    inputs: Sequence[Input]
    seconds: float  # in which it has to be answered
    since: float
    done: asyncio.Future[None]
    found: list[Mapping[str, Any]] = field(default_factory=list)  # by input
    left: int = 0
    waited_seconds: float = 0.0
    rows_in_batch: int = 1
    pieces: asyncio.Queue[Mapping[str, Any]] | None = None  # of a stream
    has_begun: bool = False  # a stream that said something cannot begin again
    running: Running | None = None  # a stream's
    worker: Worker | None = None
    is_over: bool = False  # answered, failed, timed out, or its client left

    def fail(self, refusal: Refusal) -> None:
        """End it without an answer."""
        if self.pieces is not None:
            self.pieces.put_nowait({"refusal": refusal})
        if not self.done.done():
            self.done.set_exception(refusal)


class Pool:
    """Worker processes that answer; see `Answering`.

    Args:
        served: Names, and where their models come from.
        settings: How it works.
        tell: Takes what happens (kind, facts), for the log; never a text of a request.
        alarms: Gives the alerts that stand against a version (name, bundle id): a canary with one is taken back.
    """

    def __init__(
        self,
        served: Sequence[Served],
        settings: PoolSettings | None = None,
        *,
        tell: Tell | None = None,
        alarms: Callable[[str, str], Sequence[str]] | None = None,
    ) -> None:
        self.settings = settled(settings or PoolSettings())
        self._served = tuple(served)
        self._tell = tell or (lambda kind, facts: None)
        self._batcher = Batcher(self.settings.limits)
        modules = modules_for([run for one in served if (run := run_of(one)) is not None])
        lines = lines_of(self.settings.kind, threads=self.settings.threads, modules=modules)
        self._crew = Crew(self.settings, lines, self, tell=self._tell)
        self._models = Models(self.settings, self._crew, tell=self._tell, forget=self._forget, alarms=alarms)
        self._requests: set[_Request] = set()
        self._running: dict[int, Running] = {}
        self._numbers = itertools.count(1)
        self._sizes: Counter[int] = Counter()
        self._characters: dict[str, float] = {}  # model -> characters a token
        self._timer: asyncio.TimerHandle | None = None
        self._shadows: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    # What the HTTP side asks.

    async def start(self) -> None:
        """Begin to load; returns before the models are ready."""
        self._crew.start()
        self._models.start(self._served)

    async def stop(self, *, seconds: float) -> None:
        """Take nothing new, finish what was accepted within `seconds`, then end the workers."""
        self._is_stopping = True
        until = time.monotonic() + seconds
        while self._requests and time.monotonic() < until:
            await asyncio.sleep(_TICK_SECONDS)
        for request in list(self._requests):
            request.fail(NotReady("the service has ended", do="ask again", retry_after=1.0))
        for task in list(self._shadows):
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await self._models.close()
        await self._crew.close()

    def models(self) -> Mapping[str, ServedModel]:
        """Give what is served, by name."""
        return {name: slot.as_served() for name, slot in self._models.slots.items()}

    def slots(self) -> Mapping[str, Slot]:
        """Give the versions behind each name, with what was counted of them."""
        return dict(self._models.slots)

    def load_now(self) -> Load:
        """Give how busy it is."""
        workers = self._crew.workers
        running = [worker.batch for worker in workers if worker.batch] + [
            one for worker in workers for one in worker.streams.values()
        ]
        return Load(
            waiting_rows=self._batcher.waiting,
            running_rows=sum(len(one.batch.rows) for one in running),
            in_flight_requests=len(self._requests),
            capacity_rows=self.settings.limits.queue_rows,
            workers=self.settings.workers,
            workers_ready=self._crew.ready_count,
            restarts=self._crew.restarts,
            batches=dict(self._sizes),
        )

    def busy_for(self, let_in: int = 0) -> float:
        """Give after how many seconds asking is worth it; 0 where a request would be let in now."""
        coming = max(0, let_in - len(self._requests))
        return self._batcher.full_for(time.monotonic(), workers=max(1, len(self._crew.ready)), coming=coming)

    async def answer(
        self, name: str, inputs: Sequence[Input], *, options: Mapping[str, Any], seconds: float, sticky: str = ""
    ) -> Answer:
        """Answer one request's inputs, all or none; see `Answering`."""
        slot, deployed = self._choose(name, sticky)
        if not inputs:
            return Answer((), deployed.bundle, deployed.version)
        found = await self._ask(slot, deployed, inputs, options, seconds)
        self._ask_shadow(slot, inputs, options, seconds, found)
        predictions = tuple(from_json(Prediction, row["prediction"]) for row in found.found)
        observed = tuple(row.get("observed", {}) for row in found.found)
        return Answer(
            predictions,
            deployed.bundle,
            deployed.version,
            observed,
            rows_in_batch=found.rows_in_batch,
            waited_seconds=found.waited_seconds,
        )

    async def stream(
        self, name: str, given: Input, *, options: Mapping[str, Any], seconds: float, sticky: str = ""
    ) -> AsyncIterator[str]:
        """Yield an answer in words piece by piece; closing it stops the writing. See `Answering`."""
        slot, deployed = self._choose(name, sticky)
        if not deployed.facts.get("can_stream"):
            raise BadInput("this model answers at once", do="ask without stream")
        request = self._request(slot, deployed, [given], seconds)
        pieces: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        request.pieces = pieces
        request.done.add_done_callback(lambda done: done.cancelled() or done.exception())  # told by `pieces`
        until = time.monotonic() + seconds
        is_fault = True
        try:
            self._enqueue(request, options, is_stream=True)
            while True:
                try:
                    piece = await asyncio.wait_for(pieces.get(), until - time.monotonic())
                except TimeoutError:
                    raise TooSlow("no end of the answer in the time allowed", do="ask for less, or again") from None
                if "refusal" in piece:
                    raise piece["refusal"]
                if "text" not in piece:
                    is_fault = False
                    return
                yield piece["text"]
        except (BadInput, Busy, GeneratorExit, asyncio.CancelledError):
            is_fault = False
            raise
        finally:
            self._over(request, is_fault=is_fault)

    async def load(self, name: str, run: Path) -> ServedModel:
        """Serve one more run, or another one under a name that is there; the old one answers until the new one can.

        Raises:
            BadInput: The run cannot be served; what was there goes on.
        """
        return (await self._models.load(name, run)).as_served()

    async def unload(self, name: str) -> None:
        """Stop serving a name; what it was asked before is still answered."""
        await self._models.unload(name)

    async def take_back(self, name: str, reason: str) -> None:
        """End a canary: for whoever watches more than the pool does."""
        await self._models.take_back(name, reason)

    # Requests.

    def _choose(self, name: str, sticky: str) -> tuple[Slot, Deployed]:
        if self._is_stopping:
            raise NotReady("the service is about to end", do="ask again", retry_after=1.0)
        slot, deployed = self._models.choose(name, sticky)
        if not self._crew.can_serve(deployed.key):
            raise NotReady("no worker has this model", do="ask again in a moment", retry_after=1.0)
        return slot, deployed

    def _request(self, slot: Slot, deployed: Deployed, inputs: Sequence[Input], seconds: float) -> _Request:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return _Request(slot, deployed, inputs, seconds, time.monotonic(), done, [{}] * len(inputs), len(inputs))

    async def _ask(
        self, slot: Slot, deployed: Deployed, inputs: Sequence[Input], options: Mapping[str, Any], seconds: float
    ) -> _Request:
        request = self._request(slot, deployed, inputs, seconds)
        is_fault = True
        try:
            self._enqueue(request, options, is_stream=False)
            try:
                await asyncio.wait_for(request.done, seconds)
            except TimeoutError:
                raise TooSlow("no answer in the time allowed", do="ask again, or with fewer inputs") from None
            is_fault = False
        except (BadInput, Busy, asyncio.CancelledError):
            is_fault = False
            raise
        finally:
            self._over(request, is_fault=is_fault)
        return request

    def _enqueue(self, request: _Request, options: Mapping[str, Any], *, is_stream: bool) -> None:
        key, words = request.deployed.key, json.dumps(options, sort_keys=True, allow_nan=False)
        rows = [
            Row(request, place, key, words, self._tokens(key, given), request.since, is_stream=is_stream)
            for place, given in enumerate(request.inputs)
        ]
        self._batcher.add(rows, request.since, workers=max(1, len(self._crew.ready)))
        self._requests.add(request)
        request.deployed.in_flight += 1
        self._pump()

    def _over(self, request: _Request, *, is_fault: bool) -> None:
        """Count a request that ended, however it did, and take out what is left of it."""
        request.is_over = True
        if request not in self._requests:
            return
        self._requests.remove(request)
        request.deployed.in_flight -= 1
        was_answered = request.done.done() and not request.done.cancelled() and request.done.exception() is None
        if is_fault or was_answered:
            request.deployed.note(time.monotonic() - request.since, is_fault=is_fault)
        if self._batcher.cancel(request):
            self._pump()
        if request.running is not None and request.worker is not None and request.worker.line is not None:
            request.worker.line.send({"op": "cancel", "id": request.running.number})

    def _ask_shadow(
        self, slot: Slot, inputs: Sequence[Input], options: Mapping[str, Any], seconds: float, found: _Request
    ) -> None:
        """Ask the shadow the same, and count how often it says the same; where there is room."""
        shadow = slot.shadow
        if shadow is None or self._batcher.waiting > _SHADOW_ROOM * self.settings.limits.queue_rows:
            return

        async def work() -> None:
            with contextlib.suppress(Refusal):
                other = await self._ask(slot, shadow, inputs, options, seconds)
                values = [[row["prediction"]["value"] for row in each.found] for each in (found, other)]
                shadow.compared += len(inputs)
                shadow.agreed += compare(*values)

        task = asyncio.ensure_future(work())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    def _forget(self, key: str) -> None:
        """Forget what was learnt of a version that is gone."""
        self._characters.pop(key, None)
        self._batcher.forget(key)

    def _tokens(self, key: str, given: Input) -> int:
        """Give about how many tokens an input has."""
        text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
        return 2 + round(len(text) / self._characters.get(key, _CHARACTERS_A_TOKEN))

    # Work goes out.

    def free(self) -> None:
        """Send what waits to whoever is free."""
        self._pump()

    def _pump(self) -> None:
        now = time.monotonic()
        for worker in self._crew.ready:
            if worker.batch is None:
                batch = self._batcher.take(now, can=functools.partial(_can_answer, worker))
                if batch is not None:
                    self._send(worker, batch, now)
            while len(worker.streams) < self.settings.streams:
                batch = self._batcher.take(now, can=functools.partial(_can_write, worker), wants_stream=True)
                if batch is None:
                    break
                self._send(worker, batch, now)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._batcher.due_at()
        if due is not None and due > now:  # else it waits for a worker, which calls `free`
            self._timer = asyncio.get_running_loop().call_later(due - now + 0.0005, self._pump)

    def _send(self, worker: Worker, batch: Batch, now: float) -> None:
        """Give a worker a batch, or a stream."""
        if worker.line is None:
            return
        running = Running(next(self._numbers), batch, now, now + self._patience(batch))
        self._running[running.number] = running
        for row in batch.rows:
            row.tries += 1
            row.request.waited_seconds = max(row.request.waited_seconds, now - row.since)
            row.request.rows_in_batch = max(row.request.rows_in_batch, len(batch.rows))
        inputs = [row.request.inputs[row.place] for row in batch.rows]
        message = {"id": running.number, "key": batch.model, "options": batch.options}
        if batch.rows[0].is_stream:
            worker.streams[running.number] = running
            request = batch.rows[0].request
            request.running, request.worker = running, worker
            worker.line.send({"op": "stream", **message, "given": inputs[0]})
        else:
            worker.batch = running
            self._sizes[len(batch.rows)] += 1
            worker.line.send({"op": "answer", **message, "inputs": inputs})

    def _patience(self, batch: Batch) -> float:
        """Give after how many seconds a batch counts as hung: writing may take as long as its requests allow."""
        request, limits = batch.rows[0].request, self.settings.limits
        if batch.rows[0].is_stream or not request.deployed.facts.get("can_stream"):
            return self.settings.hang_seconds * max(
                1.0, batch.tokens / limits.batch_tokens
            )  # one long text is no fault
        longest: float = max(row.request.seconds for row in batch.rows)
        return max(self.settings.hang_seconds, longest + _STREAM_SECONDS)

    # Answers come back.

    def heard(self, worker: Worker, message: dict[str, Any]) -> None:
        """Take what a worker says."""
        kind, number = message["op"], message["id"]
        if kind == "piece":
            self._piece(worker, number, message["text"])
            return
        running = self._running.pop(number, None)
        if running is None:
            return
        if kind == "ended":
            worker.streams.pop(number, None)
            self._ended(running, message)
        elif worker.batch is running:
            worker.batch = None
            worker.batches += 1
            self._batcher.done(running.batch, message["seconds"])
            if "fault" in message:
                self._tell("batch failed", {"type": message["fault"], "rows": len(running.batch.rows)})
                self._again(running.batch.rows, died=False)
            else:
                self._answered(running.batch, message["rows"])
        self._pump()

    def _answered(self, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> None:
        for row, found in zip(batch.rows, rows, strict=True):
            request = row.request
            if request.is_over or request.done.done():
                continue
            if bad := found.get("bad"):
                request.fail(BadInput(bad["what"], do=bad["do"], where=f"inputs[{row.place}]"))
                continue
            self._learn(batch.model, request.inputs[row.place], found)
            request.found[row.place] = found
            request.left -= 1
            if request.left == 0:
                request.done.set_result(None)

    def _learn(self, key: str, given: Input, found: Mapping[str, Any]) -> None:
        """Learn how many characters a token of this model has, so that the next estimate is better."""
        tokens = found.get("observed", {}).get("tokens", 0)
        if tokens > 2 and isinstance(given, str):
            before = self._characters.get(key, _CHARACTERS_A_TOKEN)
            self._characters[key] = max(0.3, before + _SLOW_CHANGE * (len(given) / (tokens - 2) - before))

    def _piece(self, worker: Worker, number: int, text: str) -> None:
        running = self._running.get(number)
        if running is None:
            return
        running.until = time.monotonic() + self.settings.hang_seconds
        request = running.batch.rows[0].request
        request.has_begun = True
        if request.pieces is not None and not request.is_over:
            request.pieces.put_nowait({"text": text})

    def _ended(self, running: Running, message: Mapping[str, Any]) -> None:
        row = running.batch.rows[0]
        request = row.request
        request.running = None
        if request.is_over:
            return
        if bad := message.get("bad"):
            request.fail(BadInput(bad["what"], do=bad["do"], where="inputs[0]"))
        elif "fault" in message:
            self._tell("stream failed", {"type": message["fault"]})
            request.fail(ModelFault("the model failed on this input", do="asking again does not help"))
        else:
            request.pieces.put_nowait({})
            if not request.done.done():
                request.done.set_result(None)

    def lost(self, worker: Worker, reason: str) -> None:
        """Ask again what ran in a worker that is gone."""
        running = [*([worker.batch] if worker.batch else []), *worker.streams.values()]
        worker.batch, worker.streams = None, {}
        for one in running:
            self._running.pop(one.number, None)
            self._again(one.batch.rows, died=True)
        self._pump()

    def _again(self, rows: Sequence[Row], *, died: bool) -> None:
        """Let rows wait for a second try, each by itself; those that had one get no answer."""
        once_more: list[Row] = []
        for row in rows:
            request = row.request
            request.running = None
            if request.is_over or request.done.done():
                continue
            was_alone = len(rows) == 1 and not died
            if row.tries >= _MOST_TRIES or was_alone or request.has_begun:
                request.fail(self._refusal(row, died=died))
            else:
                once_more.append(row)
        self._batcher.put_back(once_more)

    def _refusal(self, row: Row, *, died: bool) -> Refusal:
        where = f"inputs[{row.place}]" if len(row.request.inputs) > 1 else ""
        if died:
            return WorkerLost("the process that ran the model ended", do="ask again", where=where, retry_after=1.0)
        return ModelFault("the model failed on this input", do="asking again does not help", where=where)


def _can_answer(worker: Worker, key: str) -> bool:
    """Whether a worker has a model and is not writing with it."""
    return key in worker.has and all(one.batch.model != key for one in worker.streams.values())


def _can_write(worker: Worker, key: str) -> bool:
    """Whether a worker has a model that nobody is asking: how it writes is kept in the model while it does."""
    return _can_answer(worker, key) and (worker.batch is None or worker.batch.batch.model != key)


def settled(settings: PoolSettings) -> PoolSettings:
    """Give settings with nothing left open: one core is left to the service, the others are shared out to the workers.

    Threads of one product wait for each other: where they take all cores, each request that comes in holds up a batch.
    """
    if settings.threads:
        return settings
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return dataclasses.replace(settings, threads=max(1, (cores - 1) // max(1, settings.workers)))

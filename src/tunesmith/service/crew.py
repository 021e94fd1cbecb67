"""N workers, each with every served model: started, replaced when they die or hang or grow old, told what to load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tunesmith.errors import TunesmithError
from tunesmith.service.batcher import Batch
from tunesmith.service.lines import Line, Lines
from tunesmith.service.pool_settings import PoolSettings

_FIRST_WAIT_SECONDS = 0.1  # before a worker that died young is replaced; doubled each time
_LONGEST_WAIT_SECONDS = 30.0
_IS_OLD_SECONDS = 30.0  # after which a death is no reason to wait
_MOST_LOAD_DEATHS = 2  # workers that died while loading a model, after which nobody loads it any more
_RETRY_LOAD_SECONDS = 10.0
_TICK_SECONDS = 0.1


@dataclass(eq=False)
class Running:
    """A batch or stream that a worker has."""

    number: int
    batch: Batch
    since: float
    until: float  # when it counts as hung


@dataclass(eq=False)
class Worker:
    """What the service knows of one worker."""

    name: str
    line: Line | None = None
    has: set[str] = field(default_factory=set)  # keys of the models that it can be asked
    loading: dict[str, float] = field(default_factory=dict)  # key -> until when
    failed: dict[str, float] = field(default_factory=dict)  # key -> when it could not be loaded
    batch: Running | None = None
    streams: dict[int, Running] = field(default_factory=dict)
    batches: int = 0  # answered so far
    memory_mib: float = 0.0
    born: float = field(default_factory=time.monotonic)
    is_ready: bool = False  # everything was loaded, or could not be
    is_leaving: bool = False  # it gets nothing new
    is_gone: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs in it."""
        return self.batch is None and not self.streams


class Owner(Protocol):
    """Who is told what workers say."""

    def heard(self, worker: Worker, message: dict[str, Any]) -> None:
        """An answer, a piece, or the end of a stream."""

    def lost(self, worker: Worker, reason: str) -> None:
        """It is gone, with what ran in it."""

    def free(self) -> None:
        """Some worker may have become free, or can be asked more."""


@dataclass(eq=False)
class _Wish:
    """A model that all workers should have."""

    message: Mapping[str, Any]
    done: asyncio.Future[dict[str, Any]]
    facts: dict[str, Any] | None = None
    deaths: int = 0


class LoadProblem(Exception):
    """A model could not be loaded; `parts` are those of an error of the family."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        super().__init__(parts.get("what", ""))
        self.parts = parts


class Crew:
    """The workers.

    Args:
        settings: Of the pool.
        lines: Where workers come from.
        owner: Is told what they say.
        tell: Takes what happens, for the log: a kind and its facts, never a text of a request.
    """

    def __init__(
        self, settings: PoolSettings, lines: Lines, owner: Owner, *, tell: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self.settings, self.restarts, self.recycled = settings, 0, 0
        self.workers: list[Worker] = []
        self._lines, self._owner, self._tell = lines, owner, tell
        self._wishes: dict[str, _Wish] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._born = 0
        self._young_deaths = 0
        self._is_closed = False

    def start(self) -> None:
        """Begin; returns before any worker is there."""
        for _ in range(self.settings.workers):
            self._spawn(0.0)
        self._keep(self._watch())

    async def close(self) -> None:
        """End all workers."""
        self._is_closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self.workers:
            if worker.line is not None:
                worker.line.close()
        await self._lines.close()
        for wish in self._wishes.values():
            if not wish.done.done():
                wish.done.cancel()

    @property
    def ready(self) -> list[Worker]:
        """Those that can be asked, the one that has answered least first."""
        able = [worker for worker in self.workers if worker.has and not worker.is_leaving and not worker.is_gone]
        return sorted(able, key=lambda worker: worker.batches)

    @property
    def ready_count(self) -> int:
        """How many workers have loaded all that they should."""
        return sum(worker.is_ready and not worker.is_leaving for worker in self.workers)

    async def want(self, key: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Have a model loaded in every worker, now and in each that comes; give its facts when all that run have it.

        Raises:
            LoadProblem: It cannot be loaded; it is not wanted any more.
        """
        wish = self._wishes[key] = _Wish({**message, "op": "load", "key": key}, asyncio.Future())
        for worker in self.workers:
            self._load(worker, key, wish)
        try:
            return await wish.done
        except (LoadProblem, asyncio.CancelledError):
            self.drop(key)
            raise

    def drop(self, key: str) -> None:
        """Have a model dropped everywhere."""
        self._wishes.pop(key, None)
        for worker in self.workers:
            worker.has.discard(key)
            worker.loading.pop(key, None)
            worker.failed.pop(key, None)
            if worker.line is not None:
                worker.line.send({"op": "drop", "key": key})

    def can_serve(self, key: str) -> bool:
        """Whether some worker has it, or may have it soon."""
        return any(key in worker.has or key in worker.loading or worker.line is None for worker in self.workers)

    def kill(self, worker: Worker) -> None:
        """End a worker at once; `lost` follows."""
        if worker.line is not None:
            worker.line.kill()

    # Workers come and go.

    def _spawn(self, wait_seconds: float) -> None:
        self._born += 1
        worker = Worker(f"worker-{self._born}")
        self.workers.append(worker)
        self._keep(self._open(worker, wait_seconds))

    async def _open(self, worker: Worker, wait_seconds: float) -> None:
        await asyncio.sleep(wait_seconds)
        worker.born = time.monotonic()
        try:
            line = await self._lines.open(
                lambda message: self._heard(worker, message), lambda reason: self._lost(worker, reason)
            )
        except (TunesmithError, OSError) as error:
            self._lost(worker, str(getattr(error, "what", error)))
            return
        worker.line = line
        self._tell("worker started", {"worker": worker.name})
        for key, wish in self._wishes.items():
            self._load(worker, key, wish)
        self._note_ready(worker)

    def _load(self, worker: Worker, key: str, wish: _Wish) -> None:
        if worker.line is None or worker.is_gone or key in worker.loading or key in worker.has:
            return
        worker.loading[key] = time.monotonic() + self.settings.load_seconds
        worker.line.send(wish.message)

    def _lost(self, worker: Worker, reason: str) -> None:
        if worker.is_gone:
            return
        worker.is_gone = True
        self.workers.remove(worker)
        for key in list(worker.loading):  # models are loaded one after the other: the first one was at work
            self._note_load_death(key)
            break
        for key, wish in self._wishes.items():  # those that are left may all have it
            self._note_loaded(key, wish)
        was_asked_to_leave = worker.is_leaving and worker.is_idle
        if not self._is_closed and not was_asked_to_leave:
            is_young = time.monotonic() - worker.born < _IS_OLD_SECONDS and not worker.batches
            self._young_deaths = self._young_deaths + 1 if is_young else 0
            self.restarts += 1
            wait = 0.0
            if self._young_deaths > 1:
                wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(self._young_deaths - 2, 20))
            self._tell("worker lost", {"worker": worker.name, "reason": reason, "again_in_seconds": wait})
            if len(self.workers) < self.settings.workers:
                self._spawn(wait)
        self._owner.lost(worker, reason)

    def _note_load_death(self, key: str) -> None:
        wish = self._wishes.get(key)
        if wish is None:
            return
        wish.deaths += 1
        if wish.deaths >= _MOST_LOAD_DEATHS:
            parts = {"type": "ModelProblem", "what": "loading it ended the worker process", "do": "see the log"}
            if wish.done.done():
                self._wishes.pop(key)
            else:
                wish.done.set_exception(LoadProblem(parts))

    def _heard(self, worker: Worker, message: dict[str, Any]) -> None:
        if worker.is_gone:
            return
        worker.memory_mib = float(message.get("memory_mib", worker.memory_mib))
        if message["op"] == "loaded":
            self._loaded(worker, message)
            return
        self._owner.heard(worker, message)
        self._recycle(worker)

    def _loaded(self, worker: Worker, message: dict[str, Any]) -> None:
        key = message["key"]
        wish = self._wishes.get(key)
        worker.loading.pop(key, None)
        if wish is None:  # dropped meanwhile
            return
        if "problem" in message:
            worker.failed[key] = time.monotonic()
            self._tell("model not loaded", {"worker": worker.name, "key": key, "type": message["problem"]["type"]})
            if not wish.done.done():
                wish.done.set_exception(LoadProblem(message["problem"]))
        else:
            worker.has.add(key)
            worker.failed.pop(key, None)
            wish.facts = {**message["facts"], "seconds": message["seconds"]}
            self._note_loaded(key, wish)
        self._note_ready(worker)
        self._owner.free()

    def _note_loaded(self, key: str, wish: _Wish) -> None:
        """Tell whoever waits for a model that every worker that runs has it."""
        others = [other for other in self.workers if other.line is not None and not other.is_leaving]
        is_everywhere = wish.facts is not None and not any(key in other.loading for other in others)
        if is_everywhere and any(key in other.has for other in others) and not wish.done.done():
            wish.done.set_result(wish.facts or {})

    def _note_ready(self, worker: Worker) -> None:
        if worker.is_ready or worker.line is None or worker.loading or not self._wishes:
            return
        worker.is_ready = True
        self._tell("worker ready", {"worker": worker.name, "seconds": round(time.monotonic() - worker.born, 3)})
        for old in [other for other in self.workers if other.is_leaving and other is not worker]:
            self._let_go(old)

    def _recycle(self, worker: Worker) -> None:
        """Let a worker go that has answered much or grown large, when the one that replaces it is ready."""
        settings = self.settings
        is_old = bool(settings.recycle_requests) and worker.batches >= settings.recycle_requests
        is_large = bool(settings.recycle_mib) and worker.memory_mib > settings.recycle_mib
        is_busy_with_that = any(not other.is_ready for other in self.workers)
        if (is_old or is_large) and not worker.is_leaving and not is_busy_with_that:
            facts = {"worker": worker.name, "batches": worker.batches, "memory_mib": round(worker.memory_mib)}
            self._tell("worker recycled", facts)
            self.recycled += 1
            self._spawn(0.0)
            self._keep(self._leave_when_replaced(worker, self.workers[-1]))
        if worker.is_leaving:
            self._let_go(worker)

    async def _leave_when_replaced(self, worker: Worker, successor: Worker) -> None:
        while not successor.is_ready and not successor.is_gone:
            await asyncio.sleep(_TICK_SECONDS)
        if successor.is_ready and not worker.is_gone:
            worker.is_leaving = True
            self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        if worker.is_idle and worker.line is not None:
            worker.line.close()

    async def _watch(self) -> None:
        """Replace what hangs; load again what could not be loaded."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            for worker in list(self.workers):
                running = [*([worker.batch] if worker.batch else []), *worker.streams.values()]
                if any(now > one.until for one in running) or any(now > until for until in worker.loading.values()):
                    self._tell("worker hangs", {"worker": worker.name})
                    self.kill(worker)
                for key, when in list(worker.failed.items()):
                    if now - when > _RETRY_LOAD_SECONDS and key in self._wishes:
                        worker.failed.pop(key)
                        self._load(worker, key, self._wishes[key])

    def _keep(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            if (error := task.exception()) is not None:
                self._tell("fault", {"type": type(error).__name__})

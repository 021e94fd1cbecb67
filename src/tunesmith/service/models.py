"""What is served: names and the versions behind them. Follows registries, swaps without a failed request, takes back.

A swap: every worker loads the new version beside the old one and asks it something; then new requests go to the new
one; when the last request of the old one is answered, it is dropped. What cannot be loaded changes nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import TunesmithError
from tunesmith.service.crew import Crew, LoadProblem
from tunesmith.service.deployed import Deployed, Slot, judge
from tunesmith.service.pool_settings import PoolSettings, Served, as_message
from tunesmith.service.refusals import BadInput, NoSuchModel, NotReady

if TYPE_CHECKING:
    from tunesmith.bundle.registry import Registry, Version

Tell = Callable[[str, Mapping[str, Any]], None]
_TELL_EACH = 60  # times in a row that a registry cannot be read, before that is told once more
_TRY_AGAIN_AFTER = 60  # looks at the registry, before a version that could not be loaded is tried again
_WAIT_FOR_LAST_SECONDS = 0.02


class Models:
    """The served names.

    Args:
        settings: Of the pool.
        crew: The workers.
        tell: Takes what happens, for the log.
        forget: Called with the key of a version that is gone.
        alarms: Gives the alerts that stand against a version (name, bundle id); None where nobody watches.
    """

    def __init__(
        self,
        settings: PoolSettings,
        crew: Crew,
        *,
        tell: Tell,
        forget: Callable[[str], None],
        alarms: Callable[[str, str], Sequence[str]] | None = None,
    ) -> None:
        self.slots: dict[str, Slot] = {}
        self._settings, self._crew, self._tell, self._alarms, self._forget = settings, crew, tell, alarms, forget
        self._looked_at: set[str] = set()  # names whose registry is being obeyed
        self._faults: dict[str, int] = {}  # name -> times in a row that its registry could not be read
        self._numbers = itertools.count(1)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, served: Sequence[Served]) -> None:
        """Begin to load; returns at once."""
        for one in served:
            self.slots[one.name] = Slot(one)
            self._keep(self._bring_up(self.slots[one.name]))
        self._keep(self._follow())

    async def close(self) -> None:
        """Stop following."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def choose(self, name: str, sticky: str) -> tuple[Slot, Deployed]:
        """Give who answers.

        Raises:
            NoSuchModel: Nothing of that name is served.
            NotReady: It is loading, or could not be loaded.
        """
        slot = self.slots.get(name)
        if slot is None:
            raise NoSuchModel("no model of that name is served", do="GET /v1/models lists the names")
        deployed = slot.choose(sticky)
        if deployed is None:
            what = "this model could not be loaded" if slot.state == "failed" else "this model is being loaded"
            raise NotReady(what, do="ask again in a moment", retry_after=1.0)
        return slot, deployed

    async def load(self, name: str, run: Path) -> Slot:
        """Serve a run under a name; what is there answers until the new one can.

        Raises:
            BadInput: The run cannot be loaded; the old one, if there is one, goes on.
        """
        is_new = name not in self.slots
        slot = self.slots.setdefault(name, Slot(Served(name, run=run)))
        async with self._lock(name):
            try:
                await self._swap(slot, run, 0)
            except LoadProblem as problem:
                if is_new:
                    self.slots.pop(name, None)
                what, do = str(problem.parts.get("what", "")), str(problem.parts.get("do", ""))
                raise BadInput(
                    f"the run cannot be served: {without_paths(what, run)}", do=without_paths(do, run)
                ) from problem
            slot.served = Served(name, run=run)
        return slot

    async def unload(self, name: str) -> None:
        """Stop serving a name; what it was asked before is still answered.

        Raises:
            NoSuchModel: Nothing of that name is served.
        """
        slot = self.slots.pop(name, None)
        if slot is None:
            raise NoSuchModel("no model of that name is served", do="GET /v1/models lists the names")
        for deployed in slot.deployed:
            self._retire(deployed)
        self._tell("model unloaded", {"model": name})

    async def take_back(self, name: str, reason: str) -> None:
        """End a canary, in the registry too: all of its traffic goes to the live version from now on."""
        slot = self.slots.get(name)
        if slot is None or slot.canary is None:
            return
        canary, slot.canary, slot.canary_share = slot.canary, None, 0.0
        slot.reason = f"canary {canary.version} was taken back: {reason}"
        self._tell("canary taken back", {"model": name, "version": canary.version, "reason": reason})
        self._retire(canary)
        if slot.served.registry is not None:
            try:
                await asyncio.to_thread(self._registry(slot).clear, name)
            except (TunesmithError, OSError) as error:
                self._tell("registry not changed", {"model": name, "type": type(error).__name__})

    # Inside.

    async def _bring_up(self, slot: Slot) -> None:
        if slot.served.registry is not None:
            return  # by `_follow`
        async with self._lock(slot.name):
            try:
                await self._swap(slot, slot.served.run or Path(), 0)
            except LoadProblem as problem:
                slot.state = "failed" if slot.live is None else slot.state
                self._note_problem(slot, problem)

    async def _deploy(self, slot: Slot, run: Path, version: int) -> Deployed:
        """Load one version in every worker.

        Raises:
            LoadProblem: It cannot be loaded.
        """
        deployed = Deployed(f"{slot.name}#{next(self._numbers)}", slot.name, run, version)
        settings, stub = self._settings, slot.served.stub
        message = {
            "run": str(run.absolute()),
            "engine": settings.engine,
            "threads": settings.threads,
            "device": settings.device,
            "verify": settings.verify,
        }
        facts = await self._crew.want(deployed.key, {"stub": as_message(stub)} if stub is not None else message)
        deployed.facts = facts
        told = {
            "model": slot.name,
            "version": version,
            "bundle": deployed.bundle,
            "seconds": round(facts["seconds"], 3),
        }
        self._tell("model loaded", {**told, "remark": facts.get("remark", "")})
        return deployed

    async def _swap(self, slot: Slot, run: Path, version: int) -> None:
        new = await self._deploy(slot, run, version)
        if self.slots.get(slot.name) is not slot:  # unloaded meanwhile
            self._retire(new)
            return
        old, slot.live = slot.live, new
        slot.state, slot.reason = "ready", ""
        if old is not None:
            self._retire(old)

    def _retire(self, deployed: Deployed) -> None:
        """Drop a version once its last request is answered."""

        async def wait() -> None:
            while deployed.in_flight:
                await asyncio.sleep(_WAIT_FOR_LAST_SECONDS)
            self._crew.drop(deployed.key)
            self._forget(deployed.key)

        self._keep(wait())

    async def _follow(self) -> None:
        """Obey each registry's pointer, and judge canaries; one name that takes long keeps no other waiting."""
        while True:
            for slot in [one for one in self.slots.values() if one.name not in self._looked_at]:
                self._looked_at.add(slot.name)
                self._keep(self._look(slot))
            await asyncio.sleep(self._settings.follow_seconds)

    async def _look(self, slot: Slot) -> None:
        name = slot.name
        try:
            if slot.served.registry is not None:
                await self._obey(slot)
            self._faults.pop(name, None)
            await self._judge(slot)
        except (TunesmithError, OSError) as error:
            self._faults[name] = self._faults.get(name, 0) + 1
            slot.state = "failed" if slot.live is None else slot.state
            slot.reason = str(getattr(error, "what", "the registry cannot be read"))
            if self._faults[name] % _TELL_EACH == 1:
                self._tell("registry not read", {"model": name, "type": type(error).__name__})
        finally:
            self._looked_at.discard(name)

    async def _judge(self, slot: Slot) -> None:
        if slot.canary is None or slot.live is None:
            return
        reason = judge(slot.canary, slot.live, self._settings.canary)
        if not reason and self._alarms is not None:
            alarms = self._alarms(slot.name, slot.canary.bundle)
            reason = f"alert: {', '.join(alarms)}" if alarms else ""
        if reason:
            await self.take_back(slot.name, reason)

    async def _obey(self, slot: Slot) -> None:
        """Make what is loaded what the registry's pointer says."""
        registry = self._registry(slot)
        stamp = await asyncio.to_thread(registry.stamp, slot.name)
        slot.looks_left -= 1
        if stamp == slot.stamp and slot.looks_left != 0:
            return
        traffic = await asyncio.to_thread(registry.traffic, slot.name)
        async with self._lock(slot.name):
            slot.stamp, slot.looks_left = stamp, -1  # also where a load fails: it is not tried again at each look
            if traffic.live is None:
                slot.state, slot.reason = "failed", "no version of it is live in the registry"
                return
            try:
                if slot.live is None or slot.live.version != traffic.live.number:
                    await self._promote(slot, traffic.live)
                await self._beside(slot, "canary", traffic.canary)
                slot.canary_share = traffic.canary_share if slot.canary is not None else 0.0
                await self._beside(slot, "shadow", traffic.shadow)
            except LoadProblem as problem:
                slot.looks_left = _TRY_AGAIN_AFTER
                slot.state = "failed" if slot.live is None else slot.state
                self._note_problem(slot, problem)

    async def _promote(self, slot: Slot, version: Version) -> None:
        """Make a version the live one: the canary that it was, if it is loaded already."""
        if slot.canary is not None and slot.canary.version == version.number:
            old, slot.live = slot.live, slot.canary
            slot.canary, slot.canary_share, slot.state, slot.reason = None, 0.0, "ready", ""
            if old is not None:
                self._retire(old)
            return
        await self._swap(slot, version.run, version.number)

    async def _beside(self, slot: Slot, place: str, version: Version | None) -> None:
        """Have a canary or a shadow loaded, or none."""
        there: Deployed | None = getattr(slot, place)
        if (there.version if there is not None else None) == (version.number if version is not None else None):
            return
        new = await self._deploy(slot, version.run, version.number) if version is not None else None
        setattr(slot, place, new)
        if there is not None:
            self._retire(there)

    def _note_problem(self, slot: Slot, problem: LoadProblem) -> None:
        slot.reason = without_paths(str(problem.parts.get("what", "it cannot be loaded")), slot.served.run)
        self._tell("model not served", {"model": slot.name, "reason": slot.reason})

    def _registry(self, slot: Slot) -> Registry:
        from tunesmith.bundle.registry import Registry

        return Registry(slot.served.registry or Path())

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _keep(self, work: Awaitable[None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tell("fault", {"type": type(error).__name__})


def without_paths(text: str, run: Path | None) -> str:
    """Give a reason that may go to a client: it names no folder."""
    for path in {str(run), str(run.absolute()), str(run.absolute().parent)} if run is not None else ():
        text = text.replace(path, run.name if run is not None else "")
    return text


def run_of(served: Served) -> Path | None:
    """Give the run folder that will answer first, as far as that can be told now."""
    if served.registry is None:
        return served.run
    from tunesmith.bundle.registry import Registry

    try:
        live = Registry(served.registry).live(served.name)
    except (TunesmithError, OSError):
        return None
    return None if live is None else live.run

"""The pool with stubs, in threads of this process: what does not need a process to die."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from pathlib import Path
from typing import ClassVar

import pytest

from tunesmith.service.pool import Pool
from tunesmith.service.pool_settings import CanaryRules, Limits, PoolSettings, Served, Stub
from tunesmith.service.refusals import BadInput, Busy, ModelFault, NoSuchModel, NotReady, TooSlow

QUICK = Stub(0.002)
ROOMY = Limits(queue_rows=5000, standing_batches=0.0)  # however slow the machine is


def runs(work):
    """Run a coroutine test, and fail it rather than hang."""

    @functools.wraps(work)
    def test(*args, **kwargs):
        asyncio.run(asyncio.wait_for(work(*args, **kwargs), 30))

    return test


@contextlib.asynccontextmanager
async def pool_of(*served: Served, **settings):
    told: list[tuple[str, dict]] = []
    pool = Pool(
        served,
        PoolSettings(**{"kind": "threads", "threads": 1, "follow_seconds": 0.02, "limits": ROOMY, **settings}),
        tell=lambda kind, facts: told.append((kind, dict(facts))),
    )
    pool.told = told
    await pool.start()
    try:
        await until(lambda: all(model.state != "loading" for model in pool.models().values()))
        yield pool
    finally:
        await pool.stop(seconds=1)


async def until(is_so) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


async def ask(pool: Pool, *texts: str, name: str = "stub", seconds: float = 5.0, sticky: str = ""):
    return await pool.answer(name, list(texts), options={}, seconds=seconds, sticky=sticky)


@runs
async def test_requests_at_once_are_answered_in_one_batch_each_with_its_own():
    async with pool_of(Served("stub", stub=QUICK)) as pool:
        found = await asyncio.gather(*(ask(pool, *(["x"] * count)) for count in (1, 3, 2)))
        assert [len(answer.predictions) for answer in found] == [1, 3, 2]
        assert {answer.rows_in_batch for answer in found} == {6}
        assert found[0].observed == ({"tokens": 1, "unknown_tokens": 0},)
        assert found[0].bundle == "stub-stub"
        ids = {prediction.id for answer in found for prediction in answer.predictions}
        assert len(ids) == 6
        load = pool.load_now()
        assert (load.batches, load.waiting_rows, load.in_flight_requests, load.restarts) == ({6: 1}, 0, 0, 0)
        assert (await ask(pool)).predictions == ()


@runs
async def test_one_bad_input_fails_alone():
    async with pool_of(Served("stub", stub=Stub(0.001, fails_on="bad"))) as pool:
        found = await asyncio.gather(*(ask(pool, text) for text in ("a", "bad", "b")), return_exceptions=True)
        assert [type(answer).__name__ for answer in found] == ["Answer", "ModelFault", "Answer"]
        with pytest.raises(ModelFault) as caught:
            await ask(pool, "good", "bad one")
        assert caught.value.where == "inputs[1]"
        assert "bad" not in caught.value.what


@runs
async def test_a_request_that_takes_too_long_is_given_up_and_its_rows_leave():
    async with pool_of(Served("stub", stub=Stub(0.3, rows=1)), limits=Limits(batch_rows=1)) as pool:
        first = asyncio.ensure_future(ask(pool, "a"))
        await asyncio.sleep(0.05)
        with pytest.raises(TooSlow):
            await ask(pool, *"bcdef", seconds=0.05)
        assert pool.load_now().waiting_rows == 0
        await first


@runs
async def test_a_client_that_leaves_takes_its_waiting_rows_along():
    async with pool_of(Served("stub", stub=Stub(0.2, rows=1)), limits=Limits(batch_rows=1)) as pool:
        first = asyncio.ensure_future(ask(pool, "a"))
        await asyncio.sleep(0.05)
        gone = asyncio.ensure_future(ask(pool, *"bcdefgh"))
        await asyncio.sleep(0.01)
        assert pool.load_now().waiting_rows == 7
        gone.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        load = pool.load_now()
        assert (load.waiting_rows, load.in_flight_requests) == (0, 1)
        await first
        assert sum(pool.load_now().batches.values()) == 1


@runs
async def test_a_full_queue_refuses_at_once():
    limits = Limits(batch_rows=1, queue_rows=3)
    async with pool_of(Served("stub", stub=Stub(0.1, rows=1)), limits=limits) as pool:
        waiting = [asyncio.ensure_future(ask(pool, "a")) for _ in range(4)]
        await asyncio.sleep(0.02)
        with pytest.raises(Busy) as caught:
            await ask(pool, "b")
        assert 0 < caught.value.retry_after < 10
        assert all(answer.predictions for answer in await asyncio.gather(*waiting))


@runs
async def test_names_that_are_not_served_are_told_apart_from_those_that_load(tmp_path):
    async with pool_of(Served("stub", stub=QUICK), Served("gone", run=tmp_path / "no such run")) as pool:
        with pytest.raises(NoSuchModel):
            await ask(pool, "x", name="other")
        with pytest.raises(NotReady):
            await ask(pool, "x", name="gone")
        model = pool.models()["gone"]
        assert model.state == "failed"
        assert "there is no run folder" in model.reason
        assert str(tmp_path) not in model.reason


@runs
async def test_a_stream_comes_piece_by_piece_and_stops_when_it_is_closed():
    async with pool_of(Served("writer", stub=Stub(0.01, writes=500, value="w"))) as pool:
        given = {"options": {}, "seconds": 20.0}
        pieces = []
        stream = pool.stream("writer", "x", **given)
        async for piece in stream:
            pieces.append(piece)
            if len(pieces) == 3:
                break
        await stream.aclose()
        assert pieces == ["w0 ", "w1 ", "w2 "]
        await until(lambda: pool.load_now().running_rows == 0)  # long before 500 words were written
        assert pool.load_now().in_flight_requests == 0
        with pytest.raises(TooSlow):
            async for _ in pool.stream("writer", "x", options={}, seconds=0.05):
                pass


@runs
async def test_what_answers_at_once_cannot_stream():
    async with pool_of(Served("stub", stub=QUICK)) as pool:
        with pytest.raises(BadInput):
            async for _ in pool.stream("stub", "x", options={}, seconds=1.0):
                pass


@runs
async def test_two_streams_of_one_model_take_turns_in_one_worker():
    async with pool_of(Served("writer", stub=Stub(0.005, writes=5))) as pool:

        async def all_of_it() -> str:
            return "".join([piece async for piece in pool.stream("writer", "x", options={}, seconds=5.0)])

        assert len(set(await asyncio.gather(*(all_of_it() for _ in range(3))))) == 1


@runs
async def test_stopping_finishes_what_was_accepted_and_takes_nothing_new():
    async with pool_of(Served("stub", stub=Stub(0.1))) as pool:
        first = asyncio.ensure_future(ask(pool, "a"))
        await asyncio.sleep(0.02)
        stopping = asyncio.ensure_future(pool.stop(seconds=5))
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await ask(pool, "b")
        assert (await first).predictions
        await stopping


@runs
async def test_a_model_that_is_unloaded_answers_what_it_was_asked_before():
    async with pool_of(Served("stub", stub=Stub(0.1))) as pool:
        first = asyncio.ensure_future(ask(pool, "a"))
        await asyncio.sleep(0.02)
        await pool.unload("stub")
        with pytest.raises(NoSuchModel):
            await ask(pool, "b")
        assert (await first).predictions


@runs
async def test_a_run_that_cannot_be_loaded_leaves_the_old_one_and_names_no_path(tmp_path):
    async with pool_of(Served("stub", stub=QUICK)) as pool:
        with pytest.raises(BadInput) as caught:
            await pool.load("other", tmp_path / "nothing")
        assert str(tmp_path) not in caught.value.what + caught.value.do
        assert set(pool.models()) == {"stub"}


class FakeRegistry:
    """What the pool asks of a registry, without files."""

    state: ClassVar[dict] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stamp(self, name: str) -> str:
        return str(self.state)

    def traffic(self, name: str):
        from tunesmith.bundle.registry import Traffic, Version

        def version(number):
            return None if number is None else Version(number, self.folder / str(number), "b", "", None, 0.0)

        state = self.state
        return Traffic(
            version(state.get("live")),
            version(state.get("canary")),
            state.get("share", 0.0),
            version(state.get("shadow")),
        )

    def live(self, name: str):
        return self.traffic(name).live

    def clear(self, name: str) -> None:
        for key in ("canary", "share", "shadow"):
            self.state.pop(key, None)


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """A registry whose versions are stubs: version N answers "N"; version 13 fails often, version 14 is slow."""
    from tunesmith.bundle import registry as module
    from tunesmith.service import models as followed

    state: dict = {"live": 1}
    monkeypatch.setattr(FakeRegistry, "state", state)
    monkeypatch.setattr(module, "Registry", FakeRegistry)
    deploy = followed.Models._deploy

    async def as_stub(self, slot, run, version):
        seconds = 0.05 if version == 14 else 0.001
        stub = Stub(seconds, value=str(version), fails_on="x" if version == 13 else "")
        own = Served(slot.name, stub=stub)
        kept, slot.served = slot.served, own
        try:
            return await deploy(self, slot, run, version)
        finally:
            slot.served = kept

    monkeypatch.setattr(followed.Models, "_deploy", as_stub)
    return state


async def values(pool: Pool, count: int, *, sticky: bool = True) -> list[str]:
    found = await asyncio.gather(
        *(ask(pool, "x", sticky=f"caller {place}" if sticky else "") for place in range(count)), return_exceptions=True
    )
    return [answer.predictions[0].value if not isinstance(answer, Exception) else "failed" for answer in found]


@runs
async def test_the_registrys_pointer_is_followed_without_a_failed_request(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path)) as pool:
        assert await values(pool, 3) == ["1"] * 3
        seen = []
        registry["live"] = 2
        while not seen or seen[-1] != "2":
            seen += await values(pool, 1)
        assert set(seen) <= {"1", "2"}
        assert pool.models()["stub"].version == 2


@runs
async def test_a_canary_gets_its_share_and_everyone_keeps_the_same_version(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path)) as pool:
        registry |= {"canary": 2, "share": 0.25}
        await until(lambda: pool.slots()["stub"].canary is not None)
        first = await values(pool, 200)
        assert 30 < first.count("2") < 70
        assert await values(pool, 200) == first
        registry["share"] = 0.5
        await until(lambda: pool.slots()["stub"].canary_share == 0.5)
        wider = await values(pool, 200)
        assert all(after == "2" for before, after in zip(first, wider, strict=True) if before == "2")


@runs
async def test_a_canary_that_fails_is_taken_back_in_the_registry_too(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path), canary=CanaryRules(least_requests=20)) as pool:
        registry |= {"canary": 13, "share": 0.5}
        await until(lambda: pool.slots()["stub"].canary is not None)
        await values(pool, 60)
        await until(lambda: pool.slots()["stub"].canary is None)
        await until(lambda: registry == {"live": 1})  # written in a thread
        assert "requests failed" in pool.models()["stub"].reason
        assert await values(pool, 60) == ["1"] * 60


@runs
async def test_a_canary_that_is_slow_is_taken_back(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path), canary=CanaryRules(least_timed=10)) as pool:
        registry |= {"canary": 14, "share": 0.5}
        await until(lambda: pool.slots()["stub"].canary is not None)
        while pool.slots()["stub"].canary is not None:
            for place in range(8):
                await ask(pool, "x", sticky=str(place))
        assert "99th percentile" in pool.models()["stub"].reason
        await until(lambda: registry == {"live": 1})  # written in a thread


@runs
async def test_an_alert_takes_a_canary_back(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path)) as pool:
        pool._models._alarms = lambda name, bundle: ("drift",) if bundle == "stub-2" else ()
        registry |= {"canary": 2, "share": 0.5}
        await until(lambda: any(kind == "canary taken back" for kind, _ in pool.told))
        await until(lambda: registry == {"live": 1})  # written in a thread


@runs
async def test_a_shadow_is_asked_and_counted_and_never_answers(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path)) as pool:
        registry["shadow"] = 2
        await until(lambda: pool.slots()["stub"].shadow is not None)
        shadow = pool.slots()["stub"].shadow
        assert await values(pool, 10) == ["1"] * 10
        await until(lambda: shadow.compared == 10)
        assert shadow.agreed == 0


@runs
async def test_a_canary_that_is_promoted_is_not_loaded_again(registry, tmp_path):
    async with pool_of(Served("stub", registry=tmp_path)) as pool:
        registry |= {"canary": 2, "share": 0.5}
        await until(lambda: pool.slots()["stub"].canary is not None)
        canary = pool.slots()["stub"].canary
        registry.clear()
        registry["live"] = 2
        await until(lambda: pool.models()["stub"].version == 2)
        assert pool.slots()["stub"].live is canary
        assert await values(pool, 5) == ["2"] * 5


def test_a_stub_is_read_from_words():
    assert Stub.read("20ms") == Stub(0.02)
    assert Stub.read("1.5s rows=1 crashes_on=poison") == Stub(1.5, rows=1, crashes_on="poison")
    with pytest.raises(ValueError, match="a stub is described as 'quick'"):
        Stub.read("quick")

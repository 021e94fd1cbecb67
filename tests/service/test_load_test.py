"""The load test's own arithmetic, against a server made here that answers as it is told to."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tunesmith.cli.bench_serve import _processor_times, _remarks
from tunesmith.service.load_test import Target, ask_closed, ask_open, batches_of


@contextlib.asynccontextmanager
async def server(answers, *, seconds: float = 0.0):
    """Answers each request with the next of these statuses, after so many seconds."""
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                body = await reader.readexactly(int(head.lower().split("content-length:")[1].split("\r\n")[0]))
                seen.append((head, body))
                status = answers[min(len(seen), len(answers)) - 1]
                await asyncio.sleep(seconds)
                if status == "gone":
                    break
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    found = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Target(f"http://127.0.0.1:{found.sockets[0].getsockname()[1]}", "a/b", ["x", "y"], key="secret"), seen
    finally:
        found.close()
        await found.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=5) if others else None


def test_clients_that_wait_for_answers_find_the_capacity():
    async def work():
        async with server([200], seconds=0.02) as (target, seen):
            stage = await ask_closed(target, clients=4, seconds=1.0)
            return stage, seen

    stage, seen = asyncio.run(work())
    assert 0 < stage.answered <= 200  # four clients, 20 ms each: at most 200 a second
    assert stage.percentile(0.5) >= 0.02
    assert (stage.refused, stage.failed) == (0, {})
    head = seen[0][0]
    assert head.startswith("POST /v1/models/a%2Fb:predict HTTP/1.1\r\n")
    assert "authorization: Bearer secret" in head
    assert {body for _, body in seen} == {b'{"inputs": ["x"]}', b'{"inputs": ["y"]}'}


def test_refusals_and_failures_are_counted_apart():
    async def work():
        async with server([200] * 200 + [429] * 20 + [500, "gone"] + [200]) as (target, _):
            return await ask_open(target, rate=400, seconds=1.0)

    stage = asyncio.run(work())
    assert stage.refused == 20
    assert sum(stage.failed.values()) >= 2
    assert stage.failed["500"] == 1
    assert stage.sent == stage.answered + stage.refused + sum(stage.failed.values())
    assert stage.percentile(0.99, of_refusals=True) > 0
    assert stage.to_json()["p99_seconds"] == stage.percentile(0.99)


def test_time_runs_from_when_a_request_should_have_been_sent(monkeypatch):
    """One connection that takes 100 ms for each of 50 a second: later ones have waited for the earlier."""
    from tunesmith.service import load_test

    monkeypatch.setattr(load_test, "_MOST_CONNECTIONS", 1)

    async def work():
        async with server([200], seconds=0.1) as (target, _):
            return await ask_open(target, rate=50, seconds=1.0)

    stage = asyncio.run(work())
    assert stage.percentile(0.99) > 0.4
    assert stage.failed["not sent"] > 10


def test_batches_are_read_from_the_metrics():
    buckets = '# HELP x\ntunesmith_batch_rows_bucket{le="1.0"} 2.0\n'
    text = f"{buckets}tunesmith_batch_rows_count 7.0\ntunesmith_batch_rows_sum 31.0\n"
    assert batches_of(text) == (7, 31)
    assert batches_of("") == (0, 0)


def test_what_failed_and_a_busy_host_are_told():
    stage = {"name": "half", "failed": {"not sent": 12, "500": 1}, "stolen_share": 0.44}
    found = _remarks({"stages": [{"name": "capacity", "failed": {}, "stolen_share": 0.01}, stage]})
    assert found[0] == "half: failed: 12 not sent, 1 500"
    assert found[1].startswith("half: the host took 44% of the cores' time")
    assert len(found) == 2


def test_processor_times_pass():
    (_, before), (_, after) = _processor_times(), _processor_times()
    assert 0 < before <= after


@pytest.mark.slow
def test_the_command_finds_capacity_and_asks_half_and_ten_times_of_it(capsys):
    import json

    from tunesmith.cli import main

    assert main(["bench-serve", "--stub", "20ms rows=1", "--batch-rows", "1", "--seconds", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == ["capacity", "half", "10 times"]
    assert 5 < found["capacity_per_second"] <= 50.5
    assert not found["stages"][1]["failed"]
    assert found["stages"][2]["refused"] > found["stages"][2]["answered"]

"""Worker processes without HTTP around them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os

import psutil
import pytest

from tunesmith.service import wire
from tunesmith.service.lines import modules_for
from tunesmith.service.loaded import bad_input
from tunesmith.service.pool import Pool, settled
from tunesmith.service.pool_settings import PoolSettings, Served, Stub


@contextlib.asynccontextmanager
async def pool_of(stub: str, **settings):
    pool = Pool([Served("stub", stub=Stub.read(stub))], PoolSettings(**{"threads": 1, **settings}))
    await pool.start()
    try:
        await _until(lambda: pool.models()["stub"].state == "ready")
        yield pool
    finally:
        await pool.stop(seconds=2)


async def _until(is_so) -> None:
    while not is_so():
        await asyncio.sleep(0.01)


async def ask(pool: Pool, text: str):
    return await pool.answer("stub", [text], options={}, seconds=30)


def nurseries() -> list[psutil.Process]:
    """Give those of this process's children that fork workers; a database that other tests started is none."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "tunesmith.service.nursery" in child.cmdline():
                found.append(child)
    return found


def workers() -> list[psutil.Process]:
    return [worker for nursery in nurseries() for worker in nursery.children()]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_workers_come_back_grow_old_and_end():
    async def work() -> None:
        async with pool_of("1ms", recycle_requests=5) as pool:
            (first,) = workers()
            for _ in range(8):
                await ask(pool, "a")
            await _until(lambda: has_ended(first))
            assert pool.load_now().restarts == 0  # one that has grown old is no fault
            await ask(pool, "a")
            (nursery,) = nurseries()
            nursery.kill()
            assert (await ask(pool, "a")).predictions
            await _until(lambda: pool.load_now().workers_ready == 1)
            assert pool.load_now().restarts >= 1
        assert workers() == []
        assert nurseries() == []

    asyncio.run(asyncio.wait_for(work(), 120))


def test_a_message_is_read_as_it_was_packed():
    message = {"op": "answer", "inputs": ["ä\ud800\n", {"a": [1.5, None]}]}
    content = wire.pack(message)
    assert int.from_bytes(content[:4], "big") == len(content) - 4
    assert wire.unpack(content[4:]) == message
    with pytest.raises(ValueError, match="Out of range"):
        wire.pack({"a": float("nan")})
    with pytest.raises(ValueError, match="JSON object"):
        wire.unpack(b"[]")


def test_torch_is_imported_before_only_where_a_run_needs_it(tmp_path):
    def run(name: str, **files) -> None:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / f"{file}.json").write_text(json.dumps(content))

    run("torch", manifest={}, bundle={"task": "text-classification"}, config={"model_type": "bert"})
    run("delta", manifest={}, bundle={"delta": {"merged": False}}, config={"model_type": "gpt2"})
    run("onnx", manifest={"export": "exports/onnx-1"}, bundle={"task": "text-classification"}, config={})
    run("evil", manifest={}, bundle={"task": "os"}, config={"model_type": "x; import os"})
    assert "torch" in modules_for([tmp_path / "torch"])
    assert "transformers.models.bert.modeling_bert" in modules_for([tmp_path / "torch"])
    assert "peft" not in modules_for([tmp_path / "torch"])
    assert "peft" in modules_for([tmp_path / "delta"])
    assert "torch" not in modules_for([tmp_path / "onnx"])
    assert "tunesmith.tasks.text_classification" in modules_for([tmp_path / "onnx"])
    assert not [name for name in modules_for([tmp_path / "evil"]) if "x;" in name or name == "os"]
    assert "torch" in modules_for([tmp_path / "gone"])


def test_what_is_wrong_with_an_input_is_said_without_repeating_it():
    from tunesmith.errors import DataProblem

    told = bad_input(DataProblem("the score is 'secret number'", do="write a number"), {"score": "secret number"})
    assert told == {"what": "this input cannot be read as what the task asks for", "do": "write a number"}
    told = bad_input(DataProblem("the text is empty", do="fill it in"), {"text": ""})
    assert told["what"] == "the text is empty"
    assert "secret" not in str(bad_input(TypeError("predict takes text; this is 'secret'"), ["secret"]))


def test_one_core_is_left_to_the_service_and_the_others_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert settled(PoolSettings(workers=1)).threads == 7
    assert settled(PoolSettings(workers=3)).threads == 2
    assert settled(PoolSettings(workers=1000)).threads == 1
    assert settled(PoolSettings(workers=1, threads=3)).threads == 3

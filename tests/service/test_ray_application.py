"""The Ray Serve application: its replica without Ray, and the whole where Ray is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import time
import urllib.error
import urllib.request

import pytest
from answerings import ask_raw

from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.service.ray_application import autoscaling, build, make_replica_app, served_by
from tunesmith.service.settings import make_settings

HAS_RAY = importlib.util.find_spec("ray") is not None


def test_a_replica_answers_with_models_in_its_own_process(tmp_path):
    app = make_replica_app(
        served_by({"stub": "1ms", "name": "toy"}),
        make_settings({"registry": str(tmp_path), "keep": False, "log": str(tmp_path / "log.jsonl")}),
        threads=1,
    )

    async def work() -> None:
        said: asyncio.Queue = asyncio.Queue()
        told: asyncio.Queue = asyncio.Queue()
        await said.put({"type": "lifespan.startup"})
        life = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, said.get, told.put))
        assert (await told.get())["type"] == "lifespan.startup.complete"
        headers = [(b"content-type", b"application/json")]
        status = 0
        while status != 200:
            found = await ask_raw(app, "POST", "/v1/models/toy:predict", headers=headers, body=b'{"inputs": ["a"]}')
            status = found.status
        assert json.loads(found.body)["predictions"][0]["value"] == "stub"
        await said.put({"type": "lifespan.shutdown"})
        await told.get()
        await life

    asyncio.run(asyncio.wait_for(work(), 60))


def test_arguments_say_what_is_served_and_how_far_it_grows(tmp_path):
    assert served_by({"run": str(tmp_path / "reviews")}).name == "reviews"
    for arguments in ({}, {"run": "a", "stub": "1ms"}):
        with pytest.raises(PlanProblem, match="a Ray application serves one run"):
            served_by(arguments)
    found = autoscaling({"replicas": "2", "most_replicas": "6", "in_flight": "4"})
    assert found == {"min_replicas": 2, "max_replicas": 6, "target_ongoing_requests": 4.0}


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_the_command_that_installs_it_is_named():
    with pytest.raises(MissingExtra) as caught:
        build({"stub": "1ms"})
    assert caught.value.do == "pip install 'tunesmith[ray,serve]'"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Ray's own
@pytest.mark.skipif(not HAS_RAY, reason="needs the extra ray")
def test_ray_serve_answers_on_its_own_port(tmp_path):
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        given = {"stub": "5ms", "host": "127.0.0.1", "keep": False, "registry": str(tmp_path)}
        serve.run(build(given), route_prefix="/", name="toy")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/stub:predict",
            b'{"inputs": ["a"]}',
            {"content-type": "application/json"},
        )
        assert _answer(request) == "stub"
    finally:
        serve.shutdown()


def _answer(request: urllib.request.Request) -> str:
    """Give the answer, once the replica's model is loaded."""
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())["predictions"][0]["value"]
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > until:
                raise
            time.sleep(0.2)

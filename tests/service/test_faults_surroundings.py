"""Faults of what surrounds the service, against the real process: S11, S15 to S20 of the fault list."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from served import Askers, served

from tunesmith.service.load_test import Target, ask_open


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


@pytest.mark.slow
def test_s15_five_hundred_idle_and_slow_connections_stop_nobody(tmp_path):
    with served(tmp_path, "--stub", "5ms", "--max-connections", "600") as service, contextlib.ExitStack() as stack:
        for place in range(500):
            line = stack.enter_context(socket.create_connection(address(service.url), timeout=30))
            if place % 2:
                line.sendall(b"POST /v1/models/stub:predict HTTP/1.1\r\nhost: lo")
        for _ in range(10):
            start = time.monotonic()
            assert service.ask("a")[0] == 200
            assert time.monotonic() - start < 5
        assert service.process.poll() is None


def test_s16_a_port_that_is_taken_is_told_in_three_parts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "tunesmith", "serve", "--stub", "5ms", "--port", str(port)]
        done = subprocess.run(
            [*command, "--registry", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 4
    assert done.stderr == (
        f"MachineProblem: port {port} is taken by another program\n  where: 127.0.0.1:{port}\n"
        "  do:    choose another: --port 0 takes a free one\n"
    )


@pytest.mark.slow
def test_s17_two_hundred_and_fifty_six_descriptors_are_enough_to_stay_alive(tmp_path, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    start = subprocess.Popen

    def limited(*words, **options):
        limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))  # noqa: E731
        return start(*words, **options, preexec_fn=limit)

    monkeypatch.setattr(subprocess, "Popen", limited)
    with served(tmp_path, "--stub", "5ms") as service, contextlib.ExitStack() as stack:
        for _ in range(400):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_connection(address(service.url), timeout=5))
        stack.close()
        service.wait(lambda: _is_answered(service), 30)
        (worker,) = service.workers
        worker.kill()  # a replacement needs descriptors too
        service.wait(lambda: service.workers and service.workers != [worker] and _is_answered(service), 30)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def _is_answered(service) -> bool:
    with contextlib.suppress(OSError):
        return service.ask("a", timeout=5)[0] == 200
    return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_s18_a_full_log_disk_stops_nobody(tmp_path):
    with served(tmp_path, "--stub", "5ms", "--log", "/dev/full") as service:
        assert [service.ask("a")[0] for _ in range(20)] == [200] * 20
        (worker,) = service.workers
        worker.kill()
        until = time.monotonic() + 30
        while not _is_answered(service):
            assert time.monotonic() < until
        assert service.end() == 0


@pytest.mark.slow
def test_s19_a_collector_that_hangs_changes_no_latency(tmp_path):
    with served(tmp_path, "--stub", "5ms") as service:
        service.ask("warm")
        alone = _times(service)
        with contextlib.ExitStack() as stack:
            for _ in range(20):  # asks for the metrics again and again, and never reads
                line = stack.enter_context(socket.create_connection(address(service.url), timeout=30))
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                line.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n" * 5)
            time.sleep(0.5)
            beside = _times(service)
        assert sorted(beside)[len(beside) // 2] < 3 * sorted(alone)[len(alone) // 2] + 0.05


def _times(service) -> list[float]:
    found = []
    for _ in range(40):
        start = time.monotonic()
        assert service.ask("a")[0] == 200
        found.append(time.monotonic() - start)
    return found


@pytest.mark.slow
def test_s20_two_services_share_one_folder(tmp_path):
    registry = ("--registry", str(tmp_path / "registry"))
    with (
        served(tmp_path / "a", "--stub", "5ms", *registry, keep=True) as first,
        served(tmp_path / "b", "--stub", "5ms", *registry, keep=True) as second,
    ):
        with Askers(first, 2) as left, Askers(second, 2) as right:
            time.sleep(2)
        assert set(left.statuses) == set(right.statuses) == {200}
        assert first.is_ready
        assert second.is_ready


@pytest.mark.slow
def test_s11_ten_times_too_much_is_refused_quickly_and_the_rest_is_answered_in_time(tmp_path):
    """The stub takes 100 ms for each input and one at a time: 10 a second are its capacity."""
    words = ("--stub", "100ms rows=1", "--batch-rows", "1", "--max-wait-ms", "0")
    with served(tmp_path, *words) as service:
        target = Target(service.url, "stub", ["a"])

        async def ask(rate: float, seconds: float):
            return await ask_open(target, rate=rate, seconds=seconds)

        asyncio.run(ask(5, 3))
        normal = asyncio.run(ask(5, 20))
        memory = psutil.Process(service.process.pid).memory_info().rss
        waiting: list[float] = []
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.5):
                with contextlib.suppress(OSError):
                    waiting.append(service.metric("tunesmith_waiting_rows"))

        thread = threading.Thread(target=watch)
        thread.start()
        loaded = asyncio.run(ask(100, 20))
        is_over.set()
        thread.join()
        assert not normal.failed
        assert not loaded.failed
        assert loaded.refused > 3 * loaded.answered
        assert max(waiting[2:]) <= 32  # after the burst at the beginning
        assert psutil.Process(service.process.pid).memory_info().rss - memory < 30 * 2**20
        numbers = {
            "normal p99": normal.percentile(0.99),
            "loaded p99": loaded.percentile(0.99),
            "refusals p99": loaded.percentile(0.99, of_refusals=True),
        }
        logging.getLogger(__name__).info("%s %s %s", numbers, normal, loaded)
        assert numbers["loaded p99"] <= 2 * numbers["normal p99"] + 0.05, numbers
        assert numbers["refusals p99"] <= 0.05, numbers

"""Faults of the processes that run models, against the real service: S1, S2, S4, S12, S13, S14 of the fault list."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

import psutil
import pytest
from served import Askers, served

RETRYABLE = {"worker_lost", "not_ready", "busy", "timeout"}


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """One service with a stub that can be told to crash, to hang and to fail; tests leave it whole."""
    words = ("--stub", "20ms crashes_on=poison hangs_on=sleep fails_on=wrong", "--hang-seconds", "2")
    with served(tmp_path_factory.mktemp("stub"), *words) as service:
        yield service


def test_s01_a_killed_worker_is_back_in_five_seconds_and_what_fails_can_be_asked_again(stub):
    restarts = stub.metric("tunesmith_worker_restarts_total")
    with Askers(stub, 4) as askers:
        time.sleep(0.3)
        (worker,) = stub.workers
        worker.kill()
        stub.wait(lambda: stub.workers and stub.workers != [worker], 5)
        answered = askers.statuses[200]
        seconds = stub.wait(lambda: askers.statuses[200] > answered + 4, 5)
    assert seconds < 5
    assert set(askers.codes) <= RETRYABLE
    assert sum(askers.codes.values()) <= 16  # a batch at most: what waits is not lost
    assert stub.metric("tunesmith_worker_restarts_total") > restarts


def test_s13_a_poison_input_takes_nobody_along(stub):
    found: dict[str, tuple[int, dict]] = {}

    def ask(text: str) -> None:
        found[text] = stub.ask(text)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("a", "b", "poison", "c", "wrong", "d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {text: status for text, (status, _) in found.items() if status != 200} == {"poison": 503, "wrong": 500}
    assert found["poison"][1]["error"]["code"] == "worker_lost"
    assert found["wrong"][1]["error"]["code"] == "model_fault"
    assert stub.ask("next")[0] == 200


def test_s14_a_hung_pass_is_ended_and_the_others_of_its_batch_answer(stub):
    found: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda text=text: found.update({text: stub.ask(text)[0]}))
        for text in ("a", "sleep", "b")
    ]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {"a": 200, "b": 200, "sleep": 503}
    assert time.monotonic() - start < 20
    assert stub.told("worker hangs")
    assert stub.ask("next")[0] == 200


@pytest.mark.slow
def test_s12_a_client_that_vanishes_takes_its_work_along(tmp_path):
    with served(tmp_path, "--stub", "500ms rows=1", "--batch-rows", "1") as service:
        host, port = service.url.removeprefix("http://").split(":")
        body = b'{"inputs": ["a","b","c","d","e","f","g","h","i","j"]}'
        with socket.create_connection((host, int(port))) as line:
            line.sendall(
                b"POST /v1/models/stub:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )
            service.wait(lambda: service.metric("tunesmith_waiting_rows") >= 5, 10)
        seconds = service.wait(lambda: service.metric("tunesmith_waiting_rows") == 0, 10)
        assert seconds < 3  # ten rows would take five
        assert service.ask("next")[0] == 200


@pytest.mark.slow
def test_s02_a_killed_service_leaves_no_process_behind_and_starts_again(tmp_path):
    with served(tmp_path, "--stub", "20ms", "--workers", "2") as service:
        service.wait(lambda: len(service.workers) == 2)
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert len(family) >= 3
        os.kill(service.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []
    with served(tmp_path, "--stub", "20ms") as service:
        assert service.ask("a")[0] == 200


@pytest.mark.slow
def test_s02_feedback_that_was_acknowledged_is_there_after_kills(tmp_path):
    """The service itself is killed five times while feedback comes in; the store's own test kills a hundred times."""
    from tunesmith.data.feedback.store import open_store

    registry = tmp_path / "registry"
    acknowledged: list[str] = []
    for kill in range(5):
        with served(tmp_path / str(kill), "--stub", "5ms", "--registry", str(registry), keep=True) as service:
            is_over = threading.Event()

            def give(service=service, is_over=is_over) -> None:
                while not is_over.is_set():
                    try:
                        prediction = service.ask("a")[1]["predictions"][0]["id"]
                        status, found = service.post("/v1/feedback", {"prediction": prediction, "is_correct": True})
                    except OSError:  # it was killed: this one was not acknowledged
                        return
                    assert status in {200, 201}, found
                    acknowledged.append(prediction)

            thread = threading.Thread(target=give)
            thread.start()
            service.wait(lambda kill=kill: len(acknowledged) > 5 * (kill + 1), 60)
            os.kill(service.process.pid, signal.SIGKILL)
            is_over.set()
            thread.join(60)
    store = open_store(f"sqlite:///{registry / 'feedback.sqlite'}")
    try:
        kept = {row.prediction for row in store.rows("stub", only_labelled=False)}
    finally:
        store.close()
    assert len(acknowledged) > 25
    assert set(acknowledged) <= kept


@pytest.mark.slow
def test_s04_sigterm_finishes_what_was_accepted_and_says_not_ready_first(tmp_path):
    with served(tmp_path, "--stub", "200ms", "--settle-seconds", "1") as service:
        with Askers(service, 4, pause=0.05) as askers:
            time.sleep(0.5)
            service.process.terminate()
            service.wait(lambda: service.get("/readyz")[0] == 503, 1)
            assert service.process.poll() is None
            before = askers.statuses[200]
            assert service.process.wait(30) == 0
            after = askers.statuses[200]
        refused = {"URLError", "ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected"}
        assert after > before  # what came while it was not ready was still answered
        assert set(askers.statuses) <= {200, 503, *refused}
        assert askers.statuses[503] + askers.statuses["RemoteDisconnected"] == 0
        assert service.told("worker lost") == []

"""While the queue is full: a plain request to a model is turned away at the door, and all else goes its usual way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from listening import BODY, PREDICT, WHOLE, Running

CLOSING = WHOLE.replace(b"Host", b"Connection: close\r\nHost")


@pytest.fixture
def service(tmp_path) -> Iterator[Running]:
    running = Running(tmp_path, header_seconds=0.5)
    running.answering.busy_seconds = 1.5
    yield running
    running.stop()


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def test_a_refusal_at_the_door_reads_like_any_other(service):
    status, headers, body = split(service.ask(CLOSING))
    _, usual, _ = split(service.ask(CLOSING.replace(b"Host", b"Origin: http://localhost\r\nHost")))
    error = json.loads(body)["error"]
    assert status == 429
    assert error["code"] == "busy"
    assert error["request_id"] == headers["x-request-id"]
    assert headers["retry-after"] == "2"
    assert headers["connection"] == "close"
    assert set(usual) - set(headers) <= {"vary", "access-control-allow-origin", "access-control-expose-headers", "date"}
    assert service.answering.asked == []


def test_the_connection_stays_and_answers_again_when_there_is_room(service):
    with service.connect() as line:
        for _ in range(3):
            line.sendall(WHOLE)
            assert split(line.recv(65_536))[0] == 429
        for byte in WHOLE:  # whatever way it is cut
            line.sendall(bytes([byte]))
        assert split(line.recv(65_536))[0] == 429
        service.answering.busy_seconds = 0.0
        line.sendall(WHOLE)
        assert split(line.recv(65_536))[0] == 200


def test_a_whole_pipeline_is_answered_in_order(service):
    with service.connect() as line:
        line.sendall(WHOLE + WHOLE + CLOSING)
        read = b""
        while part := line.recv(65_536):
            read += part
    assert read.count(b"HTTP/1.1 429 ") == 3


def test_only_models_are_behind_the_door(service):
    answer = service.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert split(answer)[0] == 200
    assert split(service.ask(CLOSING.replace(b":predict", b":other")))[0] == 404


def test_a_body_that_is_too_long_or_never_comes_is_told_as_ever(service):
    status, _, body = split(service.ask(PREDICT + b"Content-Length: 64000000\r\n\r\n"))
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    status, _, _ = split(service.ask(PREDICT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:-1]))
    assert status == 408


def test_those_turned_away_are_counted_and_share_a_line_of_the_log(service):
    for _ in range(20):
        service.ask(CLOSING)
    metrics = service.ask(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()
    assert 'tunesmith_requests_total{method="POST",route="turned away",status="429"} 20.0' in metrics
    assert 'tunesmith_refusals_total{code="busy"} 20.0' in metrics
    with open(service.settings.log, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert 1 <= sum(line["event"] == "turned away" for line in lines) <= 5


def test_headers_without_end_are_refused(service):
    status, _, body = split(service.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60_000))
    assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")


def test_the_door_counts_those_who_are_let_in_until_they_are_answered_or_leave(service):
    service.answering.busy_seconds, service.answering.waits = 0.0, 0.3
    asked = service.answering.let_in
    with service.connect() as first, service.connect() as second:
        first.sendall(WHOLE)
        second.sendall(WHOLE)
        assert split(first.recv(65_536))[0] == split(second.recv(65_536))[0] == 200
        first.sendall(WHOLE)
        assert split(first.recv(65_536))[0] == 200
        second.sendall(WHOLE)  # and leaves before the answer
    service.answering.waits = 0.0
    time.sleep(0.2)
    assert split(service.ask(CLOSING))[0] == 200
    at_the_door = [count for place, count in enumerate(asked) if place % 2 == 0]  # the app asks once more each time
    assert at_the_door[1] == 1
    assert at_the_door[-1] == 0

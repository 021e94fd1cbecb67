"""What only a real connection shows: slow and broken clients, framing, the end of the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from answerings import run, settings_in
from listening import PREDICT, WHOLE, Running, read_all

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.service.listen import open_sockets


def code_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Running]:
    limits = {"header_seconds": 1.2, "body_seconds": 1.2, "max_body_bytes": 5000, "max_connections": 400}
    running = Running(tmp_path_factory.mktemp("service"), **limits)
    yield running
    running.stop()


@pytest.mark.parametrize("has_length", [True, False])
def test_attack_51_a_body_over_the_limit_ends_the_connection_before_it_is_read(service, has_length):
    size = 64_000_000
    head = b"Content-Length: %d\r\n\r\n" % size if has_length else b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"x" * 60_000
    piece = chunk if has_length else b"%x\r\n%s\r\n" % (len(chunk), chunk)
    with service.connect() as line:
        line.sendall(PREDICT + head)
        sent = 0
        with contextlib.suppress(ConnectionError, TimeoutError):
            while sent < size:
                line.sendall(piece)
                sent += len(chunk)
        assert sent < size / 2, "most of it was never taken"
    assert service.is_well()


def test_attack_51_a_length_over_the_limit_is_told_at_once(service):
    assert code_of(service.ask(PREDICT + b"Content-Length: 64000000\r\n\r\n")) == (413, "body_too_large")


def test_attack_54_slow_headers_and_slow_bodies_are_closed_while_others_are_answered(service):
    """300 connections that send a byte now and then: each is told 408 and closed; nobody else notices."""

    async def slow(start: bytes, rest: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(start)

        async def drip() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in rest:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.2)

        dripping = asyncio.ensure_future(drip())
        answer = b""
        try:
            while part := await asyncio.wait_for(reader.read(65_536), 20):
                answer += part
        except ConnectionError:  # the service closes while bytes are still on their way to it
            pass
        finally:
            dripping.cancel()
            writer.close()
        return answer

    async def attack() -> list[bytes]:
        bodies = [slow(PREDICT + b"Content-Length: 400\r\n\r\n", b'{"inputs": ["' + b"x" * 300) for _ in range(100)]
        headers = [slow(b"POST / HTTP/1.1\r\nHost: loc", b"alhost\r\n" * 50) for _ in range(100)]
        silent = [slow(b"", b"") for _ in range(100)]
        waiting = asyncio.gather(*bodies, *headers, *silent)
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(service.is_well), "a patient client is answered meanwhile"
        return await waiting

    answers = run(attack())
    whole = [answer if answer.endswith(b"}}") else b"" for answer in answers]  # a reset may swallow an answer
    assert {code_of(answer) for answer in whole[:100] if answer} == {(408, "body_too_slow")}
    assert {code_of(answer) for answer in whole[100:] if answer} == {(408, "headers_too_slow")}
    assert sum(map(bool, whole)) >= 200
    until = time.monotonic() + 10
    while service.server.server_state.connections and time.monotonic() < until:
        time.sleep(0.05)
    assert not service.server.server_state.connections
    assert service.is_well()


@pytest.mark.parametrize(
    "headers",
    [b"X-Long: " + b"a" * 65_536 + b"\r\n", b"".join(b"X-%d: a\r\n" % n for n in range(1000)), b"X: a\r\n" * 5000],
    ids=["64 kB", "1,000", "5,000"],
)
def test_attack_55_headers_over_the_limit_are_refused_on_the_wire(service, headers):
    status, code = code_of(service.ask(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n"))
    assert (status, code) in {(431, "headers_too_large"), (400, "bad_http")}
    assert service.is_well()


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
PAIRS = {
    "CL.TE": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE.CL": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
    "TE.TE": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "odd TE": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "space before colon": b"Content-Length : 44\r\n\r\n" + SMUGGLED,
    "bad chunk": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    "line feed in a header": b"X: a\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("name", PAIRS)
def test_attack_56_a_second_request_in_the_first_is_never_answered(service, name):
    answer = service.ask(PREDICT + PAIRS[name])
    assert answer.count(b"HTTP/1.1 ") == 1
    assert code_of(answer)[0] in (400, 415)
    assert b"tunesmith_requests" not in answer
    assert service.is_well()


END = b"\r\nConnection: close\r\n\r\n"
NO_REQUESTS = [
    *(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 100),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\nHost: localhost" + END),
    *(
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example" + END,
        b"GET /x\x01y HTTP/1.1\r\nHost: localhost" + END,
    ),
]


@pytest.mark.parametrize("raw", NO_REQUESTS)
def test_what_is_no_request_is_refused_in_our_own_form(service, raw):
    assert 400 <= code_of(service.ask(raw))[0] < 500
    assert service.is_well()


def test_a_client_that_leaves_is_not_answered_for_nothing(tmp_path):
    running = Running(tmp_path)
    try:
        running.answering.waits = 30.0
        line = running.connect()
        line.sendall(WHOLE)
        until = time.monotonic() + 10
        while not running.answering.asked and time.monotonic() < until:
            time.sleep(0.01)
        line.close()
        while not running.answering.cancelled and time.monotonic() < until:
            time.sleep(0.01)
        assert running.answering.cancelled == 1
        running.answering.waits = 0.0
        assert running.is_well()
        assert '"status": 499' in (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    finally:
        running.stop()


def test_more_connections_than_allowed_are_turned_away(tmp_path):
    running = Running(tmp_path, max_connections=20)
    try:
        lines = [running.connect() for _ in range(20)]
        time.sleep(0.3)
        assert code_of(running.ask(b"")) == (503, "too_many_connections")
        for line in lines:
            line.close()
        until = time.monotonic() + 10
        while running.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.02)
        assert running.is_well()
    finally:
        running.stop()


def test_the_end_finishes_what_was_accepted_and_is_not_ready_before(tmp_path):
    running = Running(tmp_path, settle_seconds=0.5)
    running.answering.waits = 1.0
    with running.connect() as line:
        line.sendall(WHOLE)
        time.sleep(0.2)
        running.server.handle_exit(signal.SIGTERM, None)
        ready = running.ask(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert ready.startswith(b"HTTP/1.1 503 ")
        assert b'"draining"' in ready
        answer = read_all(line)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
    running.thread.join(20)
    assert running.answering.is_stopped
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset
        running.connect()


def test_a_port_that_is_taken_is_told_in_three_parts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineProblem) as caught:
            open_sockets(settings_in(tmp_path, port=port))
    assert str(caught.value) == (
        f"MachineProblem: port {port} is taken by another program\n"
        f"  where: 127.0.0.1:{port}\n"
        "  do:    choose another: --port 0 takes a free one"
    )


def test_an_address_that_is_none_is_told(tmp_path):
    with pytest.raises(PlanProblem, match="there is no address"):
        open_sockets(settings_in(tmp_path, host="no.such.host.invalid"))

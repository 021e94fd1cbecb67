"""One connection: uvicorn's protocol on httptools, with the limits that it leaves open, and a quick way to say no.

Closed here: headers that never end or are endless, more connections than the process has descriptors, refusals that are
no JSON. And while the queue is full, a request that asks a model is turned away as soon as its headers are read: no
task, no route, no log line of its own. A service that works through ten times what it can answer has no time to answer.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tunesmith.service.guard import SECURITY_HEADERS
from tunesmith.service.parts import Parts
from tunesmith.service.problems import OPENAI_PATHS, problem_of
from tunesmith.service.refusals import Busy

_FIRST_LINE_BYTES = 4096  # beside what headers may have
_MOST_UNREAD_BYTES = 65_536  # of a body that is thrown away; longer ones are left to the guard
_LOG_SECONDS = 1.0  # those turned away share a line

_ASKING = tuple(path.encode() for path in sorted(OPENAI_PATHS))
_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}
_FIXED = tuple(name + b": " + value for name, value in SECURITY_HEADERS)


class Door:
    """Turns requests away while the queue is full, and counts them.

    Args:
        parts: Says how busy it is; has the log and the meters.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._let_in = 0  # and not answered yet
        self._untold, self._told_at = 0, 0.0
        self._requests = parts.meters.requests.labels("turned away", "POST", "429")
        self._refusals = parts.meters.refusals.labels(Busy.code)

    def busy_for(self) -> float:
        """Give after how many seconds asking is worth it; 0 where a request may come in."""
        return self._parts.answering.busy_for(self._let_in)

    def let_in(self) -> None:
        """Count a request that goes on to the app; `let_out` when it is answered, or its client has left."""
        self._let_in += 1

    def let_out(self) -> None:
        """Count it no longer."""
        self._let_in -= 1

    def refusal(self, seconds: float, path: str, *, is_last: bool) -> bytes:
        """Give the whole answer that turns a request away, and count it.

        Args:
            seconds: After which asking again is worth it.
            path: That was asked.
            is_last: Whether the connection closes.
        """
        self._requests.inc()
        self._refusals.inc()
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at > _LOG_SECONDS:
            self._parts.log.write("turned away", code=Busy.code, requests=self._untold)
            self._untold, self._told_at = 0, now
        problem = problem_of(Busy.of(seconds))
        assert problem is not None
        request_id = uuid.uuid4().hex
        body = problem.body(request_id=request_id, path=path)
        lines = [
            b"HTTP/1.1 429 Too Many Requests",
            b"content-type: application/json",
            b"content-length: %d" % len(body),
        ]
        lines += [f"{name}: {value}".encode() for name, value in problem.headers.items()]
        lines += [b"x-request-id: " + request_id.encode(), *_FIXED, *([b"connection: close"] if is_last else [])]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def kind_of_connection(parts: Parts, *, most: int) -> type[Connection]:
    """Give the class whose objects serve a connection each.

    Args:
        parts: Of the service.
        most: Connections at a time.
    """
    settings = parts.settings
    limits: Mapping[str, Any] = {
        "header_seconds": settings.header_seconds,
        "most_head_bytes": settings.max_header_bytes + _FIRST_LINE_BYTES,
        "most_connections": most,
        "door": Door(parts),
    }
    return type("LimitedConnection", (Connection,), dict(limits))


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits on connections and on headers, which turns away what cannot be answered."""

    header_seconds = 10.0
    most_head_bytes = 65_536
    most_connections = 512
    door: Door

    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0  # read so far of headers that are not whole
    _is_in_head = False
    _busy_for = 0.0  # above 0: the request that is being read is turned away
    _is_let_in = False  # whether one was counted as let in

    def connection_made(self, transport: Any) -> None:
        """Take a connection, if there is room."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            self._end(503, "too_many_connections", "too many connections are open", "close idle ones, or ask later")
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_waiting()
        self._let_out()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the time for a request's headers runs from their first byte, or from the connection's start."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.most_head_bytes:
                self._end(431, "headers_too_large", "the headers are too long", "send fewer")
                return
        if self._busy_for or self.cycle is None or self.cycle.response_complete:
            if self._timer is None:
                self._wait()
        else:
            self._stop_waiting()

    def on_message_begin(self) -> None:
        """Begin to read a request."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Let the request in, or turn it away."""
        self._is_in_head = False
        self._busy_for = 0.0
        if self._may_be_turned_away():
            self._busy_for = self.door.busy_for()
            if not self._busy_for:
                self.door.let_in()
                self._is_let_in = True
        if not self._busy_for:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, unless nobody will read it."""
        if not self._busy_for:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer a request that is turned away."""
        if not self._busy_for:
            super().on_message_complete()
            return
        seconds, self._busy_for = self._busy_for, 0.0
        self._stop_waiting()
        if self.transport.is_closing():
            return
        stays = self.parser.should_keep_alive()
        self.transport.write(self.door.refusal(seconds, self.url.decode("latin-1"), is_last=not stays))
        if stays:
            self.on_response_complete()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Make ready for the next request."""
        self._let_out()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in our own form."""
        self._end(400, "bad_http", "this is no HTTP request that can be read", "check headers and framing")

    def _may_be_turned_away(self) -> bool:
        """Whether this is a plain request to a model; what is unusual goes the long way and is checked there."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        if self.parser.get_method() != b"POST" or not (self.url.endswith(b":predict") or self.url in _ASKING):
            return False
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                length = int(value)
            elif name in _UNUSUAL:
                return False
        return 0 <= length <= _MOST_UNREAD_BYTES

    def _let_out(self) -> None:
        if self._is_let_in:
            self._is_let_in = False
            self.door.let_out()

    def _wait(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._busy_for or self.cycle is None or self.cycle.response_complete:
            self._end(408, "headers_too_slow", "the headers did not arrive in time", "send them at once")

    def _end(self, status: int, code: str, what: str, do: str) -> None:
        """Say why, and close."""
        self._stop_waiting()
        self.connections.discard(self)
        if self.transport.is_closing():
            return
        parts = {"code": code, "message": what, "do": do, "where": "", "request_id": ""}
        body = json.dumps({"error": parts}).encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\nx-content-type-options: nosniff\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"origin", b"upgrade", b"content-encoding"})

"""What every request passes before any route sees it, and every answer on its way out. Plain ASGI.

In this order: limits on headers, Host and Origin, framing, the key, its rate, the body's size and time, strict JSON.
On the way out: a request id, headers that keep browsers from running or embedding anything, one log line, metrics. A
request whose client leaves is cancelled, so that nobody computes what nobody reads.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tunesmith.service.access import OPEN_PATHS
from tunesmith.service.origins import Origins
from tunesmith.service.parts import Parts
from tunesmith.service.problems import OPENAI_PATHS, HttpProblem, problem_of, unforeseen
from tunesmith.service.refusals import Busy
from tunesmith.service.strict_json import read_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = dict[bytes, list[bytes]]

SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_CLIENT_LEFT = 499  # in logs and metrics alone; nobody is there to read it
_REST_SECONDS = 30.0  # beyond the longest answer, after which a request is given up whatever it does


class _ClientLeft(Exception):
    """There is nobody to answer."""


class Guard:
    """The outermost part of the app.

    Args:
        app: What is guarded.
        parts: Settings, keys, limits, log, meters.
    """

    def __init__(self, app: App, parts: Parts) -> None:
        self.app, self.parts = app, parts
        self._origins = Origins(parts.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection of any kind; web sockets are none of ours."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._exchange(scope, receive, send)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _by_name(scope)
        scope["state"] = state = {**(scope.get("state") or {}), "request_id": _request_id(headers), "told": {}}
        out = _Out(scope, send, self.parts)
        started = time.perf_counter()
        meters = self.parts.meters
        meters.in_flight.inc()
        try:
            async with asyncio.timeout(self.parts.settings.stream_seconds + _REST_SECONDS):
                _demand_version(scope)
                out.extra = self._origins.check(scope, headers)
                if out.extra and scope["method"] == "OPTIONS":
                    await out.preflight()
                    return
                await self._pass_on(scope, headers, receive, out)
        except _ClientLeft:
            out.status = _CLIENT_LEFT
        except Exception as error:
            if (problem := problem_of(error)) is None:
                problem = unforeseen()
                self.parts.log.fault(error, request_id=state["request_id"])
            await out.refuse(problem)
        finally:
            meters.in_flight.dec()
            self._note(scope, out, time.perf_counter() - started)

    async def _pass_on(self, scope: Scope, headers: Headers, receive: Receive, out: _Out) -> None:
        settings = self.parts.settings
        _demand_plain_framing(headers, settings.max_headers, settings.max_header_bytes)
        caller = self.parts.access.caller(scope["path"], scope["query_string"], headers)
        scope["state"]["caller"] = caller
        if caller is not None:
            self.parts.rates.take(caller.id)
        body = await self._body(headers, receive)
        if _asks(scope) and (seconds := self.parts.answering.busy_for()):
            # Before anything is read of it: what cannot be answered must cost little, or nothing else is answered.
            raise Busy.of(seconds)
        if body:
            _demand_json(headers)
            scope["state"]["json"] = read_json(body, most_depth=settings.max_depth)
        await self._run(scope, body, receive, out)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Give the whole body, as long as it is no longer and no slower than allowed."""
        most = self.parts.settings.max_body_bytes
        lengths = headers.get(b"content-length", [])
        if any(not length.isdigit() or len(length) > 18 for length in lengths):
            raise HttpProblem(400, "bad_framing", "Content-Length is no number", do="send it right", closes=True)
        if any(int(length) > most for length in lengths):
            raise _too_large(most)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.parts.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeft
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise HttpProblem(
                408, "body_too_slow", "the body did not arrive in time", do="send it faster, or less", closes=True
            ) from None

    async def _run(self, scope: Scope, body: bytes, receive: Receive, out: _Out) -> None:
        """Let the app answer; cancel it when the client leaves before the answer is whole."""
        has_left = asyncio.Event()
        waiting = [body]

        async def give() -> Message:
            if waiting:
                return {"type": "http.request", "body": waiting.pop(), "more_body": False}
            await has_left.wait()
            return {"type": "http.disconnect"}

        working = asyncio.ensure_future(self.app(scope, give, out.send))

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not out.is_whole:
                has_left.set()
                working.cancel()

        watching = asyncio.ensure_future(watch())
        try:
            await working
        except asyncio.CancelledError:
            if has_left.is_set() and working.cancelled():
                raise _ClientLeft from None
            working.cancel()
            raise
        finally:
            watching.cancel()

    def _note(self, scope: Scope, out: _Out, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.parts.meters.requests.labels(route, method, str(out.status)).inc()
        self.parts.meters.seconds.labels(route).observe(seconds)
        if out.code:
            self.parts.meters.refusals.labels(out.code).inc()
        if scope["path"] in OPEN_PATHS and out.status < 400:
            return  # probes ask every second
        caller = scope["state"].get("caller")
        told = scope["state"]["told"]
        self.parts.log.write(
            "request",
            request_id=scope["state"]["request_id"],
            route=route,
            method=method,
            status=out.status,
            seconds=round(seconds, 4),
            key=caller.id if caller else "",
            **({"code": out.code} if out.code else {}),
            **told,
        )


_VERSIONS = frozenset({"1.0", "1.1", "2", "3"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Out:
    """The way out: adds headers, and knows how far the answer is."""

    def __init__(self, scope: Scope, send: Send, parts: Parts) -> None:
        self._scope, self._send, self._parts = scope, send, parts
        self.extra: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.is_whole = False

    @property
    def code(self) -> str:
        """The code of the refusal, if it was one."""
        return str(self._scope["state"].get("code", ""))

    async def send(self, message: Message) -> None:
        """Pass on one message of the app."""
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            names = {name for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in (*SECURITY_HEADERS, *self.extra) if name not in names]
            added.append((b"x-request-id", self._scope["state"]["request_id"].encode()))
            if self._parts.is_draining and b"connection" not in names:
                added.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_whole = True
        await self._send(message)

    async def refuse(self, problem: HttpProblem) -> None:
        """Send a refusal, if nothing was sent yet."""
        self._scope["state"]["code"] = problem.code
        if self.status:  # the answer had begun: all that can be told is that it ends here
            return
        body = problem.body(request_id=self._scope["state"]["request_id"], path=self._scope["path"])
        given = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        given += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": given})
        await self.send({"type": "http.response.body", "body": body})

    async def preflight(self) -> None:
        """Answer a browser that asks whether its page may ask."""
        await self.send({"type": "http.response.start", "status": 204, "headers": []})
        await self.send({"type": "http.response.body", "body": b""})


def _asks(scope: Scope) -> bool:
    """Whether this asks a model."""
    return scope["method"] == "POST" and (scope["path"].endswith(":predict") or scope["path"] in OPENAI_PATHS)


def _by_name(scope: Scope) -> Headers:
    found: Headers = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def _request_id(headers: Headers) -> str:
    """Give the client's own id where it is a plain word, else a new one."""
    given = headers.get(b"x-request-id", [b""])[0]
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _demand_version(scope: Scope) -> None:
    if scope.get("http_version", "1.1") not in _VERSIONS:
        raise HttpProblem(400, "bad_http", "this version of HTTP is not spoken here", do="use HTTP/1.1", closes=True)


def _demand_plain_framing(headers: Headers, most: int, most_bytes: int) -> None:
    """Refuse too many headers, and two ways of telling where the body ends: proxies and servers disagree on them.

    Source: RFC 9112, section 6.1, on Transfer-Encoding beside Content-Length.
    """
    count = sum(map(len, headers.values()))
    size = sum(len(name) + len(value) for name, values in headers.items() for value in values)
    if count > most or size > most_bytes:
        raise HttpProblem(
            431,
            "headers_too_large",
            f"the headers are too many or too long (at most {most}, {most_bytes:,} bytes)",
            do="send fewer",
            closes=True,
        )
    lengths, encodings = headers.get(b"content-length", []), headers.get(b"transfer-encoding", [])
    if len(lengths) > 1 or len(encodings) > 1 or (lengths and encodings):
        raise HttpProblem(
            400,
            "bad_framing",
            "the request says twice where its body ends",
            do="send Content-Length or Transfer-Encoding, once",
            closes=True,
        )
    if any(value.strip().lower() not in (b"", b"identity") for value in headers.get(b"content-encoding", ())):
        raise HttpProblem(415, "encoded_body", "compressed bodies are not taken", do="send plain JSON", closes=True)


def _demand_json(headers: Headers) -> None:
    kinds = headers.get(b"content-type", [b""])
    kind = kinds[0].partition(b";")[0].strip().lower()
    if len(kinds) > 1 or kind != b"application/json":
        raise HttpProblem(415, "not_json", "the body is not declared as JSON", do="send Content-Type: application/json")


def _too_large(most: int) -> HttpProblem:
    return HttpProblem(
        413, "body_too_large", f"a body may have {most:,} bytes", do="send several requests", where="body", closes=True
    )

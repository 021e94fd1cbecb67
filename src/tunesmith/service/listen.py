"""Run the app on uvicorn: with `connection`, the only file of the service that knows which server it is.

Ends gracefully: first not ready, then no new connections, then the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.service.connection import kind_of_connection
from tunesmith.service.guard import Guard
from tunesmith.service.logs import ServerLog
from tunesmith.service.settings import Settings

_BACKLOG = 1024
_SWITCH_SECONDS = 0.0005  # after which a thread that computes gives way: the event loop asks for its turn at each send
_SPARE_DESCRIPTORS = 100  # for workers, files, the store; the rest may be connections
_LEAST_CONNECTIONS = 16
_LAST_LOOK_SECONDS = 0.05  # in which connections that the system holds already are still taken in


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Open the port, and the admin port if there is one.

    Raises:
        MachineProblem: It is taken, or may not be used.
        PlanProblem: There is no such address here.
    """
    ports = [settings.port, *([settings.admin_port] if settings.admin_port else [])]
    found: list[socket.socket] = []
    try:
        for port in ports:
            found.append(_open(settings.host.strip("[]"), port))  # noqa: PERF401 - those that are open are closed below
    except BaseException:
        for each in found:
            each.close()
        raise
    return found


def _open(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise PlanProblem(f"there is no address '{host}'", where="--host", do="use 127.0.0.1 or 0.0.0.0") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise MachineProblem(
                f"port {port} is taken by another program", where=where, do="choose another: --port 0 takes a free one"
            ) from error
        if error.errno == errno.EACCES:
            raise MachineProblem(
                f"port {port} may not be used by this user", where=where, do="choose one above 1023: --port 8080"
            ) from error
        raise PlanProblem(f"it cannot listen there: {error.strerror}", where=where, do="check --host") from error


def listen(app: Guard, sockets: Sequence[socket.socket], *, on_start: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        app: Guarded.
        sockets: Open.
        on_start: Called when it listens.
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        make_server(app, on_start).run(sockets=list(sockets))
    finally:
        sys.setswitchinterval(usual)


def make_server(app: Guard, on_start: Callable[[], None] = lambda: None) -> Server:
    """Give the server, which `run` lets serve."""
    settings, log = app.parts.settings, app.parts.log
    logger = logging.getLogger("uvicorn.error")
    logger.handlers, logger.propagate = [ServerLog(log)], False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        config = uvicorn.Config(
            app,
            http=kind_of_connection(app.parts, most=_most_connections(settings.max_connections)),
            ws="none",
            loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",  # there is none for Windows
            lifespan="on",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=max(1, round(settings.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            backlog=_BACKLOG,
        )
    return Server(config, app, on_start)


class Server(uvicorn.Server):
    """uvicorn's server, which first says that it is not ready and only later stops listening."""

    def __init__(self, config: uvicorn.Config, app: Guard, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._on_start = app, on_start
        self._ends_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; a second signal ends at once."""
        if self._ends_at is not None:
            self.should_exit = self.force_exit = True
            return
        self._app.parts.is_draining = True
        self._ends_at = time.monotonic() + self._app.parts.settings.settle_seconds

    async def on_tick(self, counter: int) -> bool:
        """Say whether to end now."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, after a last look for connections that were made before."""
        await asyncio.sleep(_LAST_LOOK_SECONDS)
        await super().shutdown(sockets)


def _most_connections(wanted: int) -> int:
    """Give how many connections the process can have, after asking the system for as many descriptors as it grants."""
    try:
        import resource
    except ImportError:  # another system; it has its own limits
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        with contextlib.suppress(ValueError, OSError):
            most = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return max(_LEAST_CONNECTIONS, min(wanted, soft - _SPARE_DESCRIPTORS))

"""A service that listens on a free port of this machine, for tests that need real connections."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading

from answerings import StubAnswering, settings_in

from tunesmith.service.app import make_app
from tunesmith.service.listen import make_server, open_sockets
from tunesmith.service.logs import Log

BODY = json.dumps({"inputs": ["x"]}).encode()
PREDICT = b"POST /v1/models/reviews:predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
WHOLE = PREDICT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Running:
    """A service that listens on a free port, in a thread."""

    def __init__(self, folder, **values) -> None:
        values = {"port": 0, "watch": False, "keep": False, **values}
        self.answering = StubAnswering()
        self.settings = settings_in(folder, **values)
        self.app = make_app(self.answering, self.settings, log=Log(self.settings.log))
        self.sockets = open_sockets(self.settings)
        self.port = self.sockets[0].getsockname()[1]
        is_on = threading.Event()
        self.server = make_server(self.app, is_on.set)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": self.sockets}, daemon=True)
        self.thread.start()
        assert is_on.wait(20)

    def stop(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)
        self.thread.join(20)
        assert not self.thread.is_alive()

    def connect(self) -> socket.socket:
        line = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return line

    def ask(self, raw: bytes) -> bytes:
        """Send bytes; give all that comes back until the other side closes."""
        with self.connect() as line:
            with contextlib.suppress(ConnectionError):
                line.sendall(raw)
            return read_all(line)

    def is_well(self) -> bool:
        answer = self.ask(WHOLE.replace(b"Host", b"Connection: close\r\nHost"))
        return answer.startswith(b"HTTP/1.1 200 ")


def read_all(line: socket.socket) -> bytes:
    parts = b""
    with contextlib.suppress(ConnectionError):
        while part := line.recv(65536):
            parts += part
    return parts

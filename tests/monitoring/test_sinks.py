from __future__ import annotations

import contextlib
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.monitoring.alerts import Alert
from tunesmith.monitoring.sinks import LogSink, MailSink, Outbox, WebhookSink, open_sinks, words_of

ALERT = Alert("late", "reviews", "warning", "Answers are late.", "answer_seconds_p99", 3.25, 2.0, 1000.0)


@contextlib.contextmanager
def receiver(status: int = 204, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that keeps what was posted."""
    got: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append({"path": self.path, "token": self.headers.get("X-Token"), **body})
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_webhook_gets_the_alert_as_json():
    with receiver() as (url, got):
        WebhookSink(url, headers={"X-Token": "abc"}).send(ALERT)
    assert got[0]["state"] == "raised"
    assert got[0]["alert"]["rule"] == "late"
    assert got[0]["text"] == "reviews: Answers are late. (answer_seconds_p99 = 3.25, level 2)"
    assert (got[0]["path"], got[0]["token"]) == ("/hook", "abc")


def test_a_webhook_follows_no_redirect():
    with receiver() as (other, reached), receiver(302, {"Location": other}) as (url, got):
        with pytest.raises(OSError, match="status 302"):
            WebhookSink(url).send(ALERT)
        assert len(got) == 1
        assert reached == []


def test_a_refusal_is_tried_again_and_then_counted(caplog):
    with receiver(500) as (url, got):
        outbox = Outbox("ops", WebhookSink(url), pause_seconds=0.01)
        with caplog.at_level(logging.CRITICAL, "tunesmith.alerts"):
            outbox.put(ALERT)
            outbox.close(10)
    assert len(got) == 3
    assert (outbox.sent, outbox.failed) == (0, 1)


def test_a_receiver_that_hangs_delays_nobody(caplog):
    """S19: handing alerts over stays quick, the log has them at once, the oldest that wait are dropped and counted."""
    listener = socket.create_server(("127.0.0.1", 0))  # accepts, and never answers
    hanging = Outbox("ops", WebhookSink(f"http://127.0.0.1:{listener.getsockname()[1]}/", seconds=30))
    log = Outbox("log", LogSink())
    took = []
    with caplog.at_level(logging.WARNING, "tunesmith.alerts"):
        for _ in range(300):
            start = time.thread_time()
            hanging.put(ALERT)
            took.append(time.thread_time() - start)
        log.put(ALERT)
        log.close(10)
        assert "alert late raised, model reviews: Answers are late. (answer_seconds_p99 = 3.25)" in caplog.text
        assert sorted(took)[150] < 0.001
        assert hanging.dropped >= 199  # one is being sent, a hundred wait
        assert hanging.sent == 0
        hanging.close(0.01)
    listener.close()


class Mailbox(threading.Thread):
    """A server that knows as much of SMTP as one message needs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.message = ""

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rw", newline="\r\n", encoding="utf-8") as line:
            self._say(line, "220 here")
            while (command := line.readline().strip()) and command.upper() != "QUIT":
                if command.upper() == "DATA":
                    self._say(line, "354 go on")
                    while (text := line.readline().strip("\r\n")) != ".":
                        self.message += text + "\n"
                self._say(line, "250 yes")
            self._say(line, "221 bye")

    @staticmethod
    def _say(line: Any, text: str) -> None:
        line.write(text + "\n")
        line.flush()


def test_an_alert_goes_out_as_mail():
    box = Mailbox()
    box.start()
    MailSink("127.0.0.1", "tunesmith@example.org", ("a@example.org", "b@example.org"), box.port, tls="none").send(ALERT)
    box.join(10)
    box.listener.close()
    assert "Subject: [warning] late raised: reviews" in box.message
    assert "To: a@example.org, b@example.org" in box.message
    assert '"metric": "answer_seconds_p99"' in box.message


def test_what_is_over_is_said():
    import dataclasses

    assert words_of(dataclasses.replace(ALERT, cleared_at=1600.0)) == "reviews: late is over, after 10 minutes"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"kind": "pager"}, "unknown kind of sink 'pager'"),
        ({"kind": "webhook", "url": "file:///etc/passwd"}, "this is no web address: 'file:///etc/passwd'"),
        ({"kind": "webhook", "url": "http://good.example\\@bad.example/"}, "this is no web address"),
        ({"kind": "webhook", "url": "http://[::1"}, "this is no web address"),
        ({"kind": "webhook", "url": "http://h/", "timeout_seconds": 0}, "this is no time to wait: '0'"),
        ({"kind": "webhook", "url": "http://h/", "timeout": 3}, "unknown option 'timeout'"),
        ({"kind": "webhook", "url": "http://h/", "headers": "x"}, "'headers' is not a mapping"),
        ({"kind": "email", "host": "h", "from": "a@b"}, "an e-mail sink needs 'to'"),
        ({"kind": "email", "host": "h", "from": "a@b", "to": "c@d", "tls": "yes"}, "unknown way of encryption 'yes'"),
        ({"kind": "email", "host": "h", "from": "a@b", "to": "c@d", "port": 0}, "this is no port: '0'"),
        (
            {"kind": "email", "host": "h", "from": "a@b", "to": "c@d", "password_env": "NO_SUCH_VARIABLE_HERE"},
            "the environment variable 'NO_SUCH_VARIABLE_HERE' is not set",
        ),
    ],
)
def test_faults_of_a_sink_are_told(options, what):
    with pytest.raises(PlanProblem) as caught:
        open_sinks({"ops": options}, path="rules.yaml")
    assert what in caught.value.what
    assert caught.value.where == "rules.yaml, sink 'ops'"


def test_the_log_is_always_there():
    assert list(open_sinks({})) == ["log"]

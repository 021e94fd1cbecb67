"""Where alerts go: the log, a webhook, e-mail. Each has a thread and a short queue of its own.

Handing an alert over takes microseconds and never fails: a receiver that hangs or is gone delays nobody but itself, and
is counted. Only addresses that the operator wrote into the rules file are ever called, without following redirects.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import smtplib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import urlsplit

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.monitoring.alerts import LOG, Alert
from tunesmith.types import to_json

_LOGGER = logging.getLogger("tunesmith.alerts")
_WAITING = 100  # alerts in a sink's queue; the oldest go when it is full
_TRIES = 3
_MOST_SECONDS = 60.0  # that a receiver may be given to answer
_LEVELS = {"note": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Sink(Protocol):
    """Somewhere an alert goes."""

    def send(self, alert: Alert) -> None:
        """Deliver it, or raise OSError; may take as long as it takes."""


@dataclass(frozen=True)
class LogSink:
    """One line of the program's log."""

    def send(self, alert: Alert) -> None:
        """Log it, at the level of its severity; cleared alerts as a note."""
        state = "cleared" if alert.cleared_at else "raised"
        level = logging.INFO if alert.cleared_at else _LEVELS[alert.severity]
        facts = (alert.rule, state, alert.model, alert.summary, alert.metric, alert.value)
        _LOGGER.log(level, "alert %s %s, model %s: %s (%s = %.4g)", *facts, extra={"alert": to_json(alert)})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would lead to an address that the operator did not name."""

    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


@dataclass(frozen=True)
class WebhookSink:
    """A POST of the alert as JSON: {"state": "raised" or "cleared", "alert": {...}, "text": "..."}."""

    url: str
    seconds: float = 5.0  # without an answer after which it counts as failed
    headers: Mapping[str, str] | None = None

    def send(self, alert: Alert) -> None:
        """Post it; raises OSError for anything but a status of 2xx."""
        state = "cleared" if alert.cleared_at else "raised"
        body = {"state": state, "alert": to_json(alert), "text": words_of(alert)}
        request = urllib.request.Request(  # only http and https pass `open_sinks`
            self.url,
            data=json.dumps(body, ensure_ascii=False).encode("utf-8"),
            headers={"Content-Type": "application/json", **(self.headers or {})},
            method="POST",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            with opener.open(request, timeout=self.seconds) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"status {error.code}") from error


@dataclass(frozen=True)
class MailSink:
    """An e-mail by SMTP."""

    host: str
    sender: str
    to: tuple[str, ...]
    port: int = 587
    tls: str = "starttls"  # starttls, ssl or none
    user: str = ""
    password: str = ""
    seconds: float = 10.0

    def send(self, alert: Alert) -> None:
        """Mail it."""
        state = "cleared" if alert.cleared_at else "raised"
        message = EmailMessage()
        message["Subject"] = f"[{alert.severity}] {alert.rule} {state}: {alert.model}".replace("\n", " ")
        message["From"], message["To"] = self.sender, ", ".join(self.to)
        message.set_content(f"{words_of(alert)}\n\n{json.dumps(to_json(alert), ensure_ascii=False, indent=2)}\n")
        kind = smtplib.SMTP_SSL if self.tls == "ssl" else smtplib.SMTP
        with kind(self.host, self.port, timeout=self.seconds) as server:
            if self.tls == "starttls":
                server.starttls()
            if self.user:
                server.login(self.user, self.password)
            server.send_message(message)


def words_of(alert: Alert) -> str:
    """Say an alert in one line."""
    if alert.cleared_at:
        minutes = (alert.cleared_at - alert.since) / 60
        return f"{alert.model}: {alert.rule} is over, after {minutes:.0f} minutes"
    return f"{alert.model}: {alert.summary} ({alert.metric} = {alert.value:.4g}, level {alert.level:g})"


class Outbox:
    """A sink behind a queue and a thread, which is started with the first alert."""

    def __init__(self, name: str, sink: Sink, *, pause_seconds: float = 2.0) -> None:
        self.name = name
        self.sent = self.failed = self.dropped = 0
        self._sink, self._pause = sink, pause_seconds
        self._waiting: queue.Queue[Alert | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = threading.Event()

    def put(self, alert: Alert | None) -> None:
        """Hand an alert over; of a full queue the oldest is dropped and counted."""
        with self._lock:
            while True:
                try:
                    self._waiting.put_nowait(alert)
                    break
                except queue.Full:
                    self._drop_oldest()
            if self._thread is None and alert is not None:
                self._thread = threading.Thread(target=self._work, name=f"alerts to {self.name}", daemon=True)
                self._thread.start()

    def _drop_oldest(self) -> None:
        try:
            self._waiting.get_nowait()
        except queue.Empty:  # the thread took it in between
            return
        self.dropped += 1

    def close(self, seconds: float = 2.0) -> None:
        """Let it send what waits, for at most so long."""
        thread = self._thread
        if thread is not None:
            self.put(None)
            thread.join(seconds)
        self._is_closed.set()

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None and not self._is_closed.is_set():
            self._deliver(alert)

    def _deliver(self, alert: Alert) -> None:
        for attempt in range(_TRIES):
            try:
                self._sink.send(alert)
            except (OSError, ValueError, smtplib.SMTPException) as error:  # the receiver, or what it said
                reason = f"{type(error).__name__}: {error}"
            else:
                self.sent += 1
                return
            if self._is_closed.wait(self._pause * 2**attempt):
                break
        self.failed += 1
        _LOGGER.error("alert %s could not be sent to %s: %s", alert.rule, self.name, reason)


_OPTIONS = {
    "webhook": {"url", "timeout_seconds", "headers"},
    "email": {"host", "port", "from", "to", "tls", "user", "password_env", "timeout_seconds"},
    "log": set[str](),
}


def open_sinks(options: Mapping[str, Mapping[str, Any]], *, path: str = "") -> dict[str, Outbox]:
    """Open the sinks of a rules file, and the log.

    Args:
        options: Name -> kind and options, as in the file.
        path: Of the file, for messages.

    Raises:
        PlanProblem: An option is wrong, or an environment variable with a password is not set.
    """
    found = {LOG: Outbox(LOG, LogSink())}
    for name, given in options.items():
        where = f"{path}, sink '{name}'"
        kind = str(given.get("kind", ""))
        if kind not in _OPTIONS:
            raise PlanProblem(f"unknown kind of sink '{kind}'", where=where, do="use one of: " + ", ".join(_OPTIONS))
        if unknown := sorted(set(map(str, given)) - _OPTIONS[kind] - {"kind"}):
            do = "use one of: " + nearest_first(unknown[0], _OPTIONS[kind])
            raise PlanProblem(f"unknown option '{unknown[0]}'", where=where, do=do)
        opened = {"webhook": _webhook, "email": _mail, "log": _log}[kind](given, where)
        found[name] = Outbox(name, opened)
    return found


def _log(given: Mapping[str, Any], where: str) -> Sink:
    return LogSink()


def _webhook(given: Mapping[str, Any], where: str) -> Sink:
    url = str(given.get("url", ""))
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and not set(url) & set(" \t\r\n\\")
    except ValueError:
        is_fine = False
    if not is_fine:
        raise PlanProblem(
            f"this is no web address: '{url}'", where=where, do="write, e.g., url: https://chat.example.org/hook"
        )
    headers = given.get("headers") or {}
    if not isinstance(headers, dict):
        raise PlanProblem("'headers' is not a mapping", where=where, do="write, e.g., headers: {X-Token: abc}")
    return WebhookSink(url, _timeout(given, 5.0, where), {str(name): str(value) for name, value in headers.items()})


def _mail(given: Mapping[str, Any], where: str) -> Sink:
    if missing := [name for name in ("host", "from", "to") if not given.get(name)]:
        raise PlanProblem(f"an e-mail sink needs '{missing[0]}'", where=where, do="add it to the rules file")
    tls = str(given.get("tls", "starttls"))
    if tls not in {"starttls", "ssl", "none"}:
        raise PlanProblem(f"unknown way of encryption '{tls}'", where=where, do="use one of: starttls, ssl, none")
    to = given["to"] if isinstance(given["to"], list) else [given["to"]]
    port = given.get("port", 465 if tls == "ssl" else 587)
    if not isinstance(port, int) or not 0 < port < 65536:
        raise PlanProblem(f"this is no port: '{port}'", where=where, do="write, e.g., port: 587")
    variable = str(given.get("password_env", ""))
    if variable and variable not in os.environ:
        do = f"set {variable} where the service is started"
        raise PlanProblem(f"the environment variable '{variable}' is not set", where=where, do=do)
    return MailSink(
        host=str(given["host"]),
        sender=str(given["from"]),
        to=tuple(map(str, to)),
        port=port,
        tls=tls,
        user=str(given.get("user", "")),
        password=os.environ.get(variable, ""),
        seconds=_timeout(given, 10.0, where),
    )


def _timeout(given: Mapping[str, Any], usual: float, where: str) -> float:
    value = given.get("timeout_seconds", usual)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MOST_SECONDS:
        do = f"give seconds, more than 0 and at most {_MOST_SECONDS:g}"
        raise PlanProblem(f"this is no time to wait: '{value}'", where=where, do=do)
    return float(value)


def wait_until_sent(outboxes: Mapping[str, Outbox], *, seconds: float = 5.0) -> None:
    """Close every sink and let each send what waits; together at most so long."""
    end = time.monotonic() + seconds
    for outbox in outboxes.values():
        outbox.close(max(0.0, end - time.monotonic()))

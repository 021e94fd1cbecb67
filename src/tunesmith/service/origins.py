"""From where a request may come: the names in Host and the web pages in Origin, checked on loopback too.

A page of a stranger can make a browser ask a service on this very machine, under a name of the stranger's that suddenly
means 127.0.0.1 (DNS rebinding). Such a request carries that name. An address in place of a name needs no list: nobody
can rebind it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from tunesmith.service.problems import HttpProblem
from tunesmith.service.settings import Settings

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", re.ASCII)
_METHODS = b"GET, POST, DELETE"
_HEADERS = b"authorization, content-type, x-api-key, x-request-id"


class Origins:
    """The allow-lists of one service.

    Args:
        settings: Names and pages besides those that are always allowed.
    """

    def __init__(self, settings: Settings) -> None:
        own = {"localhost", "ip6-localhost", socket.gethostname().lower(), settings.host.lower()}
        self._hosts = frozenset(own | {name.lower() for name in settings.hosts})
        self._pages = frozenset(page.lower().rstrip("/") for page in settings.origins)

    def check(self, scope: MutableMapping[str, Any], headers: Mapping[bytes, list[bytes]]) -> list[tuple[bytes, bytes]]:
        """Give the headers that let an allowed page read the answer; none for other clients.

        Raises:
            HttpProblem: 400 or 421 for Host, 403 for Origin.
        """
        host = self._host(headers)
        given = headers.get(b"origin", [])
        if not given:
            return []
        origin = given[0].decode("latin-1").lower()
        if origin in self._pages and len(given) == 1:
            return [
                (b"access-control-allow-origin", given[0]),
                (b"access-control-allow-methods", _METHODS),
                (b"access-control-allow-headers", _HEADERS),
                (b"vary", b"Origin"),
            ]
        if len(given) > 1 or not _is_same(origin, str(scope.get("scheme", "http")), host):
            raise HttpProblem(
                403,
                "foreign_origin",
                "this web page may not ask the service",
                do="the operator allows pages with --origins",
                where="Origin",
            )
        return []

    def _host(self, headers: Mapping[bytes, list[bytes]]) -> str:
        given = headers.get(b"host", [])
        text = given[0].decode("latin-1").lower() if len(given) == 1 else ""
        form = _HOST.fullmatch(text)
        if form is None:
            raise HttpProblem(400, "bad_host", "Host is missing, double or no name", do="send one Host", where="Host")
        name = form[1].strip("[]")
        if name not in self._hosts and not _is_address(name):
            raise HttpProblem(
                421,
                "foreign_host",
                "the service is not known under this name",
                do="ask it by address, or the operator adds the name with --hosts",
                where="Host",
            )
        return text


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str, scheme: str, host: str) -> bool:
    """Whether a page came from this very service."""
    try:
        parts = urlsplit(origin)
        usual = {"http": 80, "https": 443}.get(parts.scheme)
        asked = urlsplit(f"//{host}")
        return (parts.hostname, parts.port or usual) == (
            asked.hostname,
            asked.port or {"http": 80, "https": 443}[scheme],
        )
    except (ValueError, KeyError):
        return False

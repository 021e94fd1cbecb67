"""How a request is refused: one body for every failure, with a stable code, what happened and what to do.

    {"error": {"code": "busy", "message": "...", "do": "...", "where": "...", "request_id": "..."}}

Nothing of the request is repeated in it, no path of this machine, and no text of an exception that is not ours. The
routes that OpenAI's clients ask answer in OpenAI's shape, which has `type` and `param` beside the same entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import DataProblem, QuotaProblem, StoreProblem
from tunesmith.service.refusals import Refusal

OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions")


@dataclass
class HttpProblem(Exception):
    """A request that is refused."""

    status: int
    code: str  # stable: programs may rely on it
    what: str
    do: str = ""
    where: str = ""  # which part of the request, e.g. "inputs[3]"
    retry_after: float = 0.0  # seconds; 0: not said
    can_retry: bool = False  # whether the same request may succeed later
    closes: bool = False  # whether the connection ends, because its rest cannot be trusted or is not wanted
    allow: str = ""  # methods that the route has, for 405
    param: str = ""  # OpenAI's name for the parameter that is wrong

    def __str__(self) -> str:
        return f"{self.code}: {self.what}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        found = (
            {"retry-after": str(max(1, round(self.retry_after + 0.5)))} if self.retry_after or self.can_retry else {}
        )
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        if self.allow:
            found["allow"] = self.allow
        if self.closes:
            found["connection"] = "close"
        return found

    def body(self, *, request_id: str, path: str = "") -> bytes:
        """Give the JSON that the client reads."""
        return json.dumps(self.content(request_id=request_id, path=path)).encode()

    def content(self, *, request_id: str, path: str = "") -> dict[str, Any]:
        """Give what the body says."""
        parts: dict[str, Any] = {
            "code": self.code,
            "message": self.what,
            "do": self.do,
            "where": self.where,
            "request_id": request_id,
        }
        if path in OPENAI_PATHS:
            parts |= {"type": _openai_type(self.status), "param": self.param or None}
        return {"error": parts}


def _openai_type(status: int) -> str:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")


def problem_of(error: BaseException) -> HttpProblem | None:
    """Give how an exception of ours is told to the client; None for one that nobody foresaw."""
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, Refusal):
        return HttpProblem(
            error.status,
            error.code,
            error.what,
            do=error.do or ("ask again" if error.can_retry else ""),
            where=error.where,
            retry_after=error.retry_after,
            can_retry=error.can_retry,
        )
    if isinstance(error, StoreProblem):
        return HttpProblem(
            503,
            "store_unavailable",
            "the feedback store cannot be used now; nothing was written",
            do="send it again later",
            can_retry=True,
        )
    if isinstance(error, DataProblem):
        return HttpProblem(
            422, "bad_input", "a value in this request cannot be used", do="send plain texts and numbers"
        )
    if isinstance(error, QuotaProblem):
        return HttpProblem(
            429,
            "quota",
            "this key gave all the feedback that it may give in a day",
            do="send the rest tomorrow, or ask the operator to raise feedback_per_day",
            retry_after=3600.0,
        )
    return None


def unforeseen() -> HttpProblem:
    """Give what is said of a fault of ours: nothing of the exception."""
    return HttpProblem(500, "internal", "this is a fault of the service", do="tell the operator the request id")


def known_places(parts: tuple[Any, ...], names: Mapping[str, Any] | frozenset[str]) -> str:
    """Give where in a request something is, e.g. `inputs[3].text`, without the client's own words.

    Args:
        parts: Names and places in lists, from the outermost.
        names: Words that are ours and may be repeated; others are shown as `*`.
    """
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if part in names else ".*"
    return text.lstrip(".")

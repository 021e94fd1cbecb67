"""Server-sent events: the text form in which pieces of an answer go out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import StreamingResponse

EVENTS = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON, or [DONE]"}},
            "required": ["data"],
        }
    }
}
"""How the OpenAPI document describes a stream: what one event holds."""

_HEADERS = {"x-accel-buffering": "no"}  # some proxies would else gather the pieces


def event(content: Any, name: str = "") -> bytes:
    """Give one event; its data is one line of JSON (or a bare word)."""
    data = content if isinstance(content, str) else json.dumps(content, allow_nan=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Give the response that sends events as they come."""
    return StreamingResponse(events, media_type="text/event-stream", headers=_HEADERS)

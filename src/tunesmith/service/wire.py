"""Messages between the service and a worker: JSON objects, each after its length. Never a pickle.

A frame is four bytes, the length of what follows (big-endian), and one JSON object in UTF-8.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from typing import Any

MOST_BYTES = 256 * 1024 * 1024  # of one message; far above what a request's limits let through

Message = Mapping[str, Any]


def pack(message: Message) -> bytes:
    """Give a message as one frame.

    Raises:
        ValueError: It holds a number that is not finite, or is too long.
    """
    content = json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )
    if len(content) > MOST_BYTES:
        raise ValueError(f"a message of {len(content)} bytes")
    return len(content).to_bytes(4, "big") + content


def unpack(content: bytes) -> dict[str, Any]:
    """Give the message of a frame's content."""
    found = json.loads(content.decode("utf-8", "surrogatepass"))
    if not isinstance(found, dict):
        raise ValueError("a message is a JSON object")
    return found


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Give the next message; None where the other side is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > MOST_BYTES:
            return None  # not one of ours: the line is lost
        return unpack(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError, OSError):
        return None


def receive(line: socket.socket) -> dict[str, Any] | None:
    """Wait for the next message on a blocking socket; None where the other side is gone."""
    head = _exactly(line, 4)
    content = None if head is None else _exactly(line, int.from_bytes(head, "big"))
    return None if content is None else unpack(content)


def _exactly(line: socket.socket, size: int) -> bytes | None:
    if size > MOST_BYTES:
        return None
    parts = bytearray()
    while len(parts) < size:
        try:
            part = line.recv(min(1 << 20, size - len(parts)))
        except (ConnectionError, OSError):
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)

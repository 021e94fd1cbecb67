"""Log lines: one JSON object each, without texts of requests, and without a character that could forge a line.

A log that cannot be written (disk full, file gone, reader gone) never stops an answer; lines that are lost are counted.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_MOST_CHARACTERS = 500  # of one value; ours are short


class Log:
    """Where lines go.

    Args:
        target: `-` for standard error, empty for nowhere, else a file that is appended to.
    """

    def __init__(self, target: str = "-") -> None:
        self.lost = 0  # lines
        self._lock = threading.Lock()
        self._file: int | None = None
        if target == "-":
            self._file = _descriptor(sys.stderr)
        elif target:
            place = Path(target).expanduser()
            place.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **values: Any) -> None:
        """Write one line; values are ours, never a client's text."""
        if self._file is None:
            return
        plain = {name: value[:_MOST_CHARACTERS] if isinstance(value, str) else value for name, value in values.items()}
        stamp = time.time()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(stamp)) + f".{int(stamp * 1000) % 1000:03d}Z"
        # ASCII alone: line ends, escape sequences and odd directions of writing stand as \uXXXX.
        line = json.dumps({"at": at, "event": event, **plain}, ensure_ascii=True, default=repr) + "\n"
        try:
            with self._lock:
                os.write(self._file, line.encode())
        except OSError:
            self.lost += 1

    def fault(self, error: BaseException, **values: Any) -> None:
        """Write where an unforeseen exception came from: its kind and places in the code, not what it says."""
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        self.write("fault", kind=type(error).__name__, places=places, **values)


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None


class ServerLog(logging.Handler):
    """Turns what the web server's own logger says into log lines."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; of an exception only where it came from."""
        if record.exc_info and record.exc_info[1] is not None:
            self._log.fault(record.exc_info[1], source=record.name)
        else:
            self._log.write("server", level=record.levelname.lower(), source=record.name, text=record.getMessage())

"""The pointer of a registered name, which says who answers, and the history of every pointer there was.

A reader sees the old pointer or the new one, because the file is replaced at once. The history follows it: what a crash
kept out of it is added by the next change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import explain_os_errors, sync
from tunesmith.errors import RegistryProblem
from tunesmith.types import to_json

POINTER = "pointer.json"
HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Pointer:
    """What `pointer.json` holds."""

    serial: int = 0  # one more with each change
    action: str = ""  # what changed it
    by: str = ""  # the system's user name
    at: float = 0.0
    live: int | None = None
    before: tuple[int, ...] = ()  # versions that were live, the last one last: where `rollback` goes
    canary: int | None = None
    canary_share: float = 0.0
    shadow: int | None = None


def read_json(path: Path) -> dict[str, Any]:
    """Read one of the registry's files.

    Raises:
        RegistryProblem: It is missing, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path) from error
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def damaged(path: Path) -> RegistryProblem:
    """Say that a file of the registry cannot be used, and what brings it back."""
    return RegistryProblem(
        f"{path.name} of the registry is missing or cannot be read",
        where=str(path),
        do="promote a version again: tunesmith registry promote NAME NUMBER"
        if path.name == POINTER
        else "put the file back from a copy, or register the runs in a new folder: --registry FOLDER",
    )


def read_pointer(place: Path, *, may_mend: bool = False) -> Pointer:
    """Read the pointer; with `may_mend`, a damaged one is taken from the history's last line."""
    path = place / POINTER
    if not path.exists():
        return Pointer()
    try:
        return _pointer_of(read_json(path))
    except (KeyError, TypeError, ValueError) as error:  # RegistryProblem is a ValueError too
        history = read_history(place)
        if may_mend and history:
            return history[-1]
        raise damaged(path) from error


def _pointer_of(content: Mapping[str, Any]) -> Pointer:
    known = {item.name for item in dataclasses.fields(Pointer)}
    values = {name: value for name, value in content.items() if name in known}
    pointer = Pointer(**{**values, "before": tuple(int(number) for number in values["before"])})
    if not isinstance(pointer.serial, int) or not isinstance(pointer.live, (int, type(None))):
        raise TypeError(f"pointer {content!r:.200}")
    return pointer


def read_history(place: Path) -> list[Pointer]:
    """Read the history; a line cut short by a crash is left out, as it is written again."""
    if not (place / HISTORY).is_file():
        return []
    found = []
    for line in (place / HISTORY).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found.append(_pointer_of(json.loads(line)))
    return found


def complete_history(place: Path) -> None:
    """Add the pointer to the history unless it is there; a line that was cut short is ended first."""
    path = place / HISTORY
    if not (place / POINTER).exists():
        return
    try:
        pointer = read_pointer(place)
    except RegistryProblem:  # it is mended by the change that is about to be made
        return
    history = read_history(place)
    if history and history[-1].serial >= pointer.serial:
        return
    with explain_os_errors(path, "writing the history of the registry"), path.open("a+b") as file:
        is_cut = file.tell() > 0 and not path.read_bytes().endswith(b"\n")
        line = json.dumps(to_json(pointer), ensure_ascii=False) + "\n"
        file.write((b"\n" if is_cut else b"") + line.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())
        sync(place)

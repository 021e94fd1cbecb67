"""What a monitor keeps over a restart, in one small safetensors file that is replaced at once: numbers, no texts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import explain_os_errors, write_file
from tunesmith.monitoring.drift import Null
from tunesmith.monitoring.traits import Traits
from tunesmith.types import from_json, to_json

_LOGGER = logging.getLogger("tunesmith.monitoring")
_FORMAT = 1


@dataclass(frozen=True)
class Kept:
    """The state of one monitor."""

    bundle: str  # id of the bundle that it watched
    reference_at: float  # when the reference was made that the window belongs to
    window: Traits
    judgements: Mapping[str, Any]  # see `Accuracy.arrays`
    judged: int
    changes: int
    counts: Mapping[str, int]
    failures: Mapping[str, int]
    started: float
    null: Null | None
    timeline: tuple[Mapping[str, float], ...]
    alarm: Mapping[str, Any]  # see `Alarm.state`


_ARRAYS = ("window", "judgements")


def write_kept(path: Path, kept: Kept) -> None:
    """Write the file, all of it or nothing; raises MachineProblem."""
    from safetensors.numpy import save

    content = {name: to_json(value) for name, value in vars(kept).items() if name not in _ARRAYS}
    arrays = {**kept.window.arrays("window."), **kept.judgements}
    with explain_os_errors(path, "keeping the monitor's state"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, save(arrays, metadata={"content": json.dumps({"format": _FORMAT, **content}, ensure_ascii=False)}))


def read_kept(path: Path) -> Kept | None:
    """Read the file; None where there is none, or where it is damaged, which the log then says."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            content = json.loads(file.metadata()["content"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        judgements = {name: array for name, array in arrays.items() if name.startswith("feedback.")}
        timeline = tuple(content.pop("timeline"))
        null = None if (known := content.pop("null")) is None else from_json(Null, known)
        window = Traits.of_arrays(arrays, "window.")
        return Kept(**content, window=window, judgements=judgements, null=null, timeline=timeline)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        _LOGGER.warning("what the monitor kept cannot be read, it begins anew: %s (%s)", path, type(error).__name__)
        return None

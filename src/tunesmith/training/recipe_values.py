"""What a recipe key may hold: how one is declared, and how a value from a file or a command line is read.

A key's kind is one of: text, path, table, entries, yes-no, number, whole, auto-number, auto-whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import field
from typing import Any

from tunesmith.data.augment.entries import read_entries, write_entries
from tunesmith.errors import PlanProblem

AUTO = "auto"


def recipe_key(default: Any, kind: str, meaning: str, *, least: float | None = None, most: float | None = None) -> Any:
    """Declare one recipe key; `kind` names what `read_value` makes of a value."""
    return field(default=default, metadata={"kind": kind, "help": meaning, "least": least, "most": most})


def read_value(item: dataclasses.Field[Any], value: Any) -> Any:
    """Check one value and give it in its own type.

    Raises:
        PlanProblem: The value is not of the key's kind, or out of range.
    """
    kind, least, most = (item.metadata[name] for name in ("kind", "least", "most"))
    if kind.startswith("auto-") and (value == AUTO or value is None):
        return AUTO
    if kind == "entries":
        return write_entries(read_entries(value))
    if kind == "table" and isinstance(value, dict):  # of labels, say: JSON can hold them whatever they are called
        return json.dumps(value, ensure_ascii=False)
    if kind in {"text", "path", "table"}:
        if isinstance(value, (dict, list)):
            raise _wrong(item.name, value, "one piece of text")
        return "" if value is None else str(value)
    if kind == "yes-no":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise _wrong(item.name, value, "yes or no")
        return words[str(value).lower()]
    if isinstance(value, bool):
        raise _wrong(item.name, value, "a number")
    try:
        number = float(value)
        is_whole = number == int(number)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(item.name, value, "a number" + (" or auto" if kind.startswith("auto-") else "")) from None
    if kind.endswith("whole") and not is_whole:
        raise _wrong(item.name, value, "a whole number")
    if (least is not None and number < least) or (most is not None and number > most):
        raise _wrong(item.name, value, f"at least {least:g}" + (f" and at most {most:g}" if most is not None else ""))
    return int(number) if kind.endswith("whole") else number


def _wrong(name: str, value: Any, wanted: str) -> PlanProblem:
    return PlanProblem(
        f"{name} is {value!r:.200}; it must be {wanted}", where=name, do=f"--set {name}=VALUE, or in the recipe"
    )


def read_seconds(words: str, where: str) -> float:
    """Give the seconds of a time such as 90, 60s, 5m, 1h30m or 1.5h.

    Raises:
        PlanProblem: It is no time, or none at all.
    """
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s?)?", words.strip().lower())
    try:
        hours, minutes, seconds = (float(part) if part else 0.0 for part in found.groups()) if found else (0.0,) * 3
    except ValueError:
        hours = minutes = seconds = 0.0
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise PlanProblem(f"{where} is '{words}'", where=where, do="write a time such as 60s, 5m or 1h30m")
    return total

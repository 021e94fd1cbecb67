"""Cells that a spreadsheet would run: `=HYPERLINK(...)` in an exported table is a formula to it and no text.

Such a cell gets an apostrophe in front, which spreadsheets show as text and leave out. What is a plain number stays:
`-3.5` is no formula. Source: OWASP, CSV injection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TextIO

_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "＝",
    "＋",
    "－",
    "＠",
)  # full-width ones are formulas to some programs
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|\.\d+)([eE][+-]?\d+)?%?")


def neutral(value: Any) -> Any:
    """Give a cell as it may stand in a table; anything but a text that begins like a formula stays as it is."""
    if isinstance(value, str) and value.startswith(_STARTS) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def neutral_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row with every cell as it may stand in a table, and every column's name too."""
    return {neutral(name): neutral(value) for name, value in row.items()}


class WholeRows:
    """A file for a csv writer with `lineterminator="\\r\\n"`, in which rows end with a line feed alone.

    The writer puts quotes around what holds a character of its line end, and around nothing else: with a line feed
    alone, a cell that holds a carriage return would become two rows, and what follows it a cell of its own.

    Args:
        file: Open for writing, with `newline=""`.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        """Write one row."""
        return self._file.write(row.removesuffix("\r\n") + "\n")

"""Lines of delimited text as rows of cells, and which delimiter a file uses.

Written here instead of using the standard `csv` reader because a row must never take others with it: a quote that is
opened and not closed would make `csv` swallow the file up to the next quote, and say nothing of it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tunesmith.data.readers import CELL_LIMIT

DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart."""

    delimiter: str  # empty: one column, each line is one cell
    is_quoted: bool = True  # False: a quote is a character like any other (common in tab-separated files)


@dataclass(frozen=True)
class Malformed:
    """Lines that are no row."""

    kind: str  # bad-quotes, too-long
    reason: str
    text: str


class _Lines:
    """Physical lines with their numbers, some of which can be given back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: deque[str] = deque()
        self.number = 0  # of the line given last

    def take(self) -> str:
        """Give the next line, empty at the end of the file."""
        line = self._back.popleft() if self._back else next(self._lines, "")
        self.number += bool(line)
        return line

    def give_back(self, lines: list[str]) -> None:
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)


def split_rows(lines: Iterator[str], dialect: Dialect) -> Iterator[tuple[int, str, list[str] | Malformed]]:
    """Give for each row the number of its first line, its text as it stands, and its cells.

    Lines without any character are skipped; so are lines of white space where there is more than one column.
    """
    delimiter, feed = dialect.delimiter, _Lines(lines)
    while line := feed.take():
        number = feed.number
        bare = line.rstrip("\r\n")
        if not bare or (delimiter and bare.isspace() and delimiter not in bare):
            continue
        if not dialect.is_quoted or '"' not in line:
            yield number, bare, bare.split(delimiter) if delimiter else [bare]
        elif delimiter:
            yield number, *_quoted_row(line, feed, delimiter)
        else:
            # One column: a line whose quotes make no sense is taken as it stands, quotes and all.
            text, cells = _quoted_row(line, feed, "\0") if line.startswith('"') else (bare, [bare])
            is_sound = not isinstance(cells, Malformed) or cells.kind == "too-long"
            yield number, text, cells if is_sound else [bare]


def _quoted_row(line: str, feed: _Lines, delimiter: str) -> tuple[str, list[str] | Malformed]:
    """Split a row that holds quotes, taking further lines from `feed` while a quoted cell is open."""
    cell = _CELLS[delimiter]
    text, more, cells, at = line, list[str](), list[str](), 0
    bare = line.rstrip("\r\n")
    while True:
        match = cell.match(text, at)
        if match is not None:
            quoted, plain, end = match.groups()
            cells.append(plain if quoted is None else quoted.replace('""', '"'))
            at = match.end()
            if not end or end in "\r\n":
                return text.rstrip("\r\n"), cells
            continue
        # No match: a quoted cell that is open at the end of the text, or one with something after its closing quote.
        if text.count('"', at) % 2 == 0:
            feed.give_back(more)
            return bare, Malformed("bad-quotes", "there is text after a closing quote, before the delimiter", bare)
        taken, outcome = _take_until_closed(feed, len(text) - at)
        if outcome == "closed":
            more += taken
            text += "".join(taken)
            continue
        if outcome == "long" and not _look_like_rows(taken, delimiter, len(cells) + 1):
            _skip_until_closed(feed)
            return bare, Malformed("too-long", f"a quoted cell is longer than {CELL_LIMIT:,} characters", bare)
        feed.give_back(more + taken)
        return bare, Malformed("bad-quotes", "a quote is opened and never closed", bare)


_CELLS = {
    delimiter: re.compile(
        rf'(?:"((?:[^"]++|"")*+)"|((?!")[^{re.escape(delimiter)}\r\n]*+))({re.escape(delimiter)}|\r\n?|\n|\Z)'
    )
    for delimiter in (*DELIMITERS, "\0")
}


def _take_until_closed(feed: _Lines, size: int) -> tuple[list[str], str]:
    """Take lines up to the one that closes the open quote: `closed`, `long` (over the limit) or `end` (of the file)."""
    taken: list[str] = []
    while line := feed.take():
        taken.append(line)
        size += len(line)
        if line.count('"') % 2:
            return taken, "closed"
        if size > CELL_LIMIT:
            return taken, "long"
    return taken, "end"


def _skip_until_closed(feed: _Lines) -> None:
    while line := feed.take():
        if line.count('"') % 2:
            return


def _look_like_rows(lines: list[str], delimiter: str, least: int) -> bool:
    """Tell whether most lines have as many cells as a row; then a quote was forgotten, and no cell is this long."""
    return 2 * sum(line.count(delimiter) >= max(least - 1, 1) for line in lines) > len(lines)


def find_dialect(sample: list[str], *, prefers_tab: bool) -> Dialect:
    """Find out how the cells of a file are told apart.

    A delimiter comes into question when it stands in the header; among several, the one that gives the most rows with
    as many cells as the header wins. Without one the file has a single column.

    Args:
        sample: The first physical lines, the header first.
        prefers_tab: Whether the tab wins where two do equally well.
    """
    order = sorted(DELIMITERS, key=lambda item: item != "\t") if prefers_tab else list(DELIMITERS)
    best, best_share = Dialect(""), 0.0
    for delimiter in order:
        dialect = Dialect(delimiter)
        share, proper, broken = _fit(sample, dialect)
        if delimiter == "\t" and broken > proper:
            # More quotes that make no sense than quotes that do: they are part of the text.
            dialect = Dialect(delimiter, is_quoted=False)
            share, _, _ = _fit(sample, dialect)
        if share > best_share:
            best, best_share = dialect, share
    return best


def _fit(sample: list[str], dialect: Dialect) -> tuple[float, int, int]:
    """Give the share of rows that are as wide as the header, and how many hold sensible and broken quotes."""
    rows = list(split_rows(iter(sample), dialect))
    header = rows[0][2] if rows else []
    if isinstance(header, Malformed) or len(header) < 2:
        return 0.0, 0, 0
    proper = broken = fitting = 0
    for _, text, cells in rows[1:]:
        if isinstance(cells, Malformed):
            broken += 1
            continue
        fitting += len(cells) == len(header)
        proper += '"' in text
    # A header alone, or one that no row matches, is still better evidence than none.
    return max(fitting / max(len(rows) - 1, 1), 0.001), proper, broken

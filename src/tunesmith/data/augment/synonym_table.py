"""Synonyms that the user gives: a file of words, each with what may stand in its place.

CSV or TSV: `word,synonym|synonym` (or one synonym a column). JSONL: {"word": "good", "synonyms": ["fine", "nice"]}. A
first line of column names is known by the name of its first column, and may be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.augment.words import Place
from tunesmith.data.layout import as_text
from tunesmith.data.readers import BadRow, read
from tunesmith.errors import DataProblem

_HEADERS = {"word", "words", "term", "token", "wort", "词", "词语", "单词", "词条"}
_PARTED_BY = "|;；"


@dataclass(frozen=True)
class SynonymTable:
    """Words in lower case, each with its synonyms."""

    synonyms: Mapping[str, tuple[str, ...]]
    lengths: tuple[int, ...]  # characters of the words, longest first
    sha256: str  # of the file

    def matches(self, text: str, words: Sequence[Place]) -> list[tuple[Place, tuple[str, ...]]]:
        """Give where the table's words stand, with their synonyms: the longest first, none across another.

        An entry may be several words of the text, and begins and ends where words do.

        Args:
            text: Any text.
            words: Places of its words, in order.
        """
        ends, found, last = {end for _, end in words}, [], 0
        for start, _ in words:
            if start < last:
                continue
            for length in self.lengths:
                end = start + length
                if end in ends and (known := self.synonyms.get(text[start:end].lower())):
                    found.append(((start, end), known))
                    last = end
                    break
        return found


def make_table(pairs: Iterable[tuple[str, Sequence[str]]], sha256: str = "") -> SynonymTable:
    """Give the table of words and their synonyms; a word that stands twice has the synonyms of both."""
    found: dict[str, dict[str, None]] = {}
    for word, synonyms in pairs:
        known = found.setdefault(word.lower(), {})
        known |= {one: None for one in synonyms if one.lower() != word.lower()}
    kept = {word: tuple(known) for word, known in found.items() if known}
    return SynonymTable(kept, tuple(sorted({len(word) for word in kept}, reverse=True)), sha256)


def read_table(path: str) -> SynonymTable:
    """Read a table of synonyms.

    Raises:
        DataProblem: The file cannot be read, or has rows without a word or a synonym; the first three are named.
    """
    source = read(path)
    pairs, faults = [], []
    if str(source.columns[0]).strip().lower() not in _HEADERS and source.format == "csv":
        pairs.append((source.columns[0], _parts(source.columns[1:])))
    for number, row in source.rows():
        if isinstance(row, BadRow):
            faults.append(f"row {number}: {row.reason}")
            continue
        word, synonyms = _read_row(row, source.columns)
        if not word or not synonyms:
            faults.append(f"row {number} has no {'synonym' if word else 'word'}")
        pairs.append((word, synonyms))
    if faults:
        raise DataProblem(
            f"{len(faults)} rows of the table of synonyms cannot be used: {'; '.join(faults[:3])}",
            where=path,
            do="write word,synonym|synonym in each line of a CSV or TSV file, or objects with word and synonyms",
        )
    table = make_table(pairs, source.sha256)
    if not table.synonyms:
        what = "no word of the table of synonyms has another word than itself"
        raise DataProblem(what, where=path, do="write word,synonym|synonym in each line")
    return table


def _read_row(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, list[str]]:
    key = next((name for name in columns if str(name).strip().lower() in _HEADERS), columns[0])
    rest = [row.get(name) for name in columns if name != key]
    return (as_text(row.get(key)) or "").strip(), _parts(rest)


def _parts(values: Iterable[Any]) -> list[str]:
    found = []
    for value in values:
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            plain = as_text(text) or ""
            for mark in _PARTED_BY[1:]:
                plain = plain.replace(mark, _PARTED_BY[0])
            found += [part.strip() for part in plain.split(_PARTED_BY[0]) if part.strip()]
    return found

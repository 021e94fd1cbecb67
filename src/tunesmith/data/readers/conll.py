"""Reader for CoNLL files: one token in each line, its tag in the last column, a blank line after each sentence.

Columns are parted by a tab where most lines have one, else by ASCII blanks: a wide blank is a token in
Chinese files. The first column is the token, columns in between are not read. A file whose lines are tokens alone has
no tags. The number of a row is that of the physical line in which its sentence begins.
"""

from __future__ import annotations

import gzip
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.data.readers import CELL_LIMIT, BadRow, Row, Source
from tunesmith.data.textfile import TextFile, find_fault, open_text, shown, too_long
from tunesmith.errors import DataProblem

_PLAIN = (".conll", ".bio", ".bioes", ".iob", ".iob2", ".bmes")
SUFFIXES = (*_PLAIN, *(suffix + ".gz" for suffix in _PLAIN))

_SAMPLE_LINES = 2000
_SNIFF_BYTES = 1 << 16
_MOST = 0.8  # share of lines that decides; the rest may be damaged
_SPACE = " \t\r\n\ufeff"
_BLANKS = re.compile("[ \t]+")
_TAG = re.compile("(O|[BIESMLU]-.+|[BIESMLU])")
_DOCUMENT = "-DOCSTART-"


@dataclass(frozen=True)
class _Layout:
    """How the lines of one file are divided."""

    is_tabbed: bool
    width: int  # columns in a line; 1: tokens alone
    header: int  # line number of the names of the columns; 0: there are none
    tags: frozenset[str]  # those seen in the sample

    def columns(self, line: str) -> list[str]:
        return _split(line, self.is_tabbed)

    def is_comment(self, line: str) -> bool:
        """Tell a comment (`# text = ...`) from a token that is a number sign."""
        if not line.startswith("# "):
            return False
        columns = self.columns(line)
        return len(columns) != self.width or not (self.is_tabbed or columns[-1] in self.tags)


@dataclass
class _Sentence:
    """What was read of a sentence so far."""

    number: int
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    characters: int = 0
    fault: BadRow | None = None

    def row(self, width: int) -> Row:
        if self.fault:
            return self.number, self.fault
        return self.number, {"tokens": self.tokens, "tags": self.tags} if width > 1 else {"tokens": self.tokens}


def read(path: Path) -> Source:
    """Open a CoNLL file: its encoding, and how many columns its lines have.

    Raises:
        DataProblem: Not readable text, or no sentence.
    """
    file = open_text(path)
    sample = list(itertools.islice(enumerate(file.lines(), start=1), _SAMPLE_LINES))
    layout = _find_layout(sample)
    if next(_rows(file, layout), None) is None:
        do = "write one token in each line, e.g. Paris<TAB>B-place, and a blank line after each sentence"
        raise DataProblem("the file holds no sentence", where=str(path), do=do)
    return Source(
        path=str(path),
        format="conll",
        encoding=file.encoding,
        delimiter="",
        columns=("tokens", "tags") if layout.width > 1 else ("tokens",),
        sha256=file.sha256,
        read_rows=lambda: _rows(file, layout),
    )


def is_conll(path: Path) -> bool:
    """Tell whether a file with a general suffix (.txt, .tsv, .csv) has tokens, NER tags and blank lines between.

    Most of its first lines must be a token without blanks and a tag such as `B-place` or `O`, in equally many columns.
    """
    try:
        with open(path, "rb") as plain:
            head = plain.read(_SNIFF_BYTES)
        if head.startswith(b"\x1f\x8b\x08"):
            with gzip.open(path) as stream:
                head = stream.read(_SNIFF_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    # Tags and separators are ASCII in every encoding that is read, so that the others need not be understood.
    lines = head.decode("latin-1").split("\n")
    if len(head) == _SNIFF_BYTES:
        lines.pop()
    kept = [line.strip(_SPACE) for line in lines]
    while kept and not kept[-1]:
        kept.pop()
    is_apart = "" in kept or (len(lines) - len(kept) > 1)
    kept = [line for line in kept if line and not line.startswith(("# ", _DOCUMENT))]
    is_tabbed = _is_tabbed(kept)
    rows = [_split(line, is_tabbed) for line in kept]
    width = _usual([len(row) for row in rows])
    fitting = [row for row in rows if len(row) == width and _TAG.fullmatch(row[-1]) and " " not in row[0].strip()]
    return is_apart and width > 1 and len(fitting) >= _MOST * len(rows)


def _is_tabbed(lines: list[str]) -> bool:
    return 2 * sum("\t" in line for line in lines) > len(lines)


def _usual(widths: list[int]) -> int:
    return Counter(widths).most_common(1)[0][0] if widths else 0


def _split(line: str, is_tabbed: bool) -> list[str]:
    if is_tabbed:
        return line.strip("\r\n\ufeff").split("\t")
    return _BLANKS.split(line.strip(_SPACE))


def _find_layout(sample: list[tuple[int, str]]) -> _Layout:
    lines = [(number, line) for number, line in sample if line.strip(_SPACE) and not line.startswith(_DOCUMENT)]
    sure = [(number, line) for number, line in lines if not line.startswith("# ")] or lines
    is_tabbed = _is_tabbed([line for _, line in sure])
    rows = [(number, _split(line, is_tabbed)) for number, line in sure]
    width = _usual([len(columns) for _, columns in rows])
    tags = Counter(columns[-1] for _, columns in rows if len(columns) == width > 1)
    ner = sum(count for tag, count in tags.items() if _TAG.fullmatch(tag))
    header = 0
    # `token<TAB>tag` above tags that all look otherwise names the columns.
    if rows and len(rows[0][1]) == width > 1 and not _TAG.fullmatch(rows[0][1][-1]) and ner >= _MOST * len(rows):
        header = rows[0][0] if tags[rows[0][1][-1]] == 1 else 0
    return _Layout(is_tabbed, width, header, frozenset(tags))


def _rows(file: TextFile, layout: _Layout) -> Iterator[Row]:
    sentence: _Sentence | None = None
    for number, line in enumerate(file.lines(), start=1):
        is_end = not line.strip(_SPACE) or layout.columns(line)[0] == _DOCUMENT
        if is_end and sentence:
            yield sentence.row(layout.width)
            sentence = None
        # A comment stands before its sentence; between two tokens such a line is a token that went wrong.
        if is_end or number == layout.header or (sentence is None and layout.is_comment(line)):
            continue
        sentence = sentence or _Sentence(number)
        _add(sentence, number, line, layout)
    if sentence:
        yield sentence.row(layout.width)


def _add(sentence: _Sentence, number: int, line: str, layout: _Layout) -> None:
    """Put one more line to a sentence; after a first fault nothing more is kept of it."""
    if sentence.fault:
        return
    sentence.characters += len(line)
    columns = layout.columns(line)
    sentence.fault = find_fault(line) or _find_misfit(columns, number, line, layout.width)
    if sentence.characters > CELL_LIMIT:
        sentence.fault = too_long(line, f"the sentence that begins in line {sentence.number}")
    if sentence.fault:
        sentence.tokens, sentence.tags = [], []
        return
    sentence.tokens.append(columns[0])
    if layout.width > 1:
        sentence.tags.append(columns[-1].strip(_SPACE))


def _find_misfit(columns: list[str], number: int, line: str, width: int) -> BadRow | None:
    fields = {"line": shown(line)}
    if len(columns) != width:
        reason = f"line {number} has {len(columns)} columns; most lines have {width}"
        do = "give each line its token and its tag, parted the same way" if width > 1 else "put one token in each line"
        return BadRow("wrong-columns", reason, do, fields)
    if not columns[0] or not columns[-1].strip(_SPACE):
        reason = f"line {number} has no {'tag' if columns[0] else 'token'}"
        return BadRow("wrong-columns", reason, "write the token and its tag, O for none", fields)
    return None

"""Documents from files of text, streamed: .txt, .jsonl, .csv and .parquet, also .gz; and who of them is held out.

A corpus is gone through twice: `survey` counts it and draws the sample that the tokenizer learns from, and `tokens`
turns it into ids. Neither holds more than a sample of it. A document is a non-blank line of a .txt file, or the lines
between blank lines (joined by a line feed; what kind of line end the file has is not kept), or a cell of a table.
Whether a document is held out depends on nothing but its text and the seed: repeats are always on one side.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith import data
from tunesmith.data.layout import SURROGATE
from tunesmith.data.normalise import text_key
from tunesmith.data.readers import BadRow, Source, data_suffix
from tunesmith.data.textfile import TextFile, find_fault, open_text
from tunesmith.errors import DataProblem
from tunesmith.training.recipe import AUTO

SAMPLE_CHARACTERS = 20_000_000  # that the tokenizer learns from; more changes few merges and costs memory
_LOOK_LINES = 2000  # of a .txt file, to tell lines from paragraphs
_SHOWN = 3

Piece = tuple[int, str | BadRow]
"""Row or line number where it starts (1-based), and the document or why it cannot be used."""


@dataclass(frozen=True)
class CorpusFile:
    """One file that was opened and found whole."""

    path: str
    sha256: str
    mode: str  # lines, paragraphs, or the name of the column
    inferred: str  # a sentence on what was guessed, or ""
    pieces: Callable[[], Iterator[Piece]] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Held:
    """Who is held out for validation: a share of the documents, or those of a file."""

    seed: int
    share: float  # 0..1; 0 where a file was given
    keys: frozenset[int] = frozenset()  # of documents that are held out whatever their share

    def has(self, key: int) -> bool:
        """Whether the document with this key is held out."""
        return key in self.keys or place(key, self.seed) < self.share


@dataclass(frozen=True)
class Survey:
    """What a first pass over the training files found."""

    documents: int
    characters: int
    empty: int  # rows without text
    rejected: int
    remarks: tuple[str, ...]
    sample: tuple[str, ...]  # documents that are not held out, for the tokenizer
    held: Held


def place(key: int, seed: int) -> float:
    """Give the place in 0..1 of a document; the same on every machine, unrelated between seeds."""
    mixed = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") / 2**64


def open_corpus(paths: Sequence[str], *, text: str = "", documents: str = AUTO) -> tuple[CorpusFile, ...]:
    """Open the files of a corpus: hash them, find their encoding, their column or how documents are separated.

    Args:
        paths: Files.
        text: Column of the text, for tables; inferred where empty.
        documents: lines, paragraphs or auto, for .txt files.

    Raises:
        DataProblem: No files, a file is missing, empty, damaged, no text, or no column can be told to be the text.
    """
    if not paths:
        raise DataProblem("no corpus was given", where="corpus", do="tunesmith pretrain FILE [FILE ...]")
    return tuple(_open(Path(path).expanduser(), text, documents) for path in paths)


def _open(path: Path, text: str, documents: str) -> CorpusFile:
    if data_suffix(path) not in {".txt", ".text", ""} or path.is_dir():
        source = data.read(path)
        columns = data.find_columns(source, {"text": "text"}, {"text": text} if text else {})
        column = columns.roles["text"]
        inferred = f"in {path}: {'; '.join(columns.inferred)}" if columns.inferred else ""
        return CorpusFile(str(path), source.sha256, column, inferred, lambda: _cells(source, column))
    if not path.is_file():
        data.find_reader(path)  # says what is wrong, and what stands beside it
        raise DataProblem(f"file '{path}' does not exist", where=str(path.parent), do="check the path")
    file = open_text(path)
    mode, inferred = documents, ""
    if mode == AUTO:
        mode = _likelier_mode(file)
        inferred = f"in {path}: documents are {mode} (override with --set documents=...)"
    pieces = _paragraphs if mode == "paragraphs" else _lines
    return CorpusFile(str(path), file.sha256, mode, inferred, lambda: pieces(file))


def _likelier_mode(file: TextFile) -> str:
    """Blank lines between lines separate documents; a file without them has one in each line."""
    lines = list(itertools.islice(file.lines(), _LOOK_LINES))
    blank = sum(not line.strip() for line in lines[:-1])
    return "paragraphs" if blank >= max(1, len(lines) // 100) else "lines"


def _lines(file: TextFile) -> Iterator[Piece]:
    for number, line in enumerate(file.lines(), start=1):
        yield number, find_fault(line) or line.rstrip("\r\n")


def _paragraphs(file: TextFile) -> Iterator[Piece]:
    """Give runs of non-blank lines; a run that outgrows the limit of a line is given in parts, none of it lost."""
    held: list[str] = []
    first, size = 1, 0
    for number, line in enumerate(file.lines(), start=1):
        fault = find_fault(line)
        if not line.strip() or fault or size > data.readers.CELL_LIMIT:
            if held:
                yield first, "\n".join(held)
            held, size = [], 0
        if fault:
            yield number, fault
        elif line.strip():
            first = number if not held else first
            held.append(line.rstrip("\r\n"))
            size += len(line)
    if held:
        yield first, "\n".join(held)


def _cells(source: Source, column: str) -> Iterator[Piece]:
    for number, row in source.rows():
        if isinstance(row, BadRow):
            yield number, row
            continue
        text = data.as_text(row.get(column))
        if text is None:
            fields = {column: str(row[column])[:200]}
            yield number, BadRow("not-text", f"column '{column}' holds no text", "name another with --text", fields)
        elif SURROGATE.search(text):
            yield number, BadRow("bad-encoding", "half of a character pair", "write the row again as UTF-8", {})
        else:
            yield number, text


def read_documents(files: Sequence[CorpusFile]) -> Iterator[tuple[str, int]]:
    """Give every usable document with its key, in file order; those that `survey` counted as unusable are passed."""
    for file in files:
        for _, piece in file.pieces():
            if isinstance(piece, str) and piece.strip():
                yield piece, text_key(piece)


class _Sample:
    """A sample of documents, each as likely as any other, of bounded size: a falling limit on a hash of the text."""

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.limit = 1.0
        self.size = 0
        self.kept: list[tuple[float, int, str]] = []

    def offer(self, text: str, key: int) -> None:
        """Take the document if its turn comes; thin the sample out when it holds twice what is wanted."""
        if (turn := place(key, -1)) >= self.limit:
            return
        self.kept.append((turn, key, text))
        self.size += len(text)
        while self.size > 2 * self.characters and len(self.kept) > 1:
            self.limit /= 2
            self.kept = [item for item in self.kept if item[0] < self.limit]
            self.size = sum(len(item[2]) for item in self.kept)


def survey(
    files: Sequence[CorpusFile],
    *,
    valid: Sequence[CorpusFile] = (),
    seed: int,
    valid_share: float,
    max_rejected: float,
    sample_characters: int = SAMPLE_CHARACTERS,
) -> Survey:
    """Go through the corpus once: count it, refuse it if too much of it is unusable, draw the tokenizer's sample.

    Raises:
        DataProblem: No document at all, fewer than two different ones, or too many unusable ones; with their count,
            and where the first three stand.
    """
    counts = {"documents": 0, "characters": 0, "empty": 0, "rejected": 0}
    places: list[str] = []
    reason: BadRow | None = None
    sample = _Sample(sample_characters)
    first: list[tuple[float, int]] = []  # the two documents that would be held out first
    for file in files:
        for number, piece in file.pieces():
            if isinstance(piece, BadRow):
                counts["rejected"] += 1
                reason = reason or piece
                places += [f"{file.path}:{number}"] if len(places) < _SHOWN else []
            elif not piece.strip():
                counts["empty"] += 1
            else:
                key = text_key(piece)
                counts["documents"] += 1
                counts["characters"] += len(piece)
                sample.offer(piece, key)
                if (place(key, seed), key) not in first:
                    first = heapq.nsmallest(2, [*first, (place(key, seed), key)])
    remarks = _judge(files, counts, places, reason, max_rejected)
    if valid:
        held = Held(seed, 0.0, frozenset(key for _, key in read_documents(valid)))
    elif len(first) < 2:
        raise DataProblem(
            f"the corpus has {counts['documents']} documents and only one different text: none can be held out",
            where=files[0].path,
            do="give more text, --valid FILE, or separate documents by blank lines (--set documents=paragraphs)",
        )
    else:
        held = Held(seed, valid_share, frozenset({first[0][1]}))
    texts = tuple(text for _, key, text in sample.kept if not held.has(key))
    return Survey(**counts, remarks=tuple(remarks), sample=texts, held=held)


def _judge(
    files: Sequence[CorpusFile],
    counts: Mapping[str, int],
    places: Sequence[str],
    reason: BadRow | None,
    max_rejected: float,
) -> list[str]:
    """Refuse a corpus that is empty or too damaged; else say what was left out."""
    total = counts["documents"] + counts["rejected"]
    if reason is not None and counts["rejected"] > max_rejected * total:
        raise DataProblem(
            f"{counts['rejected']:,} of {total:,} documents cannot be used; the first: {reason.reason}",
            where=", ".join(places),
            do=f"{reason.do}; or leave them out with --set max_rejected=SHARE",
        )
    if not counts["documents"]:
        what = f"the corpus holds no text: {counts['empty']:,} rows are empty"
        raise DataProblem(what, where=", ".join(file.path for file in files), do="give a file with text")
    remarks = [file.inferred for file in files if file.inferred]
    if reason is not None:
        listed = ", ".join(places)
        remarks.append(f"{counts['rejected']:,} unusable documents were left out ({reason.kind}), e.g. {listed}")
    if counts["empty"] and any(file.mode not in {"lines", "paragraphs"} for file in files):
        remarks.append(f"{counts['empty']:,} rows have no text")
    return remarks

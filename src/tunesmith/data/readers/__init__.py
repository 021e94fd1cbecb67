"""What a file of rows is, and the catalogue of readers that turn one into rows.

A reader is a module (or any object) with `SUFFIXES` and `read`; see `Reader`. Listing the catalogue loads no reader.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import DataProblem, nearest_first

READERS = {
    "csv": "tunesmith.data.readers.delimited",
    "jsonl": "tunesmith.data.readers.jsonl",
    "parquet": "tunesmith.data.readers.parquet",
    "conll": "tunesmith.data.readers.conll",
    "datasets": "tunesmith.data.readers.datasets",
}

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".bioes": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bmes": "conll",
}

CELL_LIMIT = 1_000_000
"""Characters in one cell or value; a longer one makes its row a `BadRow` (kind "too-long")."""


@dataclass(frozen=True)
class BadRow:
    """A row that stands in the file but cannot be read as one."""

    kind: str  # a stable slug: bad-encoding, nul, wrong-columns, broken-json, bad-quotes, too-long
    reason: str
    do: str
    fields: Mapping[str, str]  # what could be read of it, each value cut to 200 characters


Row = tuple[int, dict[str, Any] | BadRow]
"""Row number (1-based; see `types.Origin`) and what stands there, by the file's own column names."""


@dataclass(frozen=True)
class Source:
    """A file that was opened, understood and found whole; its rows are read anew by each call of `rows`."""

    path: str
    format: str  # a name from READERS
    encoding: str  # utf-8, utf-8-sig, gb18030, utf-16; empty for binary formats
    delimiter: str  # empty unless format is csv with more than one column
    columns: tuple[str, ...]
    sha256: str  # over the bytes as they stand on disk
    read_rows: Callable[[], Iterator[Row]] = field(repr=False, compare=False)
    splits: tuple[str, ...] = ()  # names of the other parts that stand beside this one (datasets folders)

    def rows(self) -> Iterator[Row]:
        """Give every row in file order, one at a time; bad ones too.

        Raises:
            DataProblem: The file changed since it was opened, or became unreadable.
        """
        return self.read_rows()


class Reader(Protocol):
    """What reads one format; a module with these two names is one."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:  # noqa: N802 - a module constant
        """Endings of the file names that it reads, with the dot."""

    def read(self, path: Path) -> Source:
        """Open `path` far enough to know its columns and that it is whole."""


def find_reader(path: str | Path, given: str | Reader = "") -> Reader:
    """Give the reader for `path`: by its suffix, or by what a folder holds.

    A .txt, .tsv or .csv file that holds one token and its tag in each line is read as CoNLL.

    Args:
        path: A file, or a folder saved by the datasets library.
        given: A name from READERS, `module:NAME` of a user's own reader, or such an object. Decides when not empty.

    Raises:
        DataProblem: Nothing stands at `path`, or no reader fits it.
    """
    if given:
        return _given_reader(given)
    path = Path(path)
    try:
        is_folder = path.stat() and path.is_dir()
    except OSError as error:
        raise _missing(path, error) from error
    if is_folder:
        return _load(READERS["datasets"])
    suffix = data_suffix(path)
    if suffix not in _SUFFIXES:
        raise DataProblem(
            f"no reader for files that end in '{suffix}'" if suffix else f"file name '{path.name}' has no suffix",
            where=str(path),
            do="save the data in a format whose suffix is read: "
            + nearest_first(suffix, _SUFFIXES)
            + " (all but .parquet also with .gz), or name a reader: "
            + ", ".join(READERS),
        )
    name = _SUFFIXES[suffix]
    if name == "csv" and _is_conll(path):
        name = "conll"
    return _load(READERS[name])


def read(path: str | Path, reader: str | Reader = "") -> Source:
    """Open a file or saved folder of rows with the reader that fits it (or with the one given)."""
    return find_reader(path, reader).read(Path(path))


def data_suffix(path: Path) -> str:
    """Give the suffix that tells the format, in lower case; a final `.gz` does not count."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz")).suffix


def _is_conll(path: Path) -> bool:
    from tunesmith.data.readers import conll

    return conll.is_conll(path)


def _load(module: str) -> Reader:
    reader: Reader = importlib.import_module(module)
    return reader


def _given_reader(given: str | Reader) -> Reader:
    if not isinstance(given, str):
        return given
    if given in READERS:
        return _load(READERS[given])
    module, colon, name = given.partition(":")
    if not colon:
        raise DataProblem(f"no reader is called '{given}'", do="name one of: " + nearest_first(given, READERS))
    try:
        reader: Reader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataProblem(f"reader '{given}' cannot be loaded: {error}", do="check that the module imports") from error
    return reader


def _missing(path: Path, error: OSError) -> DataProblem:
    if not isinstance(error, FileNotFoundError):
        return DataProblem(f"cannot open '{path}': {error.strerror}", where=str(path), do="check its permissions")
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = nearest_first(path.name, beside).split(", ")[:3] if beside else []
    hint = f"; that folder has {', '.join(nearest)}" if nearest else ""
    return DataProblem(f"file '{path}' does not exist", where=str(path.parent), do=f"check the path{hint}")

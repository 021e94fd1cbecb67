"""Reader for Parquet files, by batches of rows; needs pyarrow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.readers import Row, Source
from tunesmith.data.textfile import changed
from tunesmith.errors import DataProblem, MissingExtra

SUFFIXES = (".parquet",)

_BATCH_ROWS = 1000


def read(path: Path) -> Source:
    """Open a Parquet file: its columns, its hash. Row numbers count rows from 1.

    Raises:
        DataProblem: Damaged, unreadable, or without rows.
        MissingExtra: pyarrow is not installed.
    """
    before, sha256 = stamp([path]), hash_files([path])
    with _open(path) as file:
        columns, rows = tuple(file.schema_arrow.names), file.metadata.num_rows
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        what = f"the column '{repeated[0]}' stands more than once"
        raise DataProblem(what, where=str(path), do="give each column its own name")
    if not rows:
        raise DataProblem("the file has columns and no rows", where=str(path), do="give a file with rows")
    return Source(
        path=str(path),
        format="parquet",
        encoding="",
        delimiter="",
        columns=columns,
        sha256=sha256,
        read_rows=lambda: _rows(path, before),
    )


def stamp(paths: list[Path]) -> tuple[tuple[int, int, int], ...]:
    """Give what changes when one of the files does: inode, bytes and time of the last change (nanoseconds)."""
    try:
        states = [os.stat(path) for path in paths]
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise DataProblem(what, where=str(error.filename), do="check that it is there and readable") from error
    return tuple((state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def hash_files(paths: list[Path]) -> str:
    """Give the SHA-256 over the bytes of the files, one after the other."""
    total = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    total.update(chunk)
        except OSError as error:
            what = f"the file cannot be read: {error.strerror}"
            raise DataProblem(what, where=str(path), do="check that it is a file and that you may read it") from error
    return total.hexdigest()


def missing_pyarrow() -> MissingExtra:
    """Give the error for a format that pyarrow is needed for."""
    do = "pip install pyarrow, or save the data as .csv or .jsonl"
    return MissingExtra("the package pyarrow is needed to read this format", do=do)


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise missing_pyarrow() from error
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataProblem:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataProblem(f"the Parquet file is damaged or cut off: {reason}", where=str(path), do="write it again")


def _rows(path: Path, before: tuple[tuple[int, int, int], ...]) -> Iterator[Row]:
    number = 0
    if stamp([path]) != before:
        raise changed(path)
    with _open(path) as file:
        batches = file.iter_batches(batch_size=_BATCH_ROWS)
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError) as error:  # pyarrow's exceptions are one of these two
                raise _damaged(path, error) from error
            if batch is None:
                break
            for row in batch.to_pylist():
                number += 1
                yield number, row
    if stamp([path]) != before:
        raise changed(path)

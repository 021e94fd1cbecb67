"""Reader for comma-, tab-, semicolon- and bar-separated text, with a header in the first line.

The first line that is not blank is always the header. A file without one is not guessed at here: `find_columns` refuses
it when a "column name" also stands among the labels. A file may have one column; its lines are then its cells.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.delimiter import Dialect, Malformed, find_dialect, split_rows
from tunesmith.data.readers import CELL_LIMIT, BadRow, Row, Source, data_suffix
from tunesmith.data.textfile import TextFile, find_fault, open_text, shown, too_long
from tunesmith.errors import DataProblem

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")

_SAMPLE_LINES = 1000
_SAMPLE_CHARACTERS = 1_000_000


def read(path: Path) -> Source:
    """Open a delimited file: its encoding, its delimiter, its header.

    Raises:
        DataProblem: Not readable text, no rows, or a header with empty or repeated names.
    """
    file = open_text(path)
    sample = _take_sample(file)
    dialect = find_dialect(sample, prefers_tab=data_suffix(path) == ".tsv")
    rows = split_rows(iter(sample), dialect)
    number, text, header = next(rows, (1, "", list[str]()))
    columns = _check_header(header, text, f"{path}:{number}")
    if next(rows, None) is None:
        what = "the file has a header and no rows" if header else "the file holds only blank lines"
        raise DataProblem(what, where=str(path), do="add one line for each example below a header")
    return Source(
        path=str(path),
        format="csv",
        encoding=file.encoding,
        delimiter=dialect.delimiter,
        columns=columns,
        sha256=file.sha256,
        read_rows=lambda: _rows(file, dialect, columns),
    )


def _take_sample(file: TextFile) -> list[str]:
    sample: list[str] = []
    size = 0
    for line in itertools.islice(file.lines(), _SAMPLE_LINES):
        sample.append(line)
        size += len(line)
        # At least a header and some rows, however long they are.
        if size > _SAMPLE_CHARACTERS and len(sample) > 5:
            break
    return sample


def _check_header(header: list[str] | Malformed, text: str, where: str) -> tuple[str, ...]:
    fault = find_fault(text)
    if isinstance(header, Malformed) or fault:
        reason = header.reason if isinstance(header, Malformed) else fault.reason if fault else ""
        do = "save the file as UTF-8" if fault and fault.kind == "bad-encoding" else "mend the first line of the file"
        raise DataProblem(f"the header cannot be read: {reason}", where=where, do=do)
    names = tuple(name.strip() for name in header)
    if not all(names) and names:
        what = f"column {names.index('') + 1} of {len(names)} has no name"
        do = "name it in the header (pandas writes such a column unless told `index=False`)"
        raise DataProblem(what, where=where, do=do)
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        listed = ", ".join(f"'{name}'" for name in repeated)
        raise DataProblem(f"the header names {listed} more than once", where=where, do="give each column its own name")
    return names


def _rows(file: TextFile, dialect: Dialect, columns: tuple[str, ...]) -> Iterator[Row]:
    rows = split_rows(file.lines(), dialect)
    next(rows, None)
    width = len(columns)
    for number, text, cells in rows:
        fault = find_fault(text)
        if fault is None and not isinstance(cells, Malformed) and len(cells) == width and len(text) <= CELL_LIMIT:
            yield number, dict(zip(columns, cells, strict=True))
        else:
            yield number, fault or _judge(text, cells, columns)


def _judge(text: str, cells: list[str] | Malformed, columns: tuple[str, ...]) -> BadRow | dict[str, str]:
    """Say what is wrong with a row that is not as it should be, or give it after all."""
    if isinstance(cells, Malformed):
        do = "shorten the text" if cells.kind == "too-long" else "close the quote, or double each quote inside a cell"
        return BadRow(cells.kind, cells.reason, do, {"line": shown(text)})
    fields = {name: shown(cell) for name, cell in zip(columns, cells, strict=False)}
    if len(cells) != len(columns):
        reason = f"the row has {len(cells)} cells; the header has {len(columns)}"
        if len(cells) > len(columns):
            fields["(further cells)"] = shown("; ".join(cells[len(columns) :]))
            return BadRow("wrong-columns", reason, 'put cells that hold the delimiter in "double quotes"', fields)
        return BadRow("wrong-columns", reason, "add the missing cells", fields)
    if any(len(cell) > CELL_LIMIT for cell in cells):
        return too_long(text, "a cell")
    return dict(zip(columns, cells, strict=True))

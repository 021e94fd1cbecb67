"""Reader for JSON Lines (one object in each line), and for a `.json` file that holds one array of objects.

Values stay what they are in JSON: numbers become text only where a text or label is asked for (`columns.as_text`),
lists (several labels, tokens) are kept. An array is held in memory whole; lines are streamed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.data.readers import CELL_LIMIT, BadRow, Row, Source
from tunesmith.data.textfile import TextFile, find_fault, open_text, shown, too_long
from tunesmith.errors import DataProblem

SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json", ".jsonl.gz", ".ndjson.gz", ".jsonlines.gz", ".json.gz")

_SAMPLE_ROWS = 1000


def read(path: Path) -> Source:
    """Open a file of JSON objects; its columns are the keys of the first 1000 objects.

    Raises:
        DataProblem: Not readable text, no rows, or no object where objects should stand.
    """
    file = open_text(path)
    first = next((line for line in file.lines() if line.strip()), "")
    is_array = first.lstrip().startswith("[") and not _is_whole_list(first, path)

    def read_rows() -> Iterator[Row]:
        return _array_rows(file) if is_array else _line_rows(file)

    sample = [row for _, row in itertools.islice(read_rows(), _SAMPLE_ROWS)]
    if not sample:
        raise DataProblem("the file holds no rows", where=str(path), do="write one JSON object in each line")
    columns = {key: None for row in sample if isinstance(row, dict) for key in row}
    if not columns:
        reason = next((row.reason for row in sample if isinstance(row, BadRow)), "the objects are empty")
        what = f"none of the first {len(sample)} rows is a JSON object with keys: {reason}"
        do = 'write one object in each line, e.g. {"text": "...", "label": "..."}'
        raise DataProblem(what, where=str(path), do=do)
    return Source(
        path=str(path),
        format="jsonl",
        encoding=file.encoding,
        delimiter="",
        columns=tuple(columns),
        sha256=file.sha256,
        read_rows=read_rows,
    )


def _is_whole_list(line: str, path: Path) -> bool:
    """Tell whether a line of a JSON Lines file is a list by itself (a broken row, not the start of an array)."""
    if ".json" in path.suffixes:
        return False
    try:
        items = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return not all(isinstance(item, dict) for item in items)


def _line_rows(file: TextFile) -> Iterator[Row]:
    for number, line in enumerate(file.lines(), start=1):
        if line.isspace():
            continue
        fault = find_fault(line)
        yield number, fault or _parse(line)


def _parse(line: str) -> dict[str, Any] | BadRow:
    try:
        value = json.loads(line, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        return _broken("the line is nested too deeply", line)
    except ValueError as error:
        return _broken(f"the line is not JSON: {error}", line)
    return _judge(value, line)


def _judge(value: Any, line: str) -> dict[str, Any] | BadRow:
    if not isinstance(value, dict):
        return _broken(f"the row is a JSON {_JSON_NAMES.get(type(value), 'number')}, not an object", line)
    if len(line) > CELL_LIMIT and any(isinstance(item, str) and len(item) > CELL_LIMIT for item in value.values()):
        return too_long(line, "a value")
    return value


_JSON_NAMES = {list: "list", str: "string", bool: "boolean", type(None): "null"}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _broken(reason: str, line: str) -> BadRow:
    return BadRow("broken-json", reason, "write the row as one JSON object in one line", {"line": shown(line)})


def _array_rows(file: TextFile) -> Iterator[Row]:
    """Give the items of the one array that the file holds, numbered from 1."""
    text = "".join(file.lines())
    fault = find_fault(text) if len(text) < CELL_LIMIT else None
    if fault and fault.kind != "too-long":
        raise DataProblem(f"the JSON array cannot be read: {fault.reason}", where=str(file.path), do=fault.do)
    try:
        items = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{file.path}:{error.lineno}"
        raise DataProblem(f"the JSON array is broken: {error.msg}", where=where, do="mend it there") from error
    except (ValueError, RecursionError) as error:
        what = f"the JSON array cannot be read: {error}"
        raise DataProblem(what, where=str(file.path), do="write one object in each line (.jsonl)") from error
    for number, item in enumerate(items, start=1):
        yield number, _judge(item, json.dumps(item, ensure_ascii=False))

"""The copies of an unfinished run, kept in its folder: a resumed run learns from the very same rows.

One object with the account, then one for each copy: {"id": ..., "of": place of its row, "fields": ..., "target": ...}.
It holds the users' own texts and goes when the run is finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import write_file
from tunesmith.data.augment.making import Made
from tunesmith.data.store import Records
from tunesmith.types import Augmentation, Record, Span, from_json, to_json


def write_made(path: Path, made: Made, records: Sequence[Record]) -> None:
    """Keep copies beside the run that learns from them.

    Args:
        path: The file.
        made: The copies, and their account.
        records: The training rows that they are copies of; ids tell which is whose.
    """
    write_file(path, _lines(made, records))


def _lines(made: Made, records: Sequence[Record]) -> Iterator[bytes]:
    places = {record.id: place for place, record in enumerate(records)} if made.rows else {}
    yield _line({"account": made.account})
    for row in made.rows:
        of = places[row.id.rpartition("~")[0]]
        yield _line({"id": row.id, "of": of, "fields": row.fields, "target": row.target})


def _line(content: Any) -> bytes:
    return json.dumps(to_json(content), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def read_made(path: Path, records: Sequence[Record]) -> Made | None:
    """Read copies again; None where there are none, or not of these rows.

    Args:
        path: The file.
        records: The training rows: they tell of which type fields and targets are.
    """
    if not path.is_file():
        return None
    found = Records()
    try:
        with path.open("rb") as file:
            head, *rest = (json.loads(line.decode("utf-8", "surrogatepass")) for line in file)
        for row in rest:
            own = records[row["of"]]
            fields = {name: _like(own.fields[name], value) for name, value in row["fields"].items()}
            found.append(Record(row["id"], fields, _like(own.target, row["target"]), own.origin))
        account = tuple(from_json(Augmentation, each) for each in head["account"])
    except (ValueError, KeyError, IndexError, TypeError):  # cut short, or of other rows: they are made anew
        return None
    return Made(found.settled(), account)


def _like(known: Any, value: Any) -> Any:
    """Give a value that was read in the type of the one that its row has."""
    if isinstance(known, Span):
        return from_json(Span, value)
    if isinstance(known, tuple):
        return tuple(_like(known[0] if known else (), item) for item in value)
    return value

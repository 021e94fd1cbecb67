"""Training rows that a task shows the model with every question: where they come from, and the file that keeps them.

They are part of the bundle and hold the users' own texts: whoever is given the bundle can read them. Any task whose
class has `with_rows(records)` and `rows` is given its training rows; all others have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.tasks import Task
from tunesmith.types import Origin, Record, to_json

FILE = "shown_rows.jsonl"


def with_rows(task: Task, records: Sequence[Record]) -> Task:
    """Give the task with the rows that it may show; a task that shows none stays as it is."""
    shows: Any = task
    return shows.with_rows(tuple(records)) if _shows_rows(task) else task


def kept_rows(task: Task) -> Sequence[Record]:
    """Give the rows that a task shows."""
    shows: Any = task
    return tuple(shows.rows) if _shows_rows(task) else ()


def _shows_rows(task: Task) -> bool:
    return hasattr(type(task), "with_rows")


def write_rows(records: Sequence[Record]) -> str:
    """Give records as lines of JSON."""
    rows = ({"id": record.id, "fields": record.fields, "target": record.target} for record in records)
    return "".join(json.dumps(to_json(row), ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> tuple[Record, ...]:
    """Read what `write_rows` gave; lists in a target become tuples again, as tasks make them."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        target = tuple(row["target"]) if isinstance(row["target"], list) else row["target"]
        found.append(Record(row["id"], row["fields"], target, Origin(str(path), number)))
    return tuple(found)

"""The rows of a finished run, read again from where they were: a bundle holds their ids and no texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.evaluate import columns_for, read_labelled
from tunesmith.bundle.load import Bundle
from tunesmith.data.layout import Cells
from tunesmith.data.replay import FILE, KeptRow, read_kept
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.tasks import Task
from tunesmith.types import Origin, Record

MOST = 2000  # rows that are enough to measure on
_WORDS = {"train": "training", "valid": "validation", "test": "test"}


def measuring_rows(bundle: Bundle, path: str | Path = "") -> Sequence[Record]:
    """Give labelled rows to measure a run on: of a file, else its own validation rows; at most 2,000, evenly spaced.

    Args:
        bundle: Of the run.
        path: A labelled file with the columns of the training; none for the validation rows.

    Raises:
        DataProblem: The file cannot be used; or the validation rows are not where they were, or have changed.
    """
    if path:
        records, _ = read_labelled(bundle, path)
        known = set(bundle.labels)
        found = [one for one in records if set(bundle.task.labels_of(one.target)) <= known]
    else:
        found = part_rows(bundle, "valid")
    step = max(1.0, len(found) / MOST)
    return [found[int(place * step)] for place in range(min(MOST, len(found)))]


def record_of(task: Task, row: KeptRow) -> Record:
    """Give a kept row as a Record.

    Raises:
        Fault: The task cannot use it.
    """
    cells = Cells(row.cells)
    fields = task.read_input(cells)
    return Record(row.id, fields, task.read_target(cells, fields), Origin(row.part, row.step))


def part_rows(bundle: Bundle, part: str) -> list[Record]:
    """Give the training, validation or test rows of a run.

    Args:
        bundle: Of the run.
        part: train, valid or test.

    Raises:
        DataProblem: The rows are not where they were, or have changed.
    """
    if (kept := bundle.path / FILE).is_file():  # an update keeps some of each part, and its files are gone
        return [record_of(bundle.task, row) for row in read_kept(kept) if row.part == part]
    files = bundle.plan.data["files"]
    file = part if part in files else "data"
    for path in places_of(bundle, file):
        try:
            source = data.read(path)
        except (TunesmithError, OSError):  # it may be in the other place; what is said below names both
            continue
        if source.sha256 == files[file]["sha256"]:
            ids = set(json.loads((bundle.path / "splits.json").read_text(encoding="utf-8"))[part])
            columns = columns_for(bundle, source, {})
            checked = data.check(source, columns, layout=bundle.task, known_labels=bundle.labels)
            if found := [record for record in checked.records if record.id in ids]:
                return found
    raise DataProblem(
        f"the {_WORDS[part]} rows of this run cannot be read again: {files[file]['path']} is gone or has changed",
        where=str(bundle.path / "plan.json"),
        do="give labelled rows to measure on: --data FILE" if part != "train" else "put the file back where it was",
    )


def places_of(bundle: Bundle, part: str) -> list[str]:
    """Give where a file of the run may be: as the recipe says, which is absolute, and as the plan does."""
    import yaml

    recipe: Any = yaml.safe_load((bundle.path / "recipe.yaml").read_text(encoding="utf-8"))
    named = str(recipe.get(part) or "") if isinstance(recipe, dict) else ""
    planned = str(bundle.plan.data["files"][part]["path"])
    return [path for path in dict.fromkeys((named, planned)) if path and Path(path).exists()]

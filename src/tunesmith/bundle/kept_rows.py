"""The validation rows of a finished run, read again from where they were: a bundle holds their ids and no texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.evaluate import columns_for, read_labelled
from tunesmith.bundle.load import Bundle
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.types import Record

MOST = 2000  # rows that are enough to measure on


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
        found = _valid_rows(bundle)
    step = max(1.0, len(found) / MOST)
    return [found[int(place * step)] for place in range(min(MOST, len(found)))]


def _valid_rows(bundle: Bundle) -> list[Record]:
    files = bundle.plan.data["files"]
    part = "valid" if "valid" in files else "data"
    for path in _places(bundle, part):
        try:
            source = data.read(path)
        except (TunesmithError, OSError):  # it may be in the other place; what is said below names both
            continue
        if source.sha256 == files[part]["sha256"]:
            ids = set(json.loads((bundle.path / "splits.json").read_text(encoding="utf-8"))["valid"])
            columns = columns_for(bundle, source, {})
            checked = data.check(source, columns, layout=bundle.task, known_labels=bundle.labels)
            if found := [record for record in checked.records if record.id in ids]:
                return found
    raise DataProblem(
        f"the validation rows of this run cannot be read again: {files[part]['path']} is gone or has changed",
        where=str(bundle.path / "plan.json"),
        do="give labelled rows to measure on: --data FILE",
    )


def _places(bundle: Bundle, part: str) -> list[str]:
    """Give where a file of the run may be: as the recipe says, which is absolute, and as the plan does."""
    import yaml

    recipe: Any = yaml.safe_load((bundle.path / "recipe.yaml").read_text(encoding="utf-8"))
    named = str(recipe.get(part) or "") if isinstance(recipe, dict) else ""
    planned = str(bundle.plan.data["files"][part]["path"])
    return [path for path in dict.fromkeys((named, planned)) if path and Path(path).exists()]

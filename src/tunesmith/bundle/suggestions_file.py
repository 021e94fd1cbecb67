"""Write the rows that are worth a label into a file that a person can fill in and add to the data."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync
from tunesmith.bundle.suggest import Suggestions
from tunesmith.data.formula import WholeRows, neutral
from tunesmith.errors import PlanProblem

_FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}


def added_columns(found: Suggestions) -> dict[str, str]:
    """Give what is added -> the column that it is written to: `rank`, `score`, `why`; others where these are taken."""
    taken = {*found.columns, found.label_column}
    return {name: name if name not in taken else f"suggest_{name}" for name in ("rank", "score", "why")}


def write_suggestions(found: Suggestions, out: str | Path, *, may_overwrite: bool = False) -> None:
    """Write the chosen rows with the file's own columns, an empty one for the label if it has none, and why.

    Args:
        found: What to write.
        out: A .csv, .tsv or .jsonl file; it appears when it is whole.
        may_overwrite: Replace `out` when it is there.

    Raises:
        PlanProblem: `out` is there, or has no format that is written.
        MachineProblem: It cannot be written.
    """
    target = Path(out)
    demand_target(target, found.file, may_overwrite=may_overwrite)
    added = added_columns(found)
    label = [] if found.label_column in found.columns else [found.label_column]
    names = [*found.columns, *label, *added.values()]
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{target.name}")
    with explain_os_errors(target, "writing the suggestions"):
        try:
            with temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
                rows = (
                    {**dict.fromkeys(label, ""), **each.columns, **{added[name]: getattr(each, name) for name in added}}
                    for each in found.rows
                )
                if target.suffix == ".jsonl":
                    file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
                else:
                    writer = csv.DictWriter(WholeRows(file), names, delimiter=_FORMATS[target.suffix])
                    writer.writeheader()
                    writer.writerows({name: neutral(_as_cell(value)) for name, value in row.items()} for row in rows)
            sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def demand_target(target: Path, path: str, *, may_overwrite: bool) -> None:
    """Refuse a file that cannot or must not be written; asked before the work begins.

    Raises:
        PlanProblem: `target` is there, is the input itself, or has no format that is written.
    """
    if target.suffix not in _FORMATS:
        raise PlanProblem(
            f"suggestions cannot be written as '{target.suffix}'", where=str(target), do="use .csv, .tsv or .jsonl"
        )
    if target.exists() and not may_overwrite:
        raise PlanProblem(f"{target} is there already", where=str(target), do="choose another --out, or --force")
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise PlanProblem("--out is the input file itself", where=str(target), do="choose another --out")


def _as_cell(value: Any) -> Any:
    """Give what a table can hold: lists and objects as JSON, so that they can be read again."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value

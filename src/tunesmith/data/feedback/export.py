"""Feedback as a labelled file in the run's own columns, ready for `tunesmith train`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.data.checks import write_rejected
from tunesmith.data.feedback.learnable import cells_of, records_of
from tunesmith.data.formula import WholeRows, neutral
from tunesmith.data.layout import Layout
from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.types import Feedback, Rejected, to_json

_FORMATS = {".csv": ",", ".tsv": "\t", ".jsonl": ""}
DETAILS = ("feedback_id", "answered", "is_correct", "comment", "by", "at")
"""Columns that `has_details` adds."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    out: Path
    rows: int
    neutralised: int  # cells of a table that got an apostrophe, so that no spreadsheet runs them
    rejected: tuple[Rejected, ...]
    rejected_in: Path | None  # where these are listed


def export_rows(
    rows: Iterable[Feedback],
    layout: Layout,
    out: str | Path,
    *,
    columns: Mapping[str, str],
    has_details: bool = False,
    may_overwrite: bool = False,
) -> Exported:
    """Write feedback that says a right answer as rows of a labelled file; the file appears when it is whole.

    A cell of a table that a spreadsheet would run as a formula (it begins with =, +, -, @ or a tab, and is no number)
    gets an apostrophe in front; JSON Lines keep every character. Rows that the task cannot read are not written, but
    listed in `OUT.rejected.jsonl`.

    Args:
        rows: E.g. `FeedbackStore.rows(model)`.
        layout: The task.
        out: A .csv, .tsv or .jsonl file.
        columns: Role -> column of the file that the run was trained on; other roles keep their own names.
        has_details: Add who said it, when, and what the model had answered.
        may_overwrite: Replace `out` where it is there.

    Raises:
        PlanProblem: `out` is there already, or has no format that is written.
        MachineProblem: It cannot be written.
    """
    target = Path(out)
    _check_target(target, may_overwrite=may_overwrite)
    given = list(rows)
    found = records_of(given, layout)
    usable = {record.id for record in found.records}
    lines = [
        _line(row, layout, columns, has_details=has_details, is_table=target.suffix != ".jsonl")
        for row in given
        if row.id in usable
    ]
    neutralised = _write(lines, target)
    listed = target.with_name(f"{target.name}.rejected.jsonl") if found.rejected else None
    if listed is not None:
        write_rejected(found.rejected, listed)
    return Exported(target, len(lines), neutralised, found.rejected, listed)


def _check_target(target: Path, *, may_overwrite: bool) -> None:
    if target.suffix not in _FORMATS:
        what = f"feedback cannot be written as '{target.suffix}'"
        raise PlanProblem(what, where=str(target), do="use .csv, .tsv or .jsonl")
    if target.exists() and not may_overwrite:
        raise PlanProblem(f"{target} is there already", where=str(target), do="choose another --out, or --force")


def _line(
    row: Feedback, layout: Layout, columns: Mapping[str, str], *, has_details: bool, is_table: bool
) -> dict[str, Any]:
    line = {columns.get(role, role): value for role, value in cells_of(row, layout).items()}
    if has_details:
        at = datetime.fromtimestamp(row.at, UTC).isoformat(timespec="seconds")
        values = (row.id, to_json(row.answered), row.is_correct, row.comment, row.by, at)
        line |= {_free(name, line): value for name, value in zip(DETAILS, values, strict=True)}
    if not is_table:
        return line
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
        for name, value in line.items()
    }


def _free(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else f"{name}_of_feedback"


def _write(lines: Sequence[dict[str, Any]], target: Path) -> int:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", errors="replace", newline="") as file:
            if target.suffix == ".jsonl":
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                neutralised = 0
            else:
                names = list(dict.fromkeys(name for line in lines for name in line))
                writer = csv.DictWriter(WholeRows(file), names, delimiter=_FORMATS[target.suffix])
                writer.writerow({name: neutral(name) for name in names})
                neutralised = 0
                for line in lines:
                    safe = {name: neutral(value) for name, value in line.items()}
                    neutralised += sum(safe[name] is not line[name] for name in line)
                    writer.writerow(safe)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        what = f"the rows cannot be written: {error.strerror}"
        raise MachineProblem(what, where=str(target), do="free some space or choose another folder") from error
    finally:
        partial.unlink(missing_ok=True)
    return neutralised

"""Score a bundle on a labelled file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith import data
from tunesmith.bundle.load import Bundle, load
from tunesmith.errors import DataProblem
from tunesmith.types import Inspection, Origin, Problem, Record, Scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of one bundle on one file, and what was in the file."""

    bundle: Bundle
    scores: Scores
    inspection: Inspection


def evaluate(
    run: str | Path | Bundle, path: str | Path, *, text: str = "", label: str = "", max_rejected: float = 0.05
) -> Evaluation:
    """Answer every row of a labelled file and score the answers, with intervals.

    Args:
        run: A run folder, or a bundle that is open.
        path: The labelled file.
        text: Column that holds the text; else the one the bundle was trained on, else inferred.
        label: Column that holds the label; likewise.
        max_rejected: Largest share of unusable rows.

    Raises:
        BundleProblem: The run folder is missing, unfinished or damaged.
        DataProblem: The file has no usable row, too many unusable ones, or not one label that the bundle knows.
    """
    bundle = run if isinstance(run, Bundle) else load(run)
    records, inspection = read_labelled(bundle, path, text=text, label=label, max_rejected=max_rejected)
    return Evaluation(bundle, bundle.score(records), inspection)


def read_labelled(
    bundle: Bundle, path: str | Path, *, text: str = "", label: str = "", max_rejected: float = 0.05
) -> tuple[tuple[Record, ...], Inspection]:
    """Read a labelled file with the columns that the bundle knows."""
    source = data.read(path)
    given = columns_for(bundle, source.columns, text=text, label=label)
    columns = data.find_columns(source, bundle.task.needs, given)
    checked = data.check(source, columns, known_labels=bundle.labels)
    if not checked.used or (checked.rejected and len(checked.rejected) >= max_rejected * checked.rows):
        first = checked.rejected[0] if checked.rejected else None
        raise DataProblem(
            f"{len(checked.rejected)} of {checked.rows} rows cannot be used"
            + (f"; the first: {first.reason}" if first else ""),
            where=str(first.origin) if first else str(path),
            do=f"look at them with: tunesmith inspect {path}; or allow more with --max-rejected 0.5",
        )
    if not set(checked.label_counts) & set(bundle.labels):
        raise DataProblem(
            f"this file has none of the labels that the run answers with; it has {_listed(checked.label_counts)}",
            where=str(path),
            do=f"choose the right column with --label; the run knows {_listed(dict.fromkeys(bundle.labels, 0))}",
        )
    trained_on = bundle.plan.data["files"].get("data", {}).get("sha256")
    extra = [*_own_data(source, trained_on == source.sha256), *_unknown_labels(checked, bundle.labels)]
    return checked.records, data.summarise(source, columns, checked, extra=extra)


def _own_data(source: data.Source, is_own: bool) -> list[Problem]:
    """Warn where the run was trained on most of this very file."""
    if not is_own:
        return []
    what = "this is the file that the run was trained on: scores on it flatter"
    return [Problem("warning", "own-data", what, "evaluate on rows that training never saw", Origin(source.path, 1))]


def _unknown_labels(checked: data.Checked, labels: tuple[str, ...]) -> list[Problem]:
    """Warn of rows that the run cannot get right, because it never saw their label."""
    unknown = {label: count for label, count in checked.label_counts.items() if label not in labels}
    if not unknown:
        return []
    rows = sum(unknown.values())
    what = f"{rows} rows have a label that the run does not know ({_listed(unknown)}); they count as mistakes"
    return [Problem("warning", "unknown-label", what, "train with rows of these labels, or take them out", count=rows)]


def columns_for(bundle: Bundle, columns: tuple[str, ...], **wanted: str) -> dict[str, str]:
    """Give role -> column: as the user said, else as in training where the file has that column."""
    trained = {role: column for role, column in bundle.plan.data["roles"].items() if role in bundle.task.needs}
    given = {role: column for role, column in trained.items() if column in columns}
    return given | {role: column for role, column in wanted.items() if column}


def _listed(labels: Mapping[str, int]) -> str:
    names = [repr(name) for name in list(labels)[:5]]
    return ", ".join(names) + (", ..." if len(labels) > 5 else "")

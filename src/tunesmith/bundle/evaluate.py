"""Score a bundle on a labelled file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith import data
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.robustness import Robustness, measure_robustness
from tunesmith.errors import DataProblem
from tunesmith.tasks import Task
from tunesmith.types import Inspection, Origin, Problem, Record, Scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of one bundle on one file, and what was in the file."""

    bundle: Bundle
    scores: Scores
    inspection: Inspection
    robustness: Robustness | None = None  # measured where strengths were given


def evaluate(
    run: str | Path | Bundle,
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    max_rejected: float = 0.05,
    strengths: Sequence[float] = (),
    engine: str = "auto",
) -> Evaluation:
    """Answer every row of a labelled file and score the answers, with intervals.

    Args:
        run: A run folder, or a bundle that is open.
        path: The labelled file.
        columns: Role -> column, e.g. {"text": "review"}; others as in training where they are there, else inferred.
        max_rejected: Largest share of unusable rows.
        strengths: Shares of letters, or words, that are changed to measure robustness; none: it is not measured.
        engine: What answers, see `load`; of no effect on a bundle that is open.

    Raises:
        BundleProblem: The run folder is missing, unfinished or damaged.
        DataProblem: The file has no usable row, too many unusable ones, or not one label that the bundle knows.
        PlanProblem: Robustness cannot be measured for this task.
    """
    bundle = run if isinstance(run, Bundle) else load(run, engine=engine)
    records, inspection = read_labelled(bundle, path, columns=columns, max_rejected=max_rejected)
    robustness = measure_robustness(bundle, records, strengths=strengths) if strengths else None
    return Evaluation(bundle, bundle.score(records), inspection, robustness)


def read_labelled(
    bundle: Bundle, path: str | Path, *, columns: Mapping[str, str] | None = None, max_rejected: float = 0.05
) -> tuple[Sequence[Record], Inspection]:
    """Read a labelled file with the columns that the bundle knows."""
    source = data.read(path)
    found = columns_for(bundle, source, columns or {})
    checked = data.check(source, found, layout=bundle.task, known_labels=bundle.labels)
    if not checked.used or (checked.rejected and len(checked.rejected) >= max_rejected * checked.rows):
        first = checked.rejected[0] if checked.rejected else None
        raise DataProblem(
            f"{len(checked.rejected)} of {checked.rows} rows cannot be used"
            + (f"; the first: {first.reason}" if first else ""),
            where=str(first.origin) if first else str(path),
            do=f"look at them with: tunesmith inspect {path}; or allow more with --max-rejected 0.5",
        )
    if bundle.labels and not set(checked.label_counts) & set(bundle.labels):
        raise DataProblem(
            f"this file has none of the labels that the run answers with; it has {_listed(checked.label_counts)}",
            where=str(path),
            do="choose the right column with --label or --columns; the run knows "
            + _listed(dict.fromkeys(bundle.labels, 0)),
        )
    trained_on = bundle.plan.data["files"].get("data", {}).get("sha256")
    extra = [*_own_data(source, trained_on == source.sha256), *_unknown_labels(bundle.task, checked, bundle.labels)]
    return checked.records, data.summarise(source, found, checked, extra=extra)


def _own_data(source: data.Source, is_own: bool) -> list[Problem]:
    """Warn where the run was trained on most of this very file."""
    if not is_own:
        return []
    what = "this is the file that the run was trained on: scores on it flatter"
    return [Problem("warning", "own-data", what, "evaluate on rows that training never saw", Origin(source.path, 1))]


def _unknown_labels(task: Task, checked: data.Checked, labels: tuple[str, ...]) -> list[Problem]:
    """Warn of rows that the run cannot get right, because it never saw their label."""
    unknown = {label: count for label, count in checked.label_counts.items() if label not in labels}
    if not unknown or not labels:
        return []
    rows = sum(not set(task.labels_of(record.target)) <= set(labels) for record in checked.records)
    what = f"{rows} rows have a label that the run does not know ({_listed(unknown)}); they count as mistakes"
    return [Problem("warning", "unknown-label", what, "train with rows of these labels, or take them out", count=rows)]


def columns_for(
    bundle: Bundle, source: data.Source, wanted: Mapping[str, str], *, needs_targets: bool = True
) -> data.Columns:
    """Give the columns of a file: as the user said, else as in training where the file has them, else inferred."""
    task = bundle.task
    wanted = data.as_roles(task.forms, {role: column for role, column in wanted.items() if column})
    roles = bundle.plan.data["roles"]
    form = data.find_form(source, task.forms, wanted, needs_targets=needs_targets)
    trained = next((one for one in task.forms if set(one.needs) <= set(roles)), form)
    if all(roles[role] in source.columns for role in (trained.needs if needs_targets else trained.inputs)):
        form = trained
    needs = form.needs if needs_targets else form.inputs
    given = {role: roles[role] for role in (*needs, *form.optional) if roles.get(role) in source.columns}
    given |= {role: column for role, column in wanted.items() if role in needs or role in form.optional}
    return data.find_columns(source, needs, given, optional=form.optional)


def _listed(labels: Mapping[str, int]) -> str:
    names = [repr(name) for name in list(labels)[:5]]
    return ", ".join(names) + (", ..." if len(labels) > 5 else "")

"""What an update learns from: new rows from a file or from feedback, and old ones from the parent."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import data
from tunesmith.bundle.evaluate import columns_for
from tunesmith.bundle.kept_rows import record_of
from tunesmith.bundle.load import Bundle
from tunesmith.data.feedback.rows import is_labelled
from tunesmith.data.layout import Fault
from tunesmith.data.mask import Masker
from tunesmith.data.normalise import fields_key
from tunesmith.data.replay import FILE, PARTS, KeptRow, read_kept
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.tasks import Task
from tunesmith.types import Feedback, Record, to_json


@dataclass(frozen=True)
class Rows:
    """Rows, and what has to be said of how they came about."""

    rows: tuple[KeptRow, ...]
    remarks: tuple[str, ...] = ()
    is_whole: bool = True  # whether all rows of the parent are here, not only what it kept
    used: tuple[Feedback, ...] = ()  # the feedback among them
    superseded: tuple[str, ...] = ()  # ids of feedback in whose place a later word on the same input counts

    def part(self, name: str) -> list[KeptRow]:
        """Give the rows of one part."""
        return [row for row in self.rows if row.part == name]


def records_of(task: Task, rows: Iterable[KeptRow]) -> list[Record]:
    """Give the rows as Records; they were readable when they were kept."""
    return [record_of(task, row) for row in rows]


_MASKER = Masker()


def key_of(record: Record) -> int:
    """Give a key of what a row asks, personal data masked: kept rows and feedback are, and files are not."""
    return fields_key(_MASKER.mask_fields(record.fields))


def labels_of(task: Task, row: KeptRow) -> tuple[str, ...]:
    """Give the labels in a row's target."""
    return task.labels_of(record_of(task, row).target)


def rows_of_file(bundle: Bundle, path: str | Path, *, part: str, step: int, max_rejected: float = 0.05) -> Rows:
    """Read the labelled rows of a file with the columns that the parent knows.

    Raises:
        DataProblem: The file cannot be used, or too many of its rows cannot.
    """
    source = data.read(path)
    columns = columns_for(bundle, source, {})
    checked = data.check(source, columns, layout=bundle.task, known_labels=bundle.labels)
    if not checked.used or (checked.rejected and len(checked.rejected) >= max_rejected * checked.rows):
        first = f"; the first: {checked.rejected[0].reason}" if checked.rejected else ""
        raise DataProblem(
            f"{len(checked.rejected)} of {checked.rows} rows cannot be used{first}",
            where=str(checked.rejected[0].origin) if checked.rejected else str(path),
            do=f"look at them with: tunesmith inspect {path}",
        )
    remarks = _said(path, checked.rejected)
    used = {record.origin.row: record.id for record in checked.records}
    roles = {role: column for role, column in columns.roles.items() if role != "id"}
    rows = _raw_rows(source, used, roles, parts=dict.fromkeys(used.values(), part), step=step)
    return Rows(tuple(rows), remarks)


def _said(path: str | Path, rejected: Sequence[Any]) -> tuple[str, ...]:
    if not rejected:
        return ()
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row.kind for row in rejected).most_common())
    examples = "; ".join(f"{row.origin}: {row.reason}" for row in rejected[:3])
    return (f"{len(rejected)} rows of {path} were left out ({kinds}); {examples}",)


def _raw_rows(
    source: data.Source, used: Mapping[int, str], roles: Mapping[str, str], *, parts: Mapping[str, str], step: int
) -> Iterable[KeptRow]:
    """Yield the cells of the rows in use, by role, as the file has them."""
    for number, found in source.rows():
        part = parts.get(used.get(number, ""))
        if part is not None and isinstance(found, dict):
            cells = {role: to_json(found[column]) for role, column in roles.items() if column in found}
            yield KeptRow(f"{step}-{used[number]}", part, step, cells)


def old_rows(bundle: Bundle) -> Rows:
    """Give the rows that the parent learnt from and was measured on: those it keeps, else those of its files.

    Raises:
        DataProblem: It keeps none, and its files are gone or have changed.
    """
    if (path := bundle.path / FILE).is_file():
        return Rows(tuple(read_kept(path)), is_whole=False)
    ids: dict[str, list[str]] = json.loads((bundle.path / "splits.json").read_text(encoding="utf-8"))
    found: list[KeptRow] = []
    files = bundle.plan.data["files"]
    for name in files:
        wanted = {part: ids[part] for part in PARTS if (part if part in files else "data") == name}
        parts = {record_id: part for part, some in wanted.items() for record_id in some}
        source = _same_source(bundle, name)
        columns = columns_for(bundle, source, {})
        checked = data.check(source, columns, layout=bundle.task, known_labels=bundle.labels)
        used = {record.origin.row: record.id for record in checked.records}
        roles = {role: column for role, column in columns.roles.items() if role != "id"}
        found += _raw_rows(source, used, roles, parts=parts, step=0)
    # Ids may begin anew in every file; "tr" and "te" tell a training row from a test row.
    return Rows(tuple(dataclasses.replace(row, id=f"{row.id}-{row.part[:2]}") for row in found))


def _same_source(bundle: Bundle, name: str) -> data.Source:
    """Open a file of the parent's training again, where it is and as it was."""
    import yaml

    file = bundle.plan.data["files"][name]
    recipe: Any = yaml.safe_load((bundle.path / "recipe.yaml").read_text(encoding="utf-8"))
    for path in dict.fromkeys((str(recipe.get(name) or ""), str(file["path"]))):
        if not path or not Path(path).exists():
            continue
        try:
            source = data.read(path)
        except (TunesmithError, OSError):  # it may be in the other place; what is said below names both
            continue
        if source.sha256 == file["sha256"]:
            return source
    raise DataProblem(
        f"the rows of this run cannot be read again: {file['path']} is gone or has changed, and it keeps none itself",
        where=str(bundle.path / "plan.json"),
        do="put the file back where it was; or update without old rows: --strategy ewc or naive, with --test FILE",
    )


def rows_of_feedback(bundle: Bundle, feedback: Iterable[Feedback], *, step: int, per_person: int) -> Rows:
    """Make labelled rows of what people said: a corrected answer, else one that was confirmed.

    The latest word on the same input counts. What cannot be used is counted, with the reason; so is what one person
    gave beyond `per_person` rows.

    Args:
        bundle: The parent.
        feedback: In the order of time.
        step: Of this update.
        per_person: Rows that one `by` may give.
    """
    latest: dict[int, tuple[KeptRow, Feedback]] = {}
    superseded: list[str] = []
    left_out: Counter[str] = Counter()
    for each in feedback:
        if not is_labelled(each):
            left_out["no answer was given or confirmed"] += 1
            continue
        row = KeptRow(f"{step}-{each.id}", "", step, _cells(bundle.task, each), each.id, each.by)
        try:
            record = record_of(bundle.task, row)
        except Fault as fault:
            left_out[fault.reason] += 1
            continue
        key = key_of(record)
        if key in latest:
            superseded.append(latest[key][1].id)
        latest[key] = (row, each)
    left_out["a later one is about the same input"] += len(superseded)
    kept, counts = [], Counter[str]()
    for row, each in latest.values():
        counts[each.by] += 1
        if counts[each.by] <= per_person:
            kept.append((row, each))
    for by, count in counts.items():
        if count > per_person:
            left_out[f"'{by}' gave more than {per_person}"] += count - per_person
    said = [f"{count} pieces of feedback were left out: {reason}" for reason, count in left_out.items() if count]
    used = tuple(each for _, each in kept)
    return Rows(tuple(row for row, _ in kept), tuple(said), used=used, superseded=tuple(superseded))


def _cells(task: Task, feedback: Feedback) -> dict[str, Any]:
    """Give what a labelled file would hold: the input's roles, and the target's."""
    value = feedback.answered if feedback.corrected is None else feedback.corrected
    form = next((form for form in task.forms if set(form.inputs) <= set(feedback.fields)), task.forms[0])
    targets = list(form.targets)
    if isinstance(value, Mapping) and set(value) & set(targets):
        return {**feedback.fields, **value}
    return {**feedback.fields, **dict.fromkeys(targets[:1], value)}


def without_outdated(task: Task, old: Sequence[KeptRow], new: Sequence[KeptRow]) -> tuple[list[KeptRow], int]:
    """Give the old rows but those whose input stands among the new ones with another answer; and how many those are."""
    answers: dict[int, set[str]] = {}
    for row in new:
        record = record_of(task, row)
        answers.setdefault(key_of(record), set()).add(_as_text(record.target))
    kept = []
    for row in old:
        record = record_of(task, row)
        said = answers.get(key_of(record))
        if said is None or _as_text(record.target) in said:
            kept.append(row)
    return kept, len(old) - len(kept)


def _as_text(target: Any) -> str:
    return json.dumps(to_json(target), sort_keys=True, ensure_ascii=False)


def write_rows(rows: Sequence[KeptRow], path: Path) -> None:
    """Write rows as a labelled file whose columns are called as their roles, with ids."""
    from tunesmith.bundle.atomic import write_file

    roles = list(dict.fromkeys(role for row in rows for role in row.cells))
    lines = (
        json.dumps({"id": row.id, **{role: row.cells.get(role) for role in roles}}, ensure_ascii=False) for row in rows
    )
    write_file(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))

"""Rows as Records, what is wrong with the others, and whether there is enough to train on."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.columns import Columns
from tunesmith.data.first_rows import FirstRows
from tunesmith.data.label_typos import find_label_typos
from tunesmith.data.layout import Cells, Fault, Layout, Note, TargetKind, TextAndLabel, shown_target
from tunesmith.data.problems import find_problems
from tunesmith.data.readers import BadRow, Source
from tunesmith.data.store import Records, choose
from tunesmith.data.tally import Tally
from tunesmith.errors import DataProblem, MachineProblem
from tunesmith.types import Origin, Problem, Record, Rejected, to_json

TEXT_AND_LABEL = TextAndLabel()

LEAST_ROWS = 10
LEAST_LABELS = 2
LEAST_TEXTS = 3
"""Usable rows in all, labels, and different texts of each of these labels that training asks for: with fewer than
three texts a label cannot stand in all of train, valid and test."""


@dataclass(frozen=True)
class Checked:
    """The rows of one file, judged."""

    path: str
    records: Sequence[Record]  # many of them are on disk; empty when `check` was told not to keep them
    rejected: tuple[Rejected, ...]  # by row
    problems: tuple[Problem, ...]
    rows: int  # data rows read, usable or not
    used: int
    label_counts: Mapping[str, int]  # rows, the most frequent label first
    distinct_texts: Mapping[str, int]  # label -> different normalised texts
    duplicates: int  # rows whose normalised text stood earlier
    personal: Mapping[str, int]  # kind of personal data -> rows
    length_histogram: tuple[tuple[int, int, int], ...]  # (from, to, rows) in characters
    tally: Tally = field(repr=False, compare=False)


def check(
    source: Source,
    columns: Columns,
    *,
    layout: Layout = TEXT_AND_LABEL,
    keep_records: bool = True,
    known_labels: Collection[str] = (),
) -> Checked:
    """Judge every row of a file.

    A row is rejected as bad-encoding, nul, wrong-columns, bad-quotes, broken-json, too-long (a text or cell over
    1,000,000 characters), wrong-type (a list where a text is needed), empty-text, empty-label, label-typo,
    duplicate-id, or for a reason of the task's own. All other findings are problems; their rows stay.

    Args:
        source: The opened file.
        columns: Column of each role of one of the layout's forms (of its inputs alone, where rows without answers are
            read); of "id" if there is one.
        layout: The task, or whatever else says how cells become fields and a target.
        known_labels: Labels that are meant, however rare they are here (those of the training file).
        keep_records: False leaves `records` empty, for files that are only counted.

    Raises:
        DataProblem: The file changed or became unreadable meanwhile.
    """
    judge = _Judge(source, columns, layout)
    tally = Tally()
    kept = Records()
    rejected: list[Rejected] = []
    counts: Counter[str] = Counter()
    for row, found in source.rows():
        record = judge.judge(row, found)
        if isinstance(record, Rejected):
            rejected.append(record)
            continue
        labels = () if record.target is None else layout.labels_of(record.target)
        counts.update(labels)
        # Free answers are compared nowhere; noting each of them would hold them all in memory.
        shown = "" if record.target is None or layout.target_kind == "free" else shown_target(record.target, labels)
        tally.add(row, layout.text_of(record.fields), shown)
        if keep_records:
            kept.append(record)
    records = kept.settled()
    rows = len(rejected) + len(tally.rows)
    target_kind = layout.target_kind if judge.has_targets else None
    has_labels = target_kind == "label"
    found = find_label_typos(tally.label_counts()) if has_labels else {}
    typos = {label: meant for label, meant in found.items() if label not in known_labels}
    if typos:
        rejected += _reject_typos(source.path, typos, tally, records)
        rejected.sort(key=lambda item: item.origin.row)
        records = choose(records, (place for place, record in enumerate(records) if record.target not in typos))
        tally = tally.without_labels(set(typos))
    return Checked(
        path=source.path,
        records=records,
        rejected=tuple(rejected),
        problems=(
            *find_problems(tally, source.path, layout.target_kind if judge.has_targets else None),
            *judge.problems(),
        ),
        rows=rows,
        used=len(tally.rows),
        label_counts=tally.label_counts() if has_labels else dict(counts.most_common()),
        distinct_texts=tally.distinct_texts() if has_labels else {},
        duplicates=tally.duplicates(),
        personal=dict(tally.personal),
        length_histogram=tally.length_histogram(),
        tally=tally,
    )


class _Judge:
    """Turns one row after the other into a Record or a Rejected."""

    def __init__(self, source: Source, columns: Columns, layout: Layout) -> None:
        self._source = source
        self._roles = columns.roles
        self._layout = layout
        self.has_targets = bool(set(columns.roles) & {role for form in layout.forms for role in form.targets})
        self._ids = FirstRows()
        self._prefix = source.sha256[:8]
        self.notes: dict[str, tuple[Note, Origin, int]] = {}  # by kind: the first, where, and how many rows

    def judge(self, row: int, found: dict[str, Any] | BadRow) -> Record | Rejected:
        """Give the row as a Record, or why it is none."""
        origin = Origin(self._source.path, row)
        if isinstance(found, BadRow):
            return Rejected(origin, found.kind, found.reason, found.do, found.fields)
        cells = Cells(found, self._roles)
        try:
            record_id = cells.text("id") if "id" in self._roles else f"{self._prefix}-{row}"
            fields = self._layout.read_input(cells)
            target = self._layout.read_target(cells, fields) if self.has_targets else None
        except Fault as fault:
            return Rejected(origin, fault.kind, fault.reason, fault.do, _shown(found))
        if "id" in self._roles:
            first = self._ids.note(record_id, row)
            if first != row:
                reason = f"id '{record_id[:50]}' already stands in row {first}"
                return Rejected(origin, "duplicate-id", reason, "give each row its own id", _shown(found))
        for note in {note.kind: note for note in reversed(cells.notes)}.values():
            first_note, where, count = self.notes.get(note.kind, (note, origin, 0))
            self.notes[note.kind] = (first_note, where, count + 1)
        return Record(record_id, fields, target, origin)

    def problems(self) -> Iterator[Problem]:
        """Give what was remarked of rows that are used all the same."""
        for kind, (note, origin, count) in self.notes.items():
            what = note.what if count == 1 else f"{count} rows: {note.what} (row {origin.row}, the first)"
            yield Problem("warning", kind, what, note.do, origin, count)


def _shown(found: Mapping[str, Any]) -> dict[str, str]:
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        for name, value in found.items()
        if value is not None
    }
    return {name: text[:200].encode("utf-8", "replace").decode() for name, text in texts.items()}


def _reject_typos(path: str, typos: Mapping[str, str], tally: Tally, records: Iterable[Record]) -> Iterator[Rejected]:
    counts = tally.label_counts()
    texts = {record.target: str(record.fields.get("text", "")) for record in records if record.target in typos}
    for label, meant in typos.items():
        fields = {"label": label[:200]} | ({"text": texts[label][:200]} if label in texts else {})
        yield Rejected(
            origin=Origin(path, tally.first_row(label)),
            kind="label-typo",
            reason=f"label '{label}' occurs once; did you mean '{meant}' ({counts[meant]} rows)?",
            do=f"write '{meant}', or add more rows if '{label}' is a label of its own",
            fields=fields,
        )


def demand_trainable(
    checked: Checked, max_rejected: float = 0.05, *, target_kind: TargetKind = "label", listed_in: str = ""
) -> None:
    """Refuse data that no honest model can come from.

    Asked for are 10 usable rows and, of one label for each row, 2 labels with 3 different texts each: fewer cannot be
    cut into train, valid and test. Rarer labels beside these are allowed (and reported as a problem).

    Args:
        checked: What `check` found.
        max_rejected: Share of rows (0..1) that may be unusable.
        target_kind: Of the task's targets; free answers need rows and no labels.
        listed_in: Where the rejected rows were written, for the message; empty when they were not.

    Raises:
        DataProblem: No usable row, too many rejected, one label only, or too few rows.
    """
    rejected, where = len(checked.rejected), checked.path
    if rejected and rejected >= max_rejected * checked.rows:
        raise _too_many_rejected(checked, max_rejected, listed_in)
    if not checked.used:
        raise DataProblem("the file has no usable row", where=where, do="look at them with: tunesmith inspect FILE")
    if target_kind != "label":
        _demand_rows(checked, target_kind)
        return
    needed = (
        f"at least {LEAST_ROWS} rows and {LEAST_LABELS} labels with {LEAST_TEXTS} different texts each are needed; "
        "some dozens of each label are a good start"
    )
    if len(checked.label_counts) < LEAST_LABELS:
        what = f"all {checked.used} usable rows have the same label, '{next(iter(checked.label_counts), '')}'"
        raise DataProblem(what, where=where, do=f"add rows of another label: {needed}")
    if checked.used < LEAST_ROWS:
        raise DataProblem(f"too few rows: {checked.used} usable", where=where, do=f"add rows: {needed}")
    enough = [label for label, count in checked.distinct_texts.items() if count >= LEAST_TEXTS]
    if len(enough) < LEAST_LABELS:
        poorest = sorted(checked.distinct_texts.items(), key=lambda item: -item[1])[:4]
        listed = ", ".join(f"'{label}' ({count})" for label, count in poorest)
        what = f"too few different texts: {len(enough)} labels have {LEAST_TEXTS} or more; the first are {listed}"
        raise DataProblem(what, where=where, do=f"add rows: {needed}")


def _demand_rows(checked: Checked, target_kind: TargetKind) -> None:
    if checked.used < LEAST_ROWS:
        do = f"add rows: at least {LEAST_ROWS} are needed, some hundreds are a good start"
        raise DataProblem(f"too few rows: {checked.used} usable", where=checked.path, do=do)
    if target_kind == "labels" and not checked.label_counts:
        what = f"none of the {checked.used} usable rows has a label"
        raise DataProblem(what, where=checked.path, do="give rows in which something is labelled")


def _too_many_rejected(checked: Checked, max_rejected: float, listed_in: str) -> DataProblem:
    rejected = len(checked.rejected)
    share = rejected / checked.rows
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(row.kind for row in checked.rejected).most_common())
    examples = "; ".join(f"row {row.origin.row}: {row.reason}" for row in checked.rejected[:3])
    place = f"; all are listed in {listed_in}" if listed_in else ""
    return DataProblem(
        f"{rejected} of {checked.rows} rows ({share:.1%}) cannot be used: {kinds}. {examples}",
        where=f"{checked.rejected[0].origin}{place}",
        do=f"mend the rows, or go on without them: --max-rejected {min(1.0, share // 0.01 / 100 + 0.01):.2f} "
        f"(now {max_rejected})",
    )


def write_rejected(rejected: Iterable[Rejected], path: str | Path) -> None:
    """Write rejected rows as JSON Lines, one object for each; the file appears when it is whole.

    Raises:
        MachineProblem: It cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            for row in rejected:
                shown = to_json(dataclasses.replace(row, fields=dict(row.fields)))
                file.write(json.dumps(shown, ensure_ascii=False).encode("utf-8", "replace").decode() + "\n")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        what = f"the rejected rows cannot be written: {error.strerror}"
        raise MachineProblem(what, where=str(path), do="free some space or choose another folder") from error

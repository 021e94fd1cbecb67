"""Feedback as Records that can be learnt from, through the task's layout; what cannot be used is told row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.feedback.rows import is_labelled
from tunesmith.data.layout import Cells, Fault, Form, Layout
from tunesmith.types import Feedback, Origin, Record, Rejected, to_json

_SHOWN = 200  # characters of a value in a message


@dataclass(frozen=True)
class Learnable:
    """What feedback gives to learn from."""

    records: tuple[Record, ...]  # the id of each is that of its feedback
    rejected: tuple[Rejected, ...]
    notes: Mapping[str, tuple[str, int]]  # kind of remark -> (the first one, rows)


def records_of(rows: Iterable[Feedback], layout: Layout, *, source: str = "feedback") -> Learnable:
    """Read feedback as the rows of a labelled file would be read.

    Args:
        rows: E.g. `FeedbackStore.rows(model)`.
        layout: The task.
        source: What rejected rows are said to stand in; their number counts from 1.
    """
    records: list[Record] = []
    rejected: list[Rejected] = []
    notes: dict[str, tuple[str, int]] = {}
    for number, row in enumerate(rows, 1):
        origin = Origin(source, number)
        try:
            cells = Cells(cells_of(row, layout))
            fields = layout.read_input(cells)
            records.append(Record(row.id, fields, layout.read_target(cells, fields), origin))
        except Fault as fault:
            shown = {name: str(value)[:_SHOWN] for name, value in row.fields.items()}
            rejected.append(Rejected(origin, fault.kind, fault.reason, fault.do, {"feedback": row.id, **shown}))
            continue
        for kind, what in {note.kind: note.what for note in cells.notes}.items():
            first, count = notes.get(kind, (what, 0))
            notes[kind] = (first, count + 1)
    return Learnable(tuple(records), tuple(rejected), notes)


def cells_of(row: Feedback, layout: Layout) -> dict[str, Any]:
    """Give the cells that a labelled row with this answer has, by role.

    Raises:
        Fault: The row says no right answer, or its fields are not those of the task.
    """
    if not is_labelled(row):
        raise Fault("no-answer", "nobody said what the right answer is", "correct the answer, or confirm it")
    target = to_json(row.answered if row.corrected is None else row.corrected)
    fields = dict(to_json(row.fields))
    fields.pop("places", None)  # of a row that was given in tokens: the answer has places in its text
    form = _form_of(fields, layout)
    if set(form.targets) & set(fields):  # the answer goes on with the input: a conversation, a text
        first = layout.forms[0]
        if len(first.inputs) == 1 and isinstance(fields.get(_only(form.inputs)), str):
            fields[_only(first.inputs)] = fields.pop(_only(form.inputs))
        form = first
    if isinstance(target, Mapping) and target and set(target) <= {*form.targets, *form.optional}:
        return {**fields, **target}
    return {**fields, _only(form.targets): target}


def _form_of(fields: Mapping[str, Any], layout: Layout) -> Form:
    """Give the form whose inputs these fields are."""
    for form in layout.forms:
        if set(form.inputs) <= set(fields):
            return form
    wanted = " or ".join(" and ".join(form.inputs) for form in layout.forms)
    raise Fault(
        "wrong-fields", f"the row has {', '.join(fields) or 'nothing'}, not {wanted}", "give it to another task"
    )


def _only(roles: Iterable[str]) -> str:
    return next(iter(roles))

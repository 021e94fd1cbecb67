"""How the rows of a task stand in a file: which columns they need, and how their cells become fields and a target.

A task is a `Layout`. What is wrong with one row is raised as a `Fault` and rejects the row; what is odd but usable is
said with `Cells.note`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tunesmith.data.readers import CELL_LIMIT

SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character pair: JSON can hold one, no tokenizer can read it."""

TargetKind = Literal["label", "labels", "free"]
"""One label for each row, several (or none), or an answer that is no choice among labels."""


@dataclass(frozen=True)
class Form:
    """One way in which a file may hold the rows of a task: role -> kind of column ("text", "label", or "any")."""

    inputs: Mapping[str, str]
    targets: Mapping[str, str]
    optional: Mapping[str, str] = field(default_factory=dict)  # inputs that are read where the file has them

    @property
    def needs(self) -> dict[str, str]:
        """Every role that a labelled file must have."""
        return {**self.inputs, **self.targets}


class Fault(Exception):
    """Why one row cannot be used: a stable slug, a reason, and what to do. `check` catches it."""

    def __init__(self, kind: str, reason: str, do: str) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.do = kind, reason, do


@dataclass(frozen=True)
class Note:
    """Something odd about a row that is used all the same."""

    kind: str
    what: str  # of this row, e.g. "tag 3 is I-PER after O"
    do: str


def as_text(value: Any) -> str | None:
    """Give a scalar as text ("1" for 1 and for 1.0, "" for nothing); None for lists, objects and bytes."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value != value:
        return ""  # how tables of numbers write "nothing"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (int, float)) else None


class Cells:
    """The cells of one row by role, read as what a task asks for. Every method raises `Fault` for what it cannot use.

    A cell of a CSV file is text; where a list or an object is asked for, it is read as JSON.
    """

    def __init__(self, values: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> None:
        self._values = values
        self._columns = columns if columns is not None else {name: name for name in values}
        self.notes: list[Note] = []

    def note(self, kind: str, what: str, do: str) -> None:
        """Remark on the row; rows with the same kind of remark are reported together."""
        self.notes.append(Note(kind, what, do))

    def has(self, role: str) -> bool:
        """Whether the row has something other than nothing for this role."""
        value = self.raw(role)
        return value is not None and not (isinstance(value, (str, list, dict)) and not value)

    def column(self, role: str) -> str:
        """Give the column's own name, for messages."""
        return self._columns.get(role, role)

    def raw(self, role: str) -> Any:
        """Give the value as the file has it; None where the row has none."""
        return self._values.get(self._columns[role]) if role in self._columns else None

    def text(self, role: str, *, may_be_empty: bool = False) -> str:
        """Give one text; a number becomes text."""
        column = self.column(role)
        if column not in self._values:
            raise Fault("wrong-columns", f"the row has no '{column}'", f"add '{column}' to the row")
        value = self._values[column]
        text = as_text(value)
        if text is None:
            kind = type(value).__name__
            raise Fault("wrong-type", f"'{column}' is a {kind}, not a text or number", f"write '{column}' as one text")
        check_text(text, role, column, may_be_empty=may_be_empty)
        return text

    def label(self, role: str = "label") -> str:
        """Give one label without white space around it."""
        return self.text(role).strip()

    def number(self, role: str) -> float:
        """Give one finite number."""
        text = self.text(role)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if value != value or abs(value) == float("inf"):
            column = self.column(role)
            raise Fault("no-number", f"the {role} (column '{column}') is '{text[:50]}'", "write a number")
        return value

    def texts(self, role: str, *, least: int = 1) -> list[str]:
        """Give a list of texts; one text alone is a list of one."""
        value = self._listed(role)
        items = value if isinstance(value, list) else [value]
        if len(items) < least:
            raise Fault(f"empty-{role}", f"the {role} (column '{self.column(role)}') are missing", f"give the {role}")
        found = []
        for item in items:
            text = as_text(item)
            if text is None:
                what = f"'{self.column(role)}' holds a {type(item).__name__} where a text should stand"
                raise Fault("wrong-type", what, "write a list of texts")
            check_text(text, role, self.column(role))
            found.append(text)
        return found

    def tokens(self, role: str) -> list[str]:
        """Give a list of tokens; a text is cut at white space."""
        value = self._listed(role)
        if isinstance(value, str):
            value = value.split()
        if not isinstance(value, list) or not value:
            raise Fault(f"empty-{role}", f"the {role} (column '{self.column(role)}') are empty", f"fill in the {role}")
        found = [as_text(item) for item in value]
        blank = " \t\r\n"  # a wide (U+3000) blank is a character of Chinese texts like any other
        if any(not item or not item.strip(blank) for item in found):
            place = next(index for index, item in enumerate(found) if not item or not item.strip(blank))
            what = f"item {place + 1} of the {role} (column '{self.column(role)}') is empty or no text"
            raise Fault(f"empty-{role}", what, "remove it")
        tokens = [str(item) for item in found]
        check_text(" ".join(tokens), role, self.column(role))
        return tokens

    def objects(self, role: str) -> list[dict[str, Any]]:
        """Give a list of JSON objects; nothing is an empty list."""
        value = self._listed(role, empty=[])
        value = [value] if isinstance(value, dict) else value
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            what = f"'{self.column(role)}' is no list of objects"
            raise Fault("wrong-type", what, 'write it as JSON, e.g. [{"start": 0, "end": 5, "label": "person"}]')
        return value

    def object(self, role: str) -> dict[str, Any]:
        """Give one JSON object."""
        found = self.objects(role)
        if len(found) != 1:
            what = f"'{self.column(role)}' holds {len(found)} objects; one is needed"
            raise Fault("wrong-type", what, "write one JSON object")
        return found[0]

    def _listed(self, role: str, *, empty: Any = "") -> Any:
        """Give a value, with the text of a CSV cell that is a JSON list or object parsed."""
        column = self.column(role)
        if column not in self._values:
            raise Fault("wrong-columns", f"the row has no '{column}'", f"add '{column}' to the row")
        value = read_nested(self._values[column], column)
        return empty if value is None or value == "" else value


def read_nested(value: Any, column: str) -> Any:
    """Give what a cell holds: a list or object written as JSON or (pandas does) as Python; else its text.

    Raises:
        Fault: The text has the brackets of a list or an object, and is none.
    """
    if isinstance(value, tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in {"[]", "{}"} or len(text) > CELL_LIMIT:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, (list, dict)):
            return found
    what = f"'{column}' looks like a list or an object and cannot be read as one: {text[:60]}"
    raise Fault("broken-list", what, 'write it as JSON, e.g. ["one", "two"]')


def check_text(text: str, role: str, column: str, *, may_be_empty: bool = False) -> None:
    """Refuse a text that is empty, too long, or not text at all.

    Raises:
        Fault: With the reason.
    """
    if not may_be_empty and not text.strip():
        raise Fault(
            f"empty-{role}", f"the {role} (column '{column}') is empty", f"fill in the {role} or remove the row"
        )
    if len(text) > CELL_LIMIT:
        what = f"the {role} has {len(text):,} characters; at most {CELL_LIMIT:,} are read"
        raise Fault("too-long", what, "shorten it")
    if "\0" in text:
        raise Fault("nul", f"the {role} holds a NUL character", "remove the NUL character")
    if not text.isascii() and SURROGATE.search(text):
        raise Fault(
            "bad-encoding", f"the {role} holds half of a character pair (lone surrogate)", "write the row again"
        )


class Layout(Protocol):
    """What the checks ask of a task."""

    target_kind: TargetKind
    forms: Sequence[Form]  # the likeliest first

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the fields that the model is asked with."""

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give what it should answer; `fields` are those that `read_input` gave."""

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give all the text of the fields: what makes two rows the same, what has a length and may be personal."""

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the fields that rows share which a split must keep in one part, e.g. the context of questions."""

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the labels that stand in a target; none for free answers."""


class TextAndLabel:
    """One text, one label: the layout of text classification."""

    target_kind: TargetKind = "label"
    forms: Sequence[Form] = (Form({"text": "text"}, {"label": "label"}),)

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the text."""
        return {"text": cells.text("text")}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the label."""
        return cells.label()

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the text."""
        return str(fields["text"])

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the text: its repeats stay together."""
        return fields

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the label."""
        return (target,)


def shown_target(target: Any, labels: Iterable[str]) -> str:
    """Give a target in one short line, for messages: its labels, else what it holds."""
    if isinstance(target, str):
        return target
    if isinstance(target, (list, tuple)) and all(hasattr(item, "label") and hasattr(item, "start") for item in target):
        return ", ".join(f"{item.label} {item.start}:{item.end}" for item in target)[:200] or "nothing"
    if isinstance(target, (list, tuple)) and all(isinstance(item, str) for item in target):
        return ", ".join(target)[:200] or "nothing"
    text = json.dumps(target, ensure_ascii=False, default=_plain) if target else ", ".join(labels)
    return text[:200]


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dict__") else str(value)

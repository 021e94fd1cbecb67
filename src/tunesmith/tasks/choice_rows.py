"""Questions with choices as files have them: in a list, or spread over columns; and which choice is the right one.

What becomes of all of them is the same: `question` (where there is one), `choices`, and `context` (where there is one).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data.layout import Cells, Fault, Form, as_text, check_text, read_nested

_FURTHER = (
    ("choice3", "choice4", "choice5"),
    ("option3", "option4", "option5"),
    ("ending2", "ending3"),
    ("sent2", "sent3"),
    ("C", "D", "E"),
)
"""Columns of the third choice and those after it, in order."""

_MORE = {role: "text" for roles in _FURTHER for role in roles}
_TWO = {"choice1": "text", "choice2": "text"}
_LETTERED = {"A": "text", "B": "text"}
_LISTED = {"choices": "any"}
_QUESTION, _CONTEXT, _PREMISE = {"question": "text"}, {"context": "text"}, {"premise": "text"}
_LABEL, _ANSWER = {"label": "label"}, {"answer": "any"}

FORMS = tuple(
    Form(inputs, targets, optional)
    for inputs, optional in (
        ({**_QUESTION, **_LISTED}, _CONTEXT),
        ({**_PREMISE, **_TWO}, {**_QUESTION, **_MORE}),
        ({**_QUESTION, **_TWO}, {**_CONTEXT, **_MORE}),
        ({**_QUESTION, **_LETTERED}, {**_CONTEXT, **_MORE}),
        (_LISTED, _CONTEXT),
        (_TWO, _MORE),
    )
    for targets in (_LABEL, _ANSWER)
)
"""The roles that files may have; the likeliest first."""

_ASKED = {
    "cause": ("What was the cause?", "原因是什么？"),
    "effect": ("What happened as a result?", "结果发生了什么？"),
}
"""What COPA asks of a premise, in English and Chinese. Source: Roemmele et al. 2011; Ponti et al. 2020 for XCOPA."""

_LETTER = re.compile(r"\(?([A-Za-z])[.)、．]?")
_HAN = re.compile(r"[\u3400-\u9fff]")


def read_question(cells: Cells) -> dict[str, Any]:
    """Give question, choices and context of a row.

    Raises:
        Fault: A choice is empty, or there are fewer than two.
    """
    choices = _listed_choices(cells)[0] if cells.has("choices") else _spread_choices(cells)
    if len(choices) < 2:
        what = f"there is {len(choices) or 'no'} choice; two or more are needed"
        raise Fault("too-few-choices", what, "give all choices as a list, or each in a column of its own")
    for place, choice in enumerate(choices, 1):
        if not choice.strip():
            raise Fault("empty-choice", f"choice {place} is empty", "fill it in or remove the row")
        check_text(choice, "choices", cells.column("choices"))
    if len({choice.strip() for choice in choices}) < len(choices):
        cells.note("duplicate-choices", "two choices are the same text", "make them differ, or remove one")
    fields: dict[str, Any] = {}
    if cells.has("premise"):
        fields["question"] = _asked(cells.text("premise"), cells.text("question") if cells.has("question") else "")
    elif cells.has("question"):
        fields["question"] = cells.text("question")
    if cells.has("context"):
        fields["context"] = cells.text("context")
    return {**fields, "choices": choices}


def read_right_choice(cells: Cells, choices: Sequence[str]) -> int:
    """Give the place of the right choice, counted from 0.

    It may be written as that number, as a letter, or as the text of the choice; where the file gives each choice a mark
    of its own, as this mark.

    Raises:
        Fault: It is none of these, or could be two of them.
    """
    role = "label" if cells.has("label") or not cells.has("answer") else "answer"
    value = cells.raw(role)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    written = as_text(value)
    if written is None:
        raise Fault(
            "wrong-type", f"'{cells.column(role)}' is a {type(value).__name__}", "write the number of the choice"
        )
    written = written.strip()
    if not written:
        what = f"'{cells.column(role)}' is empty"
        raise Fault("empty-label", what, "write the number of the right choice, counted from 0, or its letter")
    marks = _listed_choices(cells)[1] if cells.has("choices") else []
    if marks:
        return _only(written, [place for place, mark in enumerate(marks) if mark == written], len(choices))
    return _only(written, _meant(written, choices), len(choices))


def _meant(written: str, choices: Sequence[str]) -> list[int]:
    """Give every place that the written answer may mean; texts before letters and numbers."""
    found = {place for place, choice in enumerate(choices) if choice.strip() == written}
    if re.fullmatch(r"\d{1,3}", written) and int(written) < len(choices):
        found.add(int(written))
    if letter := _LETTER.fullmatch(written):
        place = ord(letter[1].upper()) - ord("A")
        found |= {place} if place < len(choices) else set()
    return sorted(found)


def _only(written: str, places: Sequence[int], count: int) -> int:
    if len(places) == 1:
        return places[0]
    if places:
        what = f"'{written[:50]}' may mean choice {' or '.join(str(place) for place in places)} (counted from 0)"
        raise Fault("ambiguous-label", what, "write the letter (A, B, ...) of the right choice")
    if written == str(count):
        what = f"the label is {count}, but the {count} choices are counted from 0, so that the last one is {count - 1}"
        raise Fault("label-out-of-range", what, "subtract 1 from all labels if they count from 1, or write letters")
    what = f"the label '{written[:50]}' names none of the {count} choices"
    do = f"write a number from 0 to {count - 1}, a letter from A to {chr(ord('A') + min(count, 26) - 1)}, or the text"
    raise Fault("label-out-of-range", what, do)


def _listed_choices(cells: Cells) -> tuple[list[str], list[str]]:
    """Give choices that stand in one cell, and their own marks where they have some (ARC, CommonsenseQA)."""
    value = read_nested(cells.raw("choices"), cells.column("choices"))
    items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    marks: list[Any] = []
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
        items, marks = list(value["text"]), list(value.get("label") or ())
    elif items and all(isinstance(item, Mapping) for item in items):
        items, marks = [item.get("text") for item in items], [item.get("label") for item in items]
    texts = [as_text(item) for item in items]
    if any(text is None for text in texts):
        what = f"'{cells.column('choices')}' holds something other than texts"
        raise Fault("wrong-type", what, 'write a list of texts, e.g. ["yes", "no"]')
    is_marked = len(marks) == len(texts) and all(as_text(mark) for mark in marks)
    return [str(text) for text in texts], [str(as_text(mark)).strip() for mark in marks] if is_marked else []


def _spread_choices(cells: Cells) -> list[str]:
    """Give choices that stand in columns of their own; those after the second may be missing, at the end only."""
    roles = [role for role in (*_TWO, *_LETTERED) if cells.raw(role) is not None]
    family = _family(cells.column("A" if cells.raw("A") is not None else "choice1"))
    is_there = [cells.has(role) for role in family]
    if sorted(is_there, reverse=True) != is_there:
        column = family[is_there.index(False)]
        raise Fault("empty-choice", f"column '{column}' is empty, but not the one after it", "fill it in")
    roles += family[: sum(is_there)]
    return [cells.text(role, may_be_empty=True) for role in roles]


def _family(column: str) -> tuple[str, ...]:
    """Give the further columns that belong to a first one: option3 to option1, and not sent2 to ending0."""
    stem = column.rstrip("0123456789").lower()
    stems = {family[0].rstrip("0123456789").lower(): family for family in _FURTHER}
    return ("C", "D", "E") if stem == "a" else stems.get(stem, _FURTHER[0])


def _asked(premise: str, question: str) -> str:
    """Give the premise with what is asked of it; "cause" and "effect" become a question in its language."""
    if question in _ASKED:
        is_chinese = bool(_HAN.search(premise))
        return premise + ("" if is_chinese else " ") + _ASKED[question][is_chinese]
    return joined(premise, question)


def joined(first: str, second: str) -> str:
    """Put one text after the other: with a space between, but not after or before Chinese."""
    if not first or not second:
        return first or second
    is_close = _HAN.match(second) or re.search(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]$", first)
    return first + second if is_close else f"{first.rstrip()} {second}"

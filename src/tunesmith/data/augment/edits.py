"""Changes of a text, and what else of its record has to move with them: entities, and the places of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.augment.words import Place
from tunesmith.types import Record, Span

PLACES = "places"
"""The field in which a record keeps where its own tokens stand in its text."""


@dataclass(frozen=True)
class Edit:
    """One stretch of a text that is replaced."""

    start: int  # characters from the beginning of the text as it was
    end: int  # exclusive
    text: str  # what stands there afterwards; empty: the stretch goes


def edited(text: str, edits: Sequence[Edit]) -> str:
    """Give the text with all edits made; they are in order and do not overlap."""
    parts, last = [], 0
    for edit in edits:
        parts += [text[last : edit.start], edit.text]
        last = edit.end
    return "".join([*parts, text[last:]])


def moved(place: Place, edits: Sequence[Edit]) -> Place:
    """Give where a stretch stands after the edits; a stretch that was replaced whole is what replaced it."""
    return _moved(place[0], edits, is_end=False), _moved(place[1], edits, is_end=True)


def _moved(offset: int, edits: Sequence[Edit], *, is_end: bool) -> int:
    shift = 0
    for edit in edits:
        if edit.end <= offset:
            shift += len(edit.text) - (edit.end - edit.start)
        elif edit.start < offset:  # inside of what was replaced
            return edit.start + shift + (len(edit.text) if is_end else 0)
    return offset + shift


def free_words(record: Record, words: Sequence[Place]) -> list[Place]:
    """Give the words that may be changed: not in an entity, and not across the edge of one of the row's own tokens."""
    held = [(span.start, span.end) for span in _spans(record)]
    edges = {edge for place in record.fields.get(PLACES, ()) for edge in place}
    return [
        (start, end)
        for start, end in words
        if not any(first < end and start < last for first, last in held)
        and not (edges and any(edge in edges for edge in range(start + 1, end)))
    ]


def edit_record(record: Record, field: str, edits: Sequence[Edit]) -> Record:
    """Give the record with one of its texts edited; entities and tokens stand where they now are.

    A token of which nothing is left goes.

    Args:
        record: Its entities, if any, lie in that text.
        field: Name of the text.
        edits: Outside of all entities; in order, not overlapping.
    """
    fields = {name: _with_spans(value, edits) for name, value in record.fields.items()}
    fields[field] = edited(str(record.fields[field]), edits)
    if PLACES in fields:
        places = [moved(place, edits) for place in record.fields[PLACES]]
        fields[PLACES] = tuple(place for place in places if place[0] < place[1])
    return dataclasses.replace(record, fields=fields, target=_with_spans(record.target, edits))


def _spans(record: Record) -> list[Span]:
    values = [*record.fields.values(), record.target]
    nested = [item for value in values if isinstance(value, tuple) for item in value]
    return [value for value in (*values, *nested) if isinstance(value, Span)]


def _with_spans(value: Any, edits: Sequence[Edit]) -> Any:
    if isinstance(value, Span):
        start, end = moved((value.start, value.end), edits)
        return dataclasses.replace(value, start=start, end=end)
    if isinstance(value, tuple) and any(isinstance(item, Span) for item in value):
        return tuple(_with_spans(item, edits) for item in value)
    return value

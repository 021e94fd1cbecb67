"""Two entities of a text: as rows name them, and as a model is shown them.

The model reads typed markers in punctuation, `@ * person * Mary Ann @ works for # ^ company ^ Acme #`, so that its
vocabulary stays as it is; where no types are known, `@ Mary Ann @ works for # Acme #`.

Source: Zhou & Chen 2021, An Improved Baseline for Sentence-level Relation Extraction, section 3.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.layout import Cells, Fault, as_text
from tunesmith.tasks.entities import Place, place_of, surface_of, trimmed_place
from tunesmith.types import Span

ROLES = ("head", "tail")
_MARKS = {"head": ("@", "*"), "tail": ("#", "^")}
_INLINE = re.compile(r"[<\[](/?)e([12])[>\]]", re.IGNORECASE)
_HOW = "write <e1>...</e1> around the head and <e2>...</e2> around the tail, or give columns for head and tail"


@dataclass(frozen=True)
class Marked:
    """A text with its markers, and where the two entities stand in it, markers included."""

    text: str
    head: Place
    tail: Place


def read_pair(cells: Cells) -> dict[str, Any]:
    """Give the text, and head and tail as Spans whose labels are their types ("" where none is known).

    An entity is an object with a place, a pair [start, end], or a text with its place in a column `head_span`; without
    any of these, markers in the text say where it is.

    Raises:
        Fault: An entity cannot be found, or both are the same.
    """
    text = cells.text("text")
    if any(cells.has(name) for role in ROLES for name in (role, f"{role}_span")):
        pair = {role: _entity(cells, role, text) for role in ROLES}
    else:
        text, places = _inline(text)
        pair = {
            role: Span(*trimmed_place(cells, text, places[role], f"the {role}"), _type(cells, role)) for role in ROLES
        }
    head, tail = pair["head"], pair["tail"]
    if (head.start, head.end) == (tail.start, tail.end):
        what = f"head and tail are the same: '{text[head.start : head.end][:50]}' at {head.start}..{head.end}"
        raise Fault("same-entity", what, "give two different entities, or remove the row")
    return {"text": text, **pair}


def _entity(cells: Cells, role: str, text: str) -> Span:
    value, label = _parsed(cells.raw(role)), ""
    place: tuple[Any, Any] | None = None
    surface = None
    if isinstance(value, Span):  # fields that were read before
        place, label = (value.start, value.end), value.label
    elif isinstance(value, dict):
        place, surface = place_of(value), surface_of(value)
        label = next((found for key in ("type", "label", "entity_type") if (found := as_text(value.get(key)))), "")
    elif isinstance(value, (list, tuple)):
        place = _two(value, cells.column(role))
    else:
        surface = as_text(value) or None
    if place is None and cells.has(f"{role}_span"):
        place = _two(_parsed(cells.raw(f"{role}_span")), cells.column(f"{role}_span"))
    label = _type(cells, role) or label.strip()
    if place is None and not surface:
        raise Fault(f"empty-{role}", f"the {role} (column '{cells.column(role)}') is missing", f"name the {role}")
    if place is None:
        return Span(*_search(cells, text, str(surface).strip(), role), label)
    start, end = trimmed_place(cells, text, place, f"the {role}")
    if surface and surface.strip() and text[start:end] != surface.strip():
        start, end = _search(cells, text, surface.strip(), role, given=(start, end))
    return Span(start, end, label)


def _type(cells: Cells, role: str) -> str:
    return cells.label(f"{role}_type") if cells.has(f"{role}_type") else ""


def _parsed(value: Any) -> Any:
    """Give the value of a cell, with JSON in the cell of a table read."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _two(value: Any, column: str) -> tuple[Any, Any]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise Fault(
            "wrong-place", f"'{column}' is {str(value)[:50]}", "write [start, end], counted from 0, end exclusive"
        )
    return value[0], value[1]


def _search(cells: Cells, text: str, surface: str, role: str, *, given: Place | None = None) -> Place:
    """Find an entity by what it is called; with a remark where its place is wrong or there are several."""
    places = [found.start() for found in re.finditer(f"(?={re.escape(surface)})", text)]
    if not places:
        what = f"the {role} '{surface[:50]}' does not stand in the text"
        what += "" if given is None else f"; at {given[0]}..{given[1]} stands '{text[given[0] : given[1]][:50]}'"
        raise Fault("entity-not-in-text", what, "mend the row: offsets count characters from 0, end exclusive")
    start = places[0] if given is None else min(places, key=lambda place: abs(place - given[0]))
    if given is not None:
        what = f"the {role} '{surface[:50]}' stands at {start}, not at {given[0]}; the nearest place is taken"
        cells.note("entity-elsewhere", what, "mend the offsets: they count characters from 0, end exclusive")
    elif len(places) > 1:
        what = f"the {role} '{surface[:50]}' stands {len(places)} times in the text; the first is taken"
        cells.note("entity-repeated", what, f"say which one by a column {role}_span with [start, end]")
    return start, start + len(surface)


def _inline(marked: str) -> tuple[str, dict[str, Place]]:
    """Take <e1>, </e1>, <e2> and </e2> out of a text and give where they stood."""
    text, last = "", 0
    edges: dict[str, list[int]] = {"1": [], "/1": [], "2": [], "/2": []}
    for found in _INLINE.finditer(marked):
        text += marked[last : found.start()]
        last = found.end()
        edges[found[1] + found[2]].append(len(text))
    text += marked[last:]
    for edge, places in edges.items():
        if len(places) != 1:
            name = f"<{edge[:-1]}e{edge[-1]}>"
            how_often = "missing" if not places else f"there {len(places)} times"
            raise Fault("missing-marker", f"the marker {name} is {how_often}", _HOW)
    for number in "12":
        if edges[number] > edges[f"/{number}"]:
            raise Fault("missing-marker", f"the marker </e{number}> stands before <e{number}>", _HOW)
    return text, {role: (edges[number][0], edges[f"/{number}"][0]) for role, number in zip(ROLES, "12", strict=True)}


def mark(fields: Mapping[str, Any]) -> Marked:
    """Put the markers around head and tail; the inner one's stand inside where one entity holds the other."""
    text = str(fields["text"])
    waiting = []
    for role in ROLES:
        span, (outer, inner) = fields[role], _MARKS[role]
        kind = f" {inner} {type_words(span.label)} {inner}" if span.label else ""
        waiting.append((span.end, 0, -span.start, f" {outer}", role))  # what ends here stands before what begins here
        waiting.append((span.start, 1, -span.end, f"{outer}{kind} ", role))
    written, last, is_after_mark = "", 0, False
    edges: dict[str, int] = {}
    for place, is_start, _, words, role in sorted(waiting):
        piece = text[last:place]
        written += f" {piece}" if is_after_mark and piece[:1].strip() else piece
        last, is_after_mark = place, not is_start
        if is_start:
            written += " " if written[-1:].strip() else ""
            edges[f"{role} start"] = len(written)
        written += words
        if not is_start:
            edges[f"{role} end"] = len(written)
    written += f" {text[last:]}" if text[last : last + 1].strip() else text[last:]
    head, tail = ((edges[f"{role} start"], edges[f"{role} end"]) for role in ROLES)
    return Marked(written, head, tail)


def type_words(label: str) -> str:
    """Give the name of an entity's type as words: "ORG_COMPANY" as "org company"."""
    return re.sub(r"[_\-./]+", " ", label).strip().lower() or label


def cut_around(places: list[Place], marked: Marked, room: int) -> list[int]:
    """Choose which tokens of a text that is too long stay: both entities with their markers, and what is near them.

    Args:
        places: Characters of each token in the marked text.
        marked: The text.
        room: Tokens that may stay. Only entities that are longer than this by themselves are cut.

    Returns:
        Places of the tokens that stay, in order.
    """
    blocks = []
    for start, end in sorted((marked.head, marked.tail)):
        inside = [token for token, (a, b) in enumerate(places) if a < end and b > start]
        blocks.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    (first, first_end), (second, second_end) = blocks
    end = max(first_end, second_end)
    spare = room - (end - first)
    if spare >= 0:
        low = max(0, min(first - spare // 2, len(places) - room))
        return list(range(low, min(len(places), low + room)))
    first_end = min(first_end, second)  # one of them may hold the start of the other
    spare = room - (first_end - first) - (second_end - second)
    if spare < 0:
        half = max(room - (second_end - second), room // 2)
        kept = [*range(first, first_end)][:half]
        return kept + [*range(second, second_end)][: room - len(kept)]
    # What stands between them says most: half of the rest follows the first, half leads to the second.
    return [*range(first, first_end + spare // 2), *range(second - (spare - spare // 2), second_end)]

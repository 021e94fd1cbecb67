"""Rows with what was expected and what was answered, as people look at them: spans marked in their text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tunesmith.bundle.charts import tag

_HUES = 6  # colours of marks that the page's style has
_AROUND = 160  # characters that are shown before the first mark and after the last one of a long text


@dataclass(frozen=True)
class Sample:
    """One row of the section "Some of its answers"."""

    row: str
    is_right: bool
    parts: tuple[tuple[str, Markup | str], ...]  # heading -> what stands under it


def read_samples(found: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Give what a task's `details["samples"]` holds, ready to be shown."""
    labels = {
        str(span.get("label", "")): None
        for item in found
        for side in ("expected_spans", "answered_spans")
        for span in item.get(side) or ()
    }
    hues = {label: index % _HUES for index, label in enumerate(sorted(labels))}
    return [Sample(str(item.get("row", "")), bool(item.get("right")), tuple(_parts(item, hues))) for item in found]


def _parts(item: Mapping[str, Any], hues: Mapping[str, int]) -> list[tuple[str, Markup | str]]:
    text = item.get("text")
    if not isinstance(text, str) or "expected_spans" not in item:
        sides = [("asked", item.get("input")), ("expected", item.get("expected")), ("answered", item.get("answered"))]
        return [(name, as_words(value) or "(nothing)") for name, value in sides if value is not None]
    parts: list[tuple[str, Markup | str]] = []
    asked = item.get("input")
    if isinstance(asked, Mapping):  # a question beside its context: the text itself is shown with its marks below
        others = {role: value for role, value in asked.items() if value != text}
        parts += [("asked", as_words(others))] if others else []
    expected, answered = (item.get(side) or () for side in ("expected_spans", "answered_spans"))
    kept = _window(text, [*expected, *answered])
    if isinstance(item.get("expected"), str) and not answered:  # what is asked is marked, the answer is a word
        said = [(name, as_words(item.get(name)) or "(nothing)") for name in ("expected", "answered")]
        return [("asked", marked(text, expected, hues, kept)), *said]
    if item.get("right"):
        return [*parts, ("right", marked(text, expected, hues, kept))]
    return [
        *parts,
        ("expected", marked(text, expected, hues, kept)),
        ("answered", marked(text, answered, hues, kept)),
    ]


def _window(text: str, spans: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Give the part of a long text around its marks."""
    if not spans:
        return 0, min(len(text), 3 * _AROUND)
    start = max(0, min(int(span["start"]) for span in spans) - _AROUND)
    end = min(len(text), max(int(span["end"]) for span in spans) + _AROUND)
    return (start if start > 20 else 0), (end if len(text) - end > 20 else len(text))


def marked(
    text: str, spans: Sequence[Mapping[str, Any]], hues: Mapping[str, int], window: tuple[int, int] | None = None
) -> Markup:
    """Give text with its spans marked; of spans that overlap the first is marked.

    Args:
        text: Of the row.
        spans: Each with start, end (characters, half open) and label.
        hues: Label -> number of its colour.
        window: The part of the text to show; the rest is left out.
    """
    first, last = window or (0, len(text))
    parts: list[Any] = ["… " if first else ""]
    place = first
    for span in sorted(spans, key=lambda span: (int(span["start"]), -int(span["end"]))):
        start, end, label = int(span["start"]), int(span["end"]), str(span.get("label", ""))
        if start < place or end > last or end <= start:
            continue
        name = tag("small", label) if label else Markup("")
        mark = tag("mark", text[start:end], name, class_=f"hue{hues.get(label, 0)}")
        parts += [text[place:start], mark]
        place = end
    parts += [text[place:last], " …" if last < len(text) else ""]
    return tag("bdi", *parts)


def as_words(value: Any) -> str:
    """Give a value of any shape as people would write it: lists line by line, fields with their names."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if {"role", "content"} <= set(value):
            return f"{value['role']}: {value['content']}"
        return "\n".join(f"{name}: {as_words(item)}" for name, item in value.items() if item not in (None, "", [], ()))
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value) and sum(map(len, value)) < 80:
            return ", ".join(value)
        return "\n".join(as_words(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str)

"""One answered input as the monitor sees it. Its text is turned into numbers soon after, and is kept nowhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.types import Entity, Prediction

LONGEST = 2000  # characters of a text that are looked at; hundreds of texts wait in memory
ABSTAINED = "(abstained)"
NOTHING = "(none)"  # an answer without any label: no entity found, no topic of several


@dataclass(frozen=True)
class Observed:
    """What is looked at of one answer."""

    text: str  # of the input; its first 2,000 characters are enough
    category: str = ""  # label, or the labels together; empty where answers are free text or numbers
    number: float | None = None  # the answer where it is a number, its characters where it is text
    confidence: float | None = None  # 0..1
    seconds: float = 0.0  # that answering took
    characters: int | None = None  # of the whole input, where `text` is cut
    tokens: int | None = None  # as the model's tokenizer counts them, where somebody has counted
    unknown_tokens: int | None = None
    embedding: Sequence[float] | None = None  # of the input, by the model that answers, where it gives one

    @classmethod
    def of(
        cls, prediction: Prediction, given: str | Mapping[str, Any], facts: Mapping[str, Any] | None = None
    ) -> Observed:
        """Look at a prediction.

        Args:
            prediction: What was answered.
            given: What was asked: a text, or fields by role.
            facts: `tokens`, `unknown_tokens`, `embedding`, as far as somebody has counted them.
        """
        known = facts or {}
        category, number = look_at(prediction.value)
        text = text_of(given)
        return cls(
            text=text[:LONGEST],
            characters=len(text),
            category=category,
            number=number,
            confidence=prediction.confidence,
            seconds=prediction.seconds,
            tokens=known.get("tokens"),
            unknown_tokens=known.get("unknown_tokens"),
            embedding=known.get("embedding"),
        )


def text_of(given: Any) -> str:
    """Give all the text of an input, field after field; numbers and other things are left out."""
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping):
        return "\n".join(filter(None, map(text_of, given.values())))
    if isinstance(given, Sequence) and not isinstance(given, (bytes, bytearray)):
        return "\n".join(filter(None, map(text_of, given)))
    return ""


def look_at(value: Any, longest_label: int = 200) -> tuple[str, float | None]:
    """Give the category and the number of an answer's value.

    A label is its own category; several labels, or the kinds of the entities found, are one together, whatever their
    order. A text of more than `longest_label` characters, or with line breaks, is no label; whether shorter texts are
    labels is known by whoever knows the labels (see `Traits`).
    """
    if value is None:
        return ABSTAINED, None
    if isinstance(value, bool):
        return str(value).lower(), None
    if isinstance(value, (int, float)):
        return "", float(value)
    if isinstance(value, str):
        is_label = len(value) <= longest_label and "\n" not in value
        return (value if is_label else ""), float(len(value))
    if isinstance(value, (list, tuple)):
        names = {name for item in value if (name := _label_of(item))}
        return ", ".join(sorted(names))[:longest_label] or NOTHING, None
    return "", None


def _label_of(item: Any) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, Entity):
        return item.label
    if isinstance(item, Mapping):  # an entity that came as JSON
        return str(item.get("label", ""))
    return str(getattr(item, "label", ""))

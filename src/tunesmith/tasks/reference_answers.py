"""Reference answers as files have them, and where in the context they stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.data.layout import Cells, Fault, check_text, read_nested
from tunesmith.data.readers import CELL_LIMIT

_SHAPE = 'write {"text": ["..."], "answer_start": [0]}, a list of texts, or one text; an empty list where there is none'


def read_answers(cells: Cells, context: str) -> dict[str, list[Any]]:
    """Give `text` and `answer_start` of each reference, -1 for one that does not stand in the context.

    A file may have SQuAD's object, a list of objects with "text" and "start", or plain texts, which are looked up.
    No reference at all means that the question has no answer here.

    Raises:
        Fault: The cell is none of these, or no reference stands in the context.
    """
    given = [] if _is_impossible(cells) else _references(cells)
    if not given:
        cells.note(
            "no-answer",
            "no answer is given, which means that the context has none",
            "nothing, if it is meant; else give the answer",
        )
        return {"text": [], "answer_start": []}
    found: dict[tuple[str, int], None] = {}
    for text, start in given:
        found.setdefault(_placed(cells, context, text, start))
    starts = [start for _, start in found]
    if max(starts) < 0:
        what = f"the answer '{next(iter(found))[0][:80]}' does not stand in the context"
        raise Fault("answer-not-in-context", what, "copy it from the context letter by letter, or remove the row")
    if min(starts) < 0:
        cells.note(
            "reference-not-in-context",
            "one of the answers does not stand in the context",
            "nothing: the others are learnt from, and all of them count as right",
        )
    return {"text": [text for text, _ in found], "answer_start": starts}


def _is_impossible(cells: Cells) -> bool:
    value = cells.raw("is_impossible")
    return value is True or str(value).strip().lower() in {"true", "1", "yes"}


def _references(cells: Cells) -> list[tuple[str, int | None]]:
    """Give each text with where it is said to start; blank texts are left out."""
    value = read_nested(cells.raw("answers"), cells.column("answers"))
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        pairs = _from_object(value)
    elif isinstance(value, (list, tuple)):
        pairs = [_from_item(item) for item in value]
    else:
        pairs = [(value, cells.raw("answer_start"))]
    found = []
    for given, start in pairs:
        text = str(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else given
        if not isinstance(text, str):
            raise Fault("wrong-type", f"an answer is a {type(given).__name__}, not a text", _SHAPE)
        check_text(text, "answers", cells.column("answers"), may_be_empty=True)
        if text.strip():
            found.append((text, _start(start)))
    return found


def _from_object(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    if not value:
        return []
    if "text" not in value:
        raise Fault("wrong-type", "the answers are an object without 'text'", _SHAPE)
    texts, starts = value["text"], value.get("answer_start", value.get("start"))
    texts = list(texts) if isinstance(texts, (list, tuple)) else [texts]
    starts = list(starts) if isinstance(starts, (list, tuple)) else [starts] * len(texts)
    if starts and len(starts) != len(texts):
        what = f"there are {len(texts)} answers and {len(starts)} places where they start"
        raise Fault("answers-mismatch", what, "give each answer one place, or leave the places out")
    return list(zip(texts, starts or [None] * len(texts), strict=True))


def _from_item(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, Mapping):
        return item, None
    if "text" not in item:
        raise Fault("wrong-type", "an answer is an object without 'text'", _SHAPE)
    return item["text"], item.get("start", item.get("answer_start"))


def _start(value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.5
    if number != number or not number.is_integer() or abs(number) > CELL_LIMIT:
        raise Fault(
            "wrong-type", f"an answer starts at '{str(value)[:50]}'", "write the number of characters before it"
        )
    return int(number) if number >= 0 else None


def _placed(cells: Cells, context: str, text: str, start: int | None) -> tuple[str, int]:
    """Give the text and the character at which it starts: where it is said to, else the occurrence nearest to that."""
    if start is not None and context.startswith(text, start):
        inner = len(text) - len(text.lstrip())
        return text.strip(), start + inner
    text = text.strip()
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    if not places:
        return text, -1
    if start is not None:
        cells.note(
            "answer-moved",
            f"the answer does not stand at character {start} of the context",
            "nothing: the nearest place where it stands is taken; or mend answer_start (it counts from 0)",
        )
        return text, min(places, key=lambda one: abs(one - start))
    if len(places) > 1:
        cells.note(
            "answer-ambiguous",
            f"the answer stands {len(places)} times in the context",
            "nothing: the first one is taken; or give answer_start",
        )
    return text, places[0]

"""What the store keeps and gives back, and how values become text that any database takes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunesmith.data.personal import find_personal
from tunesmith.errors import DataProblem
from tunesmith.types import Feedback, to_json

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what PostgreSQL and UTF-8 refuse


@dataclass(frozen=True)
class Answered:
    """One answer that was given, kept so that feedback can refer to it."""

    prediction: str  # id of the Prediction
    model: str  # the name it was served under
    bundle: str  # id of the bundle that answered
    fields: Mapping[str, Any]  # the input by role, personal data masked
    value: Any  # the answer; None where the bundle abstained
    confidence: float | None  # 0..1
    at: float  # seconds since 1970, UTC
    subject: str = ""  # whom the row is about; empty where unknown
    tenant: str = ""  # whose key asked: others must not see it


@dataclass(frozen=True)
class Deletion:
    """What was removed, and what it leaves behind elsewhere."""

    answers: int = 0  # rows removed
    feedback: int = 0
    feedback_ids: tuple[str, ...] = ()  # of the removed rows, for buffers and exports that hold copies
    bundles: Mapping[str, int] = field(default_factory=dict)  # id of a bundle -> removed rows that it was trained on
    backups: int = 0  # backup files that were rewritten without these rows
    is_overwritten: bool = True  # False where old bytes may still stand on the disk, see `remark`
    remark: str = ""


def is_opinion(feedback: Feedback) -> bool:
    """Whether it says something of the answer; a comment alone does not."""
    return feedback.is_correct is not None or feedback.corrected is not None


def is_labelled(feedback: Feedback) -> bool:
    """Whether the right answer is known: it was corrected, or confirmed."""
    return feedback.corrected is not None or (feedback.is_correct is True and feedback.answered is not None)


def about(prediction: str, fields: str) -> str:
    """Give what two pieces of feedback share when the later one replaces the earlier: the prediction, else the row."""
    return prediction or f"row:{hashlib.sha256(fields.encode('utf-8', 'surrogatepass')).hexdigest()}"


def write_json(value: Any, what: str) -> str:
    """Give a value as one line of JSON; characters stay readable, halves of character pairs are escaped.

    Raises:
        DataProblem: It holds something that JSON has no word for, such as NaN.
    """
    try:
        text = json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        do = "give texts, finite numbers, lists and objects"
        raise DataProblem(f"the {what} cannot be kept: {error}", where="feedback", do=do) from error
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def plain(text: str) -> str:
    """Give a text without the characters that no database takes: NUL, and halves of pairs, become U+FFFD."""
    return _NO_TEXT.sub("\ufffd", text)


def kept_subject(subject: str) -> str:
    """Give a subject as it is kept: itself, or a hash of it where it is personal data in itself (an e-mail, a number).

    The hash keeps it out of files and lists; who knows the store can still find out whether a guess is right.
    """
    name = plain(subject).strip()
    if not find_personal(name):
        return name
    return f"person:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def answer_values(row: Answered) -> dict[str, Any]:
    """Give the columns of an answer."""
    return {
        **{name: plain(getattr(row, name)) for name in ("prediction", "model", "bundle", "tenant")},
        "fields": write_json(row.fields, "fields"),
        "value": None if row.value is None else write_json(row.value, "value"),
        "confidence": None if row.confidence is None else float(row.confidence),
        "subject": kept_subject(row.subject),
        "at": float(row.at),
    }


def feedback_values(row: Feedback) -> dict[str, Any]:
    """Give the columns of a piece of feedback, without its place and its time of arrival."""
    fields = write_json(row.fields, "fields")
    return {
        **{name: plain(getattr(row, name)) for name in ("id", "prediction", "model", "bundle", "comment", "by")},
        "about": about(plain(row.prediction), fields),
        "fields": fields,
        "answered": None if row.answered is None else write_json(row.answered, "answer"),
        "is_correct": row.is_correct,
        "corrected": None if row.corrected is None else write_json(row.corrected, "corrected answer"),
        "subject": kept_subject(row.subject),
        "at": float(row.at),
    }


def read_answer(columns: Mapping[str, Any]) -> Answered:
    """Give an answer from its columns; raises ValueError where they are damaged."""
    return Answered(**{**columns, "fields": _read(columns["fields"]), "value": _read(columns["value"])})


def read_feedback(columns: Mapping[str, Any]) -> Feedback:
    """Give a piece of feedback from its columns; raises ValueError where they are damaged."""
    names = ("id", "prediction", "model", "bundle", "is_correct", "comment", "by", "subject", "at")
    values = {name: _read(columns[name]) for name in ("fields", "answered", "corrected")}
    return Feedback(**{name: columns[name] for name in names}, **values)


def _read(text: str | None) -> Any:
    return None if text is None else json.loads(text)

"""Rows of feedback, made up."""

from __future__ import annotations

from typing import Any

from tunesmith.data.feedback.rows import Answered
from tunesmith.types import Feedback


def answered(prediction: str = "p1", **changes: Any) -> Answered:
    values: dict[str, Any] = {
        "prediction": prediction,
        "model": "reviews",
        "bundle": "b1",
        "fields": {"text": f"text of {prediction}"},
        "value": "good",
        "confidence": 0.75,
        "at": 100.0,
    }
    return Answered(**{**values, **changes})


def feedback(number: int = 1, **changes: Any) -> Feedback:
    values: dict[str, Any] = {
        "id": f"f{number}",
        "prediction": f"p{number}",
        "model": "reviews",
        "bundle": "b1",
        "fields": {"text": f"text of p{number}"},
        "answered": "good",
        "is_correct": None,
        "corrected": "bad",
        "comment": "",
        "by": "anna",
        "subject": "",
        "at": 100.0 + number,
    }
    return Feedback(**{**values, **changes})

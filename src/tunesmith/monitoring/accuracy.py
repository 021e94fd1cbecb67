"""How often answers are right, as far as people have said so: accuracy now, whether it has dropped, calibration."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunesmith import metrics

KEPT = 2000  # judgements; ADWIN is made again from them after a restart
_RECENT = 500  # judgements for the accuracy and the calibration error
_LEAST_FOR_ECE = 50
_LEAST_FOR_MEAN = 50  # judgements in ADWIN's window from which its mean says something
_RECOVERED = 0.01  # accuracy within this of what it was: the drop is over


class Accuracy:
    """Judgements of one model's answers, in the order in which they came.

    ADWIN keeps a window that grows while accuracy stays what it was, and drops its older part when the two differ.
    Source: Bifet & Gavalda 2007, "Learning from time-changing data with adaptive windowing"; river's implementation,
    with its own defaults (delta 0.002, looking at every 32nd judgement).
    """

    def __init__(self, judgements: Sequence[tuple[bool, float | None]] = ()) -> None:
        from river.drift import ADWIN

        self._adwin = ADWIN()
        self._kept: deque[tuple[bool, float | None]] = deque(maxlen=KEPT)
        self._mean = 0.0  # of ADWIN's window, as long as that is not too short
        self._before: float | None = None  # accuracy before the drop that is standing
        self.count = 0
        self.changes = 0  # how often ADWIN saw accuracy change, up or down
        for is_correct, confidence in judgements:
            self.add(is_correct, confidence)

    def add(self, is_correct: bool, confidence: float | None = None) -> None:
        """Take one judgement.

        Args:
            is_correct: What a person said.
            confidence: 0..1, of the answer that was judged.
        """
        self.count += 1
        self._kept.append((is_correct, confidence))
        self._adwin.update(float(is_correct))
        if self._adwin.drift_detected:
            self.changes += 1
            if self._before is None and self._adwin.estimation < self._mean:
                self._before = self._mean
            self._mean = float(self._adwin.estimation)
        elif self._adwin.width >= min(self.count, _LEAST_FOR_MEAN):  # river begins with an empty window after a change
            self._mean = float(self._adwin.estimation)
        if self._before is not None and self._mean >= self._before - _RECOVERED:
            self._before = None

    @property
    def drop(self) -> float:
        """By how much accuracy is lower than before ADWIN saw it fall; 0 where it has not, or has recovered."""
        return 0.0 if self._before is None else max(0.0, self._before - self._mean)

    def values(self) -> dict[str, float]:
        """Give the metrics; those that need more judgements are left out."""
        found = {"feedback_total": float(self.count), "feedback_accuracy_drop": self.drop}
        found["feedback_accuracy_changes_total"] = float(self.changes)
        recent = list(self._kept)[-_RECENT:]
        if recent:
            found["feedback_accuracy"] = sum(is_correct for is_correct, _ in recent) / len(recent)
            found["feedback_accuracy_adaptive"] = self._mean
            found["feedback_rows"] = float(len(recent))
        if ece := self.calibration():
            found["feedback_ece"] = ece[1]
        return found

    def calibration(self) -> tuple[list[dict[str, Any]], float] | None:
        """Give the bins of the reliability diagram and the expected calibration error of recent judgements."""
        known = [pair for pair in list(self._kept)[-_RECENT:] if pair[1] is not None]
        if len(known) < _LEAST_FOR_ECE:
            return None
        confidence_N = np.array([confidence for _, confidence in known], dtype=np.float64)
        is_right_N = np.array([is_correct for is_correct, _ in known], dtype=bool)
        return metrics.calibration(np.clip(confidence_N, 0, 1), is_right_N)

    def judgements(self) -> tuple[tuple[bool, float | None], ...]:
        """Give the last judgements, with the confidence of the answer where it is known."""
        return tuple(self._kept)

    def arrays(self) -> Mapping[str, Any]:
        """Give the judgements for keeping: right (1) or wrong (0), and confidence (NaN where unknown)."""
        confidence_N = [np.nan if confidence is None else confidence for _, confidence in self._kept]
        return {
            "feedback.is_correct": np.array([is_correct for is_correct, _ in self._kept], dtype=np.uint8),
            "feedback.confidence": np.array(confidence_N, dtype=np.float32),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Any], *, count: int, changes: int) -> Accuracy:
        """Make it again from what `arrays` gave and the two counts."""
        pairs = zip(arrays["feedback.is_correct"], arrays["feedback.confidence"], strict=True)
        found = cls([(bool(right), None if np.isnan(confidence) else float(confidence)) for right, confidence in pairs])
        found.count, found.changes = max(count, found.count), max(changes, found.changes)
        return found

"""Two small pieces of arithmetic that every counted score needs. numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def divide(over: Floats, under: Floats) -> Floats:
    """Divide arrays of one shape; 0 where there is nothing to divide by, as scikit-learn's `zero_division=0`."""
    shares: Floats = np.divide(over, under, out=np.zeros(np.shape(over)), where=np.asarray(under) > 0)
    return shares


def f1_of_counts(shared: int, predicted: int, true: int) -> float:
    """Give F1 (0..1) from how much is shared, predicted and true; 0 where nothing is shared."""
    if shared == 0:
        return 0.0
    precision, recall = shared / predicted, shared / true
    return 2 * precision * recall / (precision + recall)

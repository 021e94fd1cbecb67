"""How well scores follow scores: Spearman's and Pearson's correlation, mean squared error. numpy only.

N is rows. Correlations lie in -1..1; where one side is constant they do not exist and count as 0.

Source: Spearman 1904 (Pearson's correlation of ranks; equal values share the mean of their ranks).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ranks(values_N: npt.ArrayLike) -> Floats:
    """Give the rank of each value, 1 for the smallest; equal values share the mean of their ranks."""
    _, place_N, counts = np.unique(np.asarray(values_N, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = (last - (counts - 1) / 2)[place_N]
    return shared


def pearson(first_N: npt.ArrayLike, second_N: npt.ArrayLike) -> float:
    """Give Pearson's correlation; 0 where one side is constant."""
    one, other = (np.asarray(side, dtype=np.float64) for side in (first_N, second_N))
    # Constant values need not equal their own mean to the last bit, so that they are told by their span.
    if len(one) == 0 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.clip(one @ other / norm, -1.0, 1.0)) if norm > 0 else 0.0


def spearman(first_N: npt.ArrayLike, second_N: npt.ArrayLike) -> float:
    """Give Spearman's correlation; 0 where one side is constant."""
    return pearson(ranks(first_N), ranks(second_N))


def values(expected_N: npt.ArrayLike, answered_N: npt.ArrayLike) -> dict[str, float]:
    """Give spearman, pearson and mse (in the square of the scores' unit)."""
    expected, answered = (np.asarray(side, dtype=np.float64) for side in (expected_N, answered_N))
    return {
        "spearman": spearman(expected, answered),
        "pearson": pearson(expected, answered),
        "mse": float(((expected - answered) ** 2).mean()) if len(expected) else 0.0,
    }


def of_rows(expected_N: npt.ArrayLike, answered_N: npt.ArrayLike) -> Callable[[Ints], dict[str, float]]:
    """Give a function from drawn rows to `values` on them, as the bootstrap asks for."""
    expected, answered = (np.asarray(side, dtype=np.float64) for side in (expected_N, answered_N))
    return lambda rows: values(expected[rows], answered[rows])

"""Scores of order: average precision of multi-label answers, Pearson and Spearman correlation. numpy only.

These are no sums over rows, so a bootstrap cannot add rows up. It can say how often each row is drawn: every function
takes such `weights` (..., N) and gives one value for each sample, as if the rows stood there that often. Rows are
sorted once, for all samples.

Letters: N rows, L labels, G groups of rows with equal score, B samples.

Source: equal to `average_precision_score` of scikit-learn, and to `pearsonr` and `spearmanr` of scipy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tunesmith.metrics.shares import Floats, divide

_CELLS_AT_ONCE = 500_000  # rows times samples held at once, in a few arrays of 8 bytes a cell


def _samples(weights: npt.ArrayLike | None, rows: int) -> tuple[Floats, tuple[int, ...]]:
    """Give weights as (B, N), and the shape of the leading axes."""
    drawn = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if drawn.shape[-1:] != (rows,):
        raise ValueError(f"weights have the shape {drawn.shape}; the last axis should be the {rows} rows")
    return drawn.reshape(-1, rows), drawn.shape[:-1]


def _last_of_each(ordered: Floats) -> npt.NDArray[np.intp]:
    """Give the places where a run of equal numbers ends (G)."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _precision_of_one(truth: npt.NDArray[np.bool_], scores: Floats, weights_BN: Floats) -> Floats:
    order = np.argsort(-scores, kind="stable")
    ends = _last_of_each(scores[order])
    drawn = weights_BN[:, order]
    answered_BG = drawn.cumsum(1)[:, ends]
    hits_BG = (drawn * truth[order]).cumsum(1)[:, ends]
    gained_BG = np.diff(hits_BG, axis=1, prepend=0.0)
    return divide((gained_BG * divide(hits_BG, answered_BG)).sum(1), hits_BG[:, -1])


def average_precision(
    truth_NL: npt.ArrayLike, scores_NL: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> dict[str, Floats]:
    """Give the mean average precision of multi-label answers.

    Args:
        truth_NL: 1 where a label is right (N, L).
        scores_NL: Score of each label (N, L), any scale; micro compares scores across labels.
        weights: How often each row is drawn (..., N). None: once.

    Returns:
        `macro_average_precision`, the mean over the labels, and `micro_average_precision`, over all pairs of row and
        label; each (...), 0..1. A label without a right row in a sample is left out of that sample's mean, where
        scikit-learn counts 0 and warns.

    Raises:
        ValueError: No rows, or shapes that do not fit.
    """
    truth = np.asarray(truth_NL, dtype=bool)
    scores = np.asarray(scores_NL, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 2 or 0 in truth.shape:
        raise ValueError(f"truth has the shape {truth.shape} and scores {scores.shape}; both should be (rows, labels)")
    rows, labels = truth.shape
    weights_BN, leading = _samples(weights, rows)
    macro, micro = [], []
    step = max(1, _CELLS_AT_ONCE // truth.size)
    for start in range(0, len(weights_BN), step):
        block = weights_BN[start : start + step]
        each = [_precision_of_one(truth[:, label], scores[:, label], block) for label in range(labels)]
        has_right_BL = block @ truth > 0  # a label that nobody has in a sample cannot be ranked well or badly there
        macro.append(divide(np.sum(each, axis=0), has_right_BL.sum(1).astype(float)))
        micro.append(_precision_of_one(truth.ravel(), scores.ravel(), np.repeat(block, labels, axis=1)))
    return {
        "macro_average_precision": np.concatenate(macro).reshape(leading),
        "micro_average_precision": np.concatenate(micro).reshape(leading),
    }


def _ranks(numbers: Floats, weights_BN: Floats) -> Floats:
    """Give the rank of each row within its sample (B, N), the mean of their ranks for equal rows."""
    order = np.argsort(numbers, kind="stable")
    ends = _last_of_each(numbers[order])
    below_or_equal_BG = weights_BN[:, order].cumsum(1)[:, ends]
    size_BG = np.diff(below_or_equal_BG, axis=1, prepend=0.0)
    group_of_row = np.empty(len(numbers), dtype=np.intp)
    group_of_row[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    ranks_BN: Floats = (below_or_equal_BG - (size_BG - 1) / 2)[:, group_of_row]
    return ranks_BN


def _correlate(first: Floats, second: Floats, weights_BN: Floats) -> Floats:
    """Give Pearson's r for each sample; `first` and `second` are (N) or (B, N)."""
    rows = weights_BN.sum(1, keepdims=True)
    from_mean = [numbers - (weights_BN * numbers).sum(1, keepdims=True) / rows for numbers in (first, second)]
    lengths = [np.sqrt((weights_BN * numbers**2).sum(1)) for numbers in from_mean]
    # Equal numbers leave rounding errors of their size, not zeros; what is left then says nothing about order.
    sizes = [np.sqrt((weights_BN * numbers**2).sum(1)) for numbers in (first, second)]
    is_constant = (lengths[0] <= 1e-13 * sizes[0]) | (lengths[1] <= 1e-13 * sizes[1])
    shared = (weights_BN * from_mean[0] * from_mean[1]).sum(1)
    return np.where(is_constant, 0.0, np.clip(divide(shared, lengths[0] * lengths[1]), -1.0, 1.0))


def correlation(
    expected: npt.ArrayLike, answered: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> dict[str, Floats]:
    """Give the correlation of two rows of numbers.

    Args:
        expected: True number of each row (N).
        answered: Answered number of each row (N).
        weights: How often each row is drawn (..., N). None: once.

    Returns:
        `pearson` and `spearman`, each (...), -1..1; 0 where one side is the same number in every row, for which scipy
        gives no number.

    Raises:
        ValueError: Fewer than two rows, or shapes that do not fit.
    """
    first, second = np.asarray(expected, dtype=np.float64), np.asarray(answered, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(f"cannot correlate shapes {first.shape} and {second.shape}; both should be two rows or more")
    weights_BN, leading = _samples(weights, len(first))
    pearson, spearman = [], []
    step = max(1, _CELLS_AT_ONCE // len(first))
    for start in range(0, len(weights_BN), step):
        block = weights_BN[start : start + step]
        pearson.append(_correlate(first, second, block))
        spearman.append(_correlate(_ranks(first, block), _ranks(second, block), block))
    return {
        "pearson": np.concatenate(pearson).reshape(leading),
        "spearman": np.concatenate(spearman).reshape(leading),
    }

"""Pure functions from answers to Scores, with bootstrap intervals. numpy only.

Letters: N rows, L labels, B bootstrap resamples.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap (percentile interval, chapter 13); precision, recall
and F1 follow scikit-learn's definitions with `zero_division=0`; expected calibration error: Guo et al. 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.types import Difference, Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "bits_per_character", "ece", "mse"})
"""Metrics of which less is better."""

NO_SHARE = frozenset({"loss", "perplexity", "bits_per_character", "mse"})
"""Metrics that are no shares: shown as they are, not in percent."""

RESAMPLES = 1000  # the 95% limits then move by about 0.1 interval widths from seed to seed
_CELLS_AT_ONCE = 250_000  # rows times resamples held at once, in a few arrays of 8 bytes a cell


@dataclass(frozen=True)
class _Tally:
    """Counts from which every score follows; each array may have leading resample axes."""

    hits_L: Floats  # rows of a label that were answered with it
    true_L: Floats  # rows of a label
    answered_L: Floats  # rows answered with a label

    def values(self) -> dict[str, Floats]:
        """Every score as an array over the leading axes."""
        precision = _ratio(self.hits_L, self.answered_L)
        recall = _ratio(self.hits_L, self.true_L)
        f1 = _ratio(2 * self.hits_L, self.true_L + self.answered_L)
        seen = (self.true_L + self.answered_L) > 0  # scikit-learn averages over labels that occur
        rows = self.true_L.sum(-1)
        scores: dict[str, Floats] = {"accuracy": _ratio(self.hits_L.sum(-1), rows)}
        for name, each in (("precision", precision), ("recall", recall), ("f1", f1)):
            scores[f"macro_{name}"] = _ratio((each * seen).sum(-1), seen.sum(-1).astype(float))
            scores[f"weighted_{name}"] = _ratio((each * self.true_L).sum(-1), rows)
        return scores


def _ratio(over: Floats, under: Floats) -> Floats:
    shares: Floats = np.divide(over, under, out=np.zeros_like(over, dtype=float), where=under > 0)
    return shares


def _tally(expected: Ints, answered: Ints, labels: int, weights: Floats) -> _Tally:
    """Count over the last axis of `weights` (..., N): how often each row stands in the sample."""
    true_NL = np.eye(labels)[expected]
    answered_NL = np.eye(labels)[answered]
    return _Tally(weights @ (true_NL * answered_NL), weights @ true_NL, weights @ answered_NL)


def resample_weights(n: int, seed: int, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield blocks (b, N) of how often each row is drawn, `resamples` in all; the same for the same n and seed."""
    generator = np.random.default_rng(seed)
    block = max(1, min(resamples, _CELLS_AT_ONCE // max(n, 1)))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        draws = generator.integers(0, n, size=(size, n))
        draws += np.arange(size)[:, None] * n
        yield np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(float)


def limits(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Give the 95% percentile interval."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def goodness(metric: str, value: float) -> float:
    """Give a number that is larger the better the value is."""
    return -value if metric in LOWER_IS_BETTER else value


SumsToValues = Callable[[Floats], Mapping[str, Floats]]
"""From sums of per-row statistics (..., S) to each metric (...)."""

RowsToValues = Callable[[Ints], Mapping[str, float]]
"""From the rows that were drawn (N, with repeats) to each metric: for what is no function of sums."""


def summed_scores(statistics_NS: Floats, values: SumsToValues, *, main: str, seed: int = 0) -> Scores:
    """Score answers whose metrics follow from sums over rows of S statistics, with bootstrap intervals.

    Raises:
        ValueError: No rows.
    """
    n = len(statistics_NS)
    if n == 0:
        raise ValueError("cannot score zero rows")
    found = {name: float(value) for name, value in values(statistics_NS.sum(0)).items()}
    resampled: dict[str, list[Floats]] = {name: [] for name in found}
    for weights in resample_weights(n, seed):
        for name, value in values(weights @ statistics_NS).items():
            if name in resampled:
                resampled[name].append(value)
    intervals = {name: limits(np.concatenate(blocks)) for name, blocks in resampled.items() if blocks}
    return Scores(values=found, intervals=intervals, n=n, main=main)


def summed_difference(
    first_NS: Floats, second_NS: Floats, values: SumsToValues, *, metric: str, seed: int = 0
) -> Difference:
    """Bootstrap `metric` of the first answers minus the second's over the same resampled rows (paired)."""
    n = len(first_NS)

    def difference(weights: Floats) -> Floats:
        return np.asarray(values(weights @ first_NS)[metric] - values(weights @ second_NS)[metric], dtype=float)

    drawn = np.concatenate([difference(weights) for weights in resample_weights(n, seed)])
    return Difference(metric, float(difference(np.ones((1, n)))[0]), limits(drawn), n)


def resampled_scores(n: int, values: RowsToValues, *, main: str, seed: int = 0) -> Scores:
    """Score answers whose metrics need all rows at once (ranks, correlations), with bootstrap intervals.

    Raises:
        ValueError: No rows.
    """
    if n == 0:
        raise ValueError("cannot score zero rows")
    found = dict(values(np.arange(n)))
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for rows in _drawn_rows(n, seed):
        for name, value in values(rows).items():
            drawn[name].append(value)
    intervals = {name: limits(np.nan_to_num(each)) for name, each in drawn.items()}
    return Scores(values=found, intervals=intervals, n=n, main=main)


def resampled_difference(
    n: int, first: RowsToValues, second: RowsToValues, *, metric: str, seed: int = 0
) -> Difference:
    """Bootstrap `metric` of the first answers minus the second's over the same drawn rows (paired)."""
    every = np.arange(n)
    drawn = [first(rows)[metric] - second(rows)[metric] for rows in _drawn_rows(n, seed)]
    return Difference(metric, first(every)[metric] - second(every)[metric], limits(np.nan_to_num(drawn)), n)


def _drawn_rows(n: int, seed: int) -> Iterator[Ints]:
    generator = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield generator.integers(0, n, size=n)


def classification_values(expected: Ints, probabilities_NL: Floats) -> dict[str, float]:
    """Give every score of single-label answers without intervals; arguments as for `classification_scores`."""
    n, labels = probabilities_NL.shape
    return {
        name: float(value)
        for name, value in _tally(expected, probabilities_NL.argmax(1), labels, np.ones(n)).values().items()
    }


def classification_scores(
    expected: Ints, probabilities_NL: Floats, labels: Sequence[str], *, main: str = "accuracy", seed: int = 0
) -> Scores:
    """Score single-label answers.

    Args:
        expected: Index of the true label of each row (N).
        probabilities_NL: Score of each label (N, L), rows summing to 1; the answer is the largest, first on a tie.
        labels: Names of the labels, in index order.
        main: Which of the values decides.
        seed: Of the bootstrap.

    Returns:
        Scores whose `details` hold `labels`, `confusion` (rows true, columns answered), `reliability` and `ece`.

    Raises:
        ValueError: No rows.
    """
    n = len(expected)
    if n == 0:
        raise ValueError("cannot score zero rows")
    answered = probabilities_NL.argmax(1)
    tally = _tally(expected, answered, len(labels), np.ones(n))
    values = {name: float(value) for name, value in tally.values().items()}
    resampled: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in resample_weights(n, seed):
        for name, value in _tally(expected, answered, len(labels), weights).values().items():
            resampled[name].append(value)
    intervals = {name: limits(np.concatenate(blocks)) for name, blocks in resampled.items()}
    reliability, ece = calibration(probabilities_NL.max(1), answered == expected)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (expected, answered), 1)
    return Scores(
        values={**values, "ece": ece},
        intervals=intervals,
        n=n,
        main=main,
        per_label=_per_label(tally, labels),
        details={"labels": list(labels), "confusion": confusion.tolist(), "reliability": reliability, "ece": ece},
    )


def _per_label(tally: _Tally, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    precision = _ratio(tally.hits_L, tally.answered_L)
    recall = _ratio(tally.hits_L, tally.true_L)
    f1 = _ratio(2 * tally.hits_L, tally.true_L + tally.answered_L)
    return {
        label: {
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
            "support": int(tally.true_L[index]),
        }
        for index, label in enumerate(labels)
    }


def calibration(
    confidence: Floats, is_right: npt.NDArray[np.bool_], bins: int = 10
) -> tuple[list[dict[str, Any]], float]:
    """Compare confidence (N, 0..1) with accuracy in equal-width bins; give the bins and the expected error."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = []
    error = 0.0
    for index in range(bins):
        inside = place == index
        count = int(inside.sum())
        mean = float(confidence[inside].mean()) if count else 0.0
        right = float(is_right[inside].mean()) if count else 0.0
        error += count / max(len(confidence), 1) * abs(mean - right)
        rows.append({"from": index / bins, "to": (index + 1) / bins, "n": count, "confidence": mean, "accuracy": right})
    return rows, error


def paired_difference(
    expected: Ints, first: Ints, second: Ints, labels: int, *, metric: str, seed: int = 0
) -> Difference:
    """Bootstrap `metric` of the first answers minus the second's over the same resampled rows.

    Args:
        expected: Index of the true label (N).
        first: Answered label index (N).
        second: Answered label index (N).
        labels: How many labels there are.
        metric: A name that `classification_scores` gives, except `ece`.
        seed: Of the bootstrap; the same seed draws the same rows as `classification_scores`.
    """

    def difference(weights: Floats) -> Floats:
        mine = _tally(expected, first, labels, weights).values()[metric]
        return mine - _tally(expected, second, labels, weights).values()[metric]

    n = len(expected)
    drawn = np.concatenate([difference(weights) for weights in resample_weights(n, seed)])
    return Difference(metric, float(difference(np.ones((1, n)))[0]), limits(drawn), n)


def softmax(logits_NL: npt.NDArray[Any]) -> Floats:
    """Turn scores (N, L) into probabilities (N, L)."""
    shifted = np.asarray(logits_NL, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(1, keepdims=True))
    chances: Floats = shifted / shifted.sum(1, keepdims=True)
    return chances


def log_softmax(logits_NL: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn scores (..., L) into log-probabilities (..., L) of the same precision."""
    shifted = logits_NL - logits_NL.max(-1, keepdims=True)
    logs: npt.NDArray[Any] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs


def fit_temperature(logits_NL: npt.NDArray[Any], expected: Ints) -> float:
    """Find the temperature (0.05..20) that makes softmax(logits / temperature) most likely on these rows.

    Targets are smoothed as in Platt 1999, so that a handful of rows answered all right does not drive the temperature
    to zero. Source: Guo et al. 2017, On Calibration of Modern Neural Networks, section 4.2.
    """
    from scipy.optimize import minimize_scalar

    n, labels = logits_NL.shape
    if n == 0 or labels < 2:
        return 1.0
    slack = 1.0 / (n + 2)
    targets = np.full((n, labels), slack / (labels - 1))
    targets[np.arange(n), expected] = 1.0 - slack

    def loss(log_temperature: float) -> float:
        chances = softmax(np.asarray(logits_NL, dtype=np.float64) / np.exp(log_temperature))
        return float(-(targets * np.log(np.maximum(chances, 1e-300))).sum(1).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def abstention(confidence: Floats, is_right: npt.NDArray[np.bool_], precision: float) -> dict[str, float] | None:
    """Find the lowest confidence at which the answers kept reach `precision`; None when no threshold does.

    Returns:
        `threshold` (answer when confidence is at least this), `coverage` (share of rows answered) and
        `precision_reached` on these rows.
    """
    order = np.argsort(-confidence, kind="stable")
    reached = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    # A threshold lets through every row of equal confidence, so only the last row of each tie is a place to cut.
    is_cut = np.append(confidence[order][1:] < confidence[order][:-1], True)
    possible = np.flatnonzero((reached >= precision) & is_cut)
    if len(possible) == 0:
        return None
    last = int(possible[-1])
    return {
        "threshold": float(confidence[order[last]]),
        "coverage": (last + 1) / len(order),
        "precision_reached": float(reached[last]),
    }


def at_threshold(confidence: Floats, is_right: npt.NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Give the coverage and precision of the answers whose confidence is at least `threshold`."""
    kept = confidence >= threshold
    return {
        "coverage": float(kept.mean()) if len(kept) else 0.0,
        "precision_reached": float(is_right[kept].mean()) if kept.any() else 0.0,
    }


def worst_mistakes(
    expected: Ints,
    probabilities_NL: Floats,
    labels: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    most: int = 20,
) -> tuple[dict[str, Any], ...]:
    """List the wrong answers given with most confidence; `rows` holds what to show of each row (`text`, `row`)."""
    answered = probabilities_NL.argmax(1)
    confidence = probabilities_NL.max(1)
    wrong = np.flatnonzero(answered != expected)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    return tuple(
        {
            **rows[int(index)],
            "expected": labels[expected[index]],
            "answered": labels[answered[index]],
            "confidence": float(confidence[index]),
        }
        for index in wrong
    )

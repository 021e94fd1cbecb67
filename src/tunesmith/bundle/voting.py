"""How the answers of several models become one: a mean of their probabilities, or weights that labelled rows gave.

Whatever is answered is a *choice* among *candidates*: one of all labels, yes or no to one label, one of a row's own
texts. Members give log-probabilities, and so does the vote.

- soft: the mean of the members' probabilities, each with its weight, sharpened by one temperature.
- stacked: a logistic regression on the members' log-probabilities. Each member has one coefficient, whatever the label,
  and each label an offset: 77 labels and 3 members are 80 numbers. One coefficient for every pair of label and feature
  would be 17,000, for which validation rows are too few. Its penalty pulls towards the members' equal share.

Sources: Breiman 1996, Stacked Regressions; the tied coefficients are those of McFadden 1974, conditional logit;
Dempster, Laird & Rubin 1977 for the weights of a mixture.

Letters: N choices, C candidates of a choice, M members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith import metrics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SOFT, STACKED = "soft", "stacked"

NO_OFFSET = -1  # in place of a label's number, for a candidate that has no offset
_LEAST_LOG = -30.0  # a smaller chance than e**-30 tells nothing more
_ROUNDS = 200  # of the weights' estimation; it stops where they no longer move
_FOLDS = 5
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the penalty, per row: from none worth the name to weights that stay equal."""


@dataclass(frozen=True)
class Choices:
    """What members say of some choices."""

    logs_NCM: Floats  # log-probabilities; -inf where a choice has fewer candidates
    labels_NC: Ints  # the label whose offset a candidate has; NO_OFFSET for none

    def some(self, rows: Any) -> Choices:
        """Give these rows."""
        return Choices(self.logs_NCM[rows], self.labels_NC[rows])


@dataclass(frozen=True)
class Vote:
    """How members are mixed."""

    by: str  # soft or stacked
    weights: tuple[float, ...]  # of each member; of a soft vote their sum is 1
    offsets: tuple[float, ...] = ()  # of each label; none in a soft vote
    temperature: float = 1.0  # by which the logarithm of the mean is divided

    def mix(self, choices: Choices) -> Floats:
        """Give one score for each candidate (N, C) whose softmax is its probability; -inf where there is none."""
        logs_NCM = np.maximum(choices.logs_NCM, _LEAST_LOG)
        is_there_NC = np.isfinite(choices.logs_NCM).all(-1)
        if self.by == SOFT:
            with np.errstate(divide="ignore"):  # a member may count nothing
                mixed_NC = np.logaddexp.reduce(logs_NCM + np.log(self.weights), axis=-1) / self.temperature
        else:
            mixed_NC = logs_NCM @ np.array(self.weights) + _offsets(self.offsets, choices.labels_NC)
        found: Floats = np.where(is_there_NC, mixed_NC, -np.inf)
        return found


def equal_vote(members: int) -> Vote:
    """Give the plain mean."""
    return Vote(SOFT, (1 / members,) * members)


def log_loss(scores_NC: Floats, right_N: Ints) -> float:
    """Give the mean negative log-probability of the right candidates."""
    logs_NC = metrics.log_softmax(scores_NC)
    return float(-np.maximum(logs_NC[np.arange(len(right_N)), right_N], _LEAST_LOG).mean())


def fit_weights(choices: Choices, right_N: Ints) -> tuple[float, ...]:
    """Find the weights of the mean under which the right candidates are likeliest, by expectation maximisation.

    The likelihood has one maximum over all weights, and every round comes nearer to it.
    """
    logs_NCM = np.maximum(choices.logs_NCM, _LEAST_LOG)
    right_NM = np.exp(logs_NCM[np.arange(len(right_N)), right_N])
    weights_M = np.full(right_NM.shape[1], 1 / right_NM.shape[1])
    for _ in range(_ROUNDS):
        shares_NM = right_NM * weights_M
        new_M = (shares_NM / shares_NM.sum(1, keepdims=True)).mean(0)
        is_settled = np.abs(new_M - weights_M).max() < 1e-6
        weights_M = new_M
        if is_settled:
            break
    return tuple(map(float, weights_M))


def fit_soft(choices: Choices, right_N: Ints, *, is_weighted: bool) -> Vote:
    """Give the mean with the temperature that fits labelled rows, and with weights that do where they are asked for."""
    members = choices.logs_NCM.shape[-1]
    weights = fit_weights(choices, right_N) if is_weighted else equal_vote(members).weights
    mixed_NC = Vote(SOFT, weights).mix(choices)
    return Vote(SOFT, weights, temperature=float(metrics.fit_temperature(mixed_NC, right_N)))


def fit_stack(choices: Choices, right_N: Ints, *, labels: int, seed: int) -> tuple[Vote, float]:
    """Fit the regression, its penalty by cross-validation.

    Args:
        choices: Of labelled rows that no member learnt from.
        right_N: The right candidate of each.
        labels: How many offsets there are.
        seed: Of the folds.

    Returns:
        The vote; and its cross-validated log loss.
    """
    fold_N = np.random.default_rng(seed).permutation(len(right_N)) % _FOLDS
    losses = {}
    for strength in _STRENGTHS:
        each = []
        for fold in range(_FOLDS):
            held, kept = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
            vote = _stack(choices.some(kept), right_N[kept], labels, strength)
            each.append(len(held) * log_loss(vote.mix(choices.some(held)), right_N[held]))
        losses[strength] = sum(each) / len(right_N)
    best = min(losses, key=lambda strength: (losses[strength], -strength))
    return _stack(choices, right_N, labels, best), losses[best]


def _stack(choices: Choices, right_N: Ints, labels: int, strength: float) -> Vote:
    """Minimise the log loss plus `strength` times the squared distance from equal weights without offsets."""
    from scipy.optimize import minimize

    is_there_NC = np.asarray(np.isfinite(choices.logs_NCM).all(-1))
    logs_NCM = np.where(is_there_NC[..., None], np.maximum(choices.logs_NCM, _LEAST_LOG), 0.0)
    rows, members = np.arange(len(right_N)), logs_NCM.shape[-1]
    has_offset_NC: npt.NDArray[np.bool_] = np.asarray(choices.labels_NC != NO_OFFSET)
    start = np.concatenate([np.full(members, 1 / members), np.zeros(labels)])

    def loss(guess: Floats) -> tuple[float, Floats]:
        scores_NC = logs_NCM @ guess[:members] + _offsets(guess[members:], choices.labels_NC)
        found_NC = metrics.log_softmax(np.where(is_there_NC, scores_NC, -np.inf))
        error_NC = np.exp(found_NC)
        error_NC[rows, right_N] -= 1
        slope_M = np.einsum("nc,ncm->m", error_NC, logs_NCM) / len(rows)
        slope_L = np.bincount(choices.labels_NC[has_offset_NC], error_NC[has_offset_NC], labels) / len(rows)
        away = guess - start
        value = -found_NC[rows, right_N].mean() + strength * (away @ away)
        return float(value), np.concatenate([slope_M, slope_L]) + 2 * strength * away

    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Vote(STACKED, tuple(map(float, found[:members])), tuple(map(float, found[members:])))


def _offsets(offsets: Any, labels_NC: Ints) -> Floats:
    """Give the offset of every candidate (N, C); 0 where it has none."""
    known = np.append(np.asarray(offsets, dtype=np.float64), 0.0)  # NO_OFFSET is the last
    found: Floats = known[labels_NC]
    return found

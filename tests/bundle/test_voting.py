"""Mixing answers: means, fitted weights and the regression, on numbers that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith import metrics
from tunesmith.bundle.voting import (
    NO_OFFSET,
    STACKED,
    Choices,
    Vote,
    equal_vote,
    fit_soft,
    fit_stack,
    fit_weights,
    log_loss,
)


def choices_of(chances_NCM, labels=None) -> Choices:
    chances = np.asarray(chances_NCM, dtype=float)
    labels_NC = np.full(chances.shape[:2], NO_OFFSET) if labels is None else np.tile(labels, (len(chances), 1))
    with np.errstate(divide="ignore"):
        return Choices(np.log(chances), labels_NC)


def made_up(rows: int, seed: int = 0, *, noises=(0.5, 2.0, 6.0), labels: int = 4):
    """Give choices of members that know the truth through more and more noise, and the right candidates."""
    chance = np.random.default_rng(seed)
    right_N = chance.integers(0, labels, rows)
    each = [
        metrics.log_softmax(3.0 * np.eye(labels)[right_N] + noise * chance.normal(size=(rows, labels)))
        for noise in noises
    ]
    return Choices(np.stack(each, axis=-1), np.tile(np.arange(labels), (rows, 1))), right_N


def test_a_soft_vote_is_the_mean_of_probabilities():
    choices = choices_of([[[0.9, 0.2], [0.1, 0.8]], [[0.5, 0.5], [0.5, 0.5]]])
    found = metrics.softmax(equal_vote(2).mix(choices))
    assert np.allclose(found, [[0.55, 0.45], [0.5, 0.5]])
    weighted = metrics.softmax(Vote("soft", (0.25, 0.75)).mix(choices))
    assert np.allclose(weighted[0], [0.25 * 0.9 + 0.75 * 0.2, 0.25 * 0.1 + 0.75 * 0.8])
    silent = metrics.softmax(Vote("soft", (1.0, 0.0)).mix(choices))
    assert np.allclose(silent[0], [0.9, 0.1]), "a member of weight 0 says nothing"


def test_a_temperature_sharpens_the_mean_without_changing_the_answer():
    choices = choices_of([[[0.9, 0.2], [0.1, 0.8]]])
    sharp = metrics.softmax(Vote("soft", (0.5, 0.5), temperature=0.5).mix(choices))
    assert np.allclose(sharp, [[0.55**2, 0.45**2] / (np.array(0.55**2 + 0.45**2))])


@pytest.mark.parametrize("vote", [equal_vote(2), Vote(STACKED, (0.7, -0.2))])
def test_candidates_that_a_row_lacks_have_no_chance(vote):
    found = vote.mix(choices_of([[[0.6, 0.5], [0.4, 0.5], [0.0, 0.0]], [[0.2, 0.2], [0.3, 0.3], [0.5, 0.5]]]))
    assert found[0, 2] == -np.inf
    assert np.isfinite(found[0, :2]).all()
    assert np.isfinite(found[1]).all()


def test_weights_are_those_under_which_the_right_answers_are_likeliest():
    choices, right_N = made_up(600)
    weights = fit_weights(choices, right_N)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[0] > weights[1] > weights[2]
    best = -np.log(np.exp(choices.logs_NCM)[np.arange(600), right_N] @ np.array(weights)).mean()
    chance = np.random.default_rng(1)
    for other in chance.dirichlet(np.ones(3), 200):  # no other weights do better
        assert best <= -np.log(np.exp(choices.logs_NCM)[np.arange(600), right_N] @ other).mean() + 1e-6


def test_a_soft_vote_is_calibrated_on_labelled_rows():
    choices, right_N = made_up(600, noises=(0.5, 0.5, 0.5))
    raw, fitted = equal_vote(3), fit_soft(choices, right_N, is_weighted=False)
    assert fitted.weights == raw.weights
    assert fitted.temperature < 1, "the mean of members that err apart is too unsure"
    assert log_loss(fitted.mix(choices), right_N) < log_loss(raw.mix(choices), right_N)


def test_a_stack_beats_every_member_and_the_plain_mean_on_other_rows():
    choices, right_N = made_up(500)
    vote, loss = fit_stack(choices, right_N, labels=4, seed=0)
    fresh, truth_N = made_up(2000, seed=9)
    stacked = log_loss(vote.mix(fresh), truth_N)
    assert stacked < log_loss(fit_soft(choices, right_N, is_weighted=False).mix(fresh), truth_N)
    for member in range(3):
        assert stacked < log_loss(fresh.logs_NCM[..., member], truth_N)
    assert loss == pytest.approx(stacked, abs=0.1), "cross-validation foresees the loss on other rows"


def test_offsets_of_a_stack_learn_how_frequent_labels_are():
    chance = np.random.default_rng(3)
    right_N = chance.choice(3, 900, p=[0.8, 0.15, 0.05])
    blind = Choices(np.full((900, 3, 2), np.log(1 / 3)), np.tile(np.arange(3), (900, 1)))
    vote, _ = fit_stack(blind, right_N, labels=3, seed=0)
    shares = np.bincount(right_N) / 900
    assert np.allclose(metrics.softmax(vote.mix(blind))[0], shares, atol=0.02)


def test_a_stack_on_labels_that_nobody_could_know_does_not_pretend_to_know():
    choices, _ = made_up(60)
    chance = np.random.default_rng(4)
    vote, _ = fit_stack(choices, chance.integers(0, 4, 60), labels=4, seed=0)
    fresh, _ = made_up(2000, seed=5)
    unknown_N = chance.integers(0, 4, 2000)
    assert log_loss(vote.mix(fresh), unknown_N) < np.log(4) + 0.1
    assert log_loss(equal_vote(3).mix(fresh), unknown_N) > np.log(4) + 0.5


def test_the_slope_of_the_regression_is_right():
    """The fitted point is a minimum: no small step away from it lowers the penalised loss."""
    choices, right_N = made_up(80, labels=3)
    from tunesmith.bundle import voting

    vote = voting._stack(choices, right_N, 3, 0.01)
    start = np.array([1 / 3] * 3 + [0.0] * 3)

    def loss(point):
        found = Vote(STACKED, tuple(point[:3]), tuple(point[3:])).mix(choices)
        return log_loss(found, right_N) + 0.01 * ((point - start) ** 2).sum()

    best = np.array([*vote.weights, *vote.offsets])
    for axis in range(6):
        for step in (-0.02, 0.02):
            moved = best.copy()
            moved[axis] += step
            assert loss(moved) > loss(best)

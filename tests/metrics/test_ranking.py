"""Scores of order against scikit-learn and scipy, also on resampled rows."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score

from tunesmith.metrics import ranking


def repeat(weights):
    return np.repeat(np.arange(len(weights)), weights.astype(int))


def made_up(n, labels, seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, size=(n, labels)) / 5  # many ties
    return (
        generator.random((n, labels)) < 0.4,
        scores,
        generator.multinomial(n, np.full(n, 1 / n), size=3).astype(float),
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 25), st.integers(2, 4), st.integers(0, 10_000))
def test_average_precision_equals_scikit_learn_on_every_resample(n, labels, seed):
    truth, scores, weights = made_up(n, labels, seed)
    mine = ranking.average_precision(truth, scores, weights)
    for place, drawn in enumerate(weights):
        rows = repeat(drawn)
        for average in ("macro", "micro"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a label without a right row
                theirs = average_precision_score(truth[rows].astype(int), scores[rows], average=average)
            if average == "macro":  # a label that nobody has counts 0 there, and not at all here
                theirs *= truth.shape[1] / max(1, int(truth[rows].any(0).sum()))
            assert mine[f"{average}_average_precision"][place] == pytest.approx(theirs, abs=1e-12)
            again = ranking.average_precision(truth[rows], scores[rows])[f"{average}_average_precision"]
            assert again == pytest.approx(theirs, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 30), st.integers(0, 10_000), st.floats(0, 1e4))
def test_correlation_equals_scipy_on_every_resample(n, seed, shift):
    generator = np.random.default_rng(seed)
    expected = np.round(generator.normal(size=n), 1) + shift
    answered = np.round(expected + generator.normal(size=n), 1)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=3).astype(float)
    mine = ranking.correlation(expected, answered, weights)
    for place, drawn in enumerate(weights):
        rows = repeat(drawn)
        if len(set(expected[rows])) > 1 and len(set(answered[rows])) > 1:
            for name, theirs in (("pearson", pearsonr), ("spearman", spearmanr)):
                want = theirs(expected[rows], answered[rows]).statistic
                # scipy itself is right to about (distance from zero / spread) times 1e-16
                assert mine[name][place] == pytest.approx(want, abs=1e-12 * (1 + shift))
                assert ranking.correlation(expected[rows], answered[rows])[name] == pytest.approx(mine[name][place])


def test_hand_worked_average_precision():
    truth = [[1, 0], [0, 0], [1, 0]]
    scores = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    found = ranking.average_precision(truth, scores)
    assert found["macro_average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3), (
        "the second label has no row to be ranked"
    )
    assert found["micro_average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_order_counts_for_spearman_and_distance_for_pearson():
    found = ranking.correlation([1, 2, 3, 4], [1, 10, 100, 1000])
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(pearsonr([1, 2, 3, 4], [1, 10, 100, 1000]).statistic)
    assert ranking.correlation([1, 2, 3], [3, 2, 1])["spearman"] == pytest.approx(-1.0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_the_same_answer_everywhere_correlates_with_nothing(constant):
    found = ranking.correlation(np.arange(7), np.full(7, constant))
    assert {name: float(value) for name, value in found.items()} == {"pearson": 0.0, "spearman": 0.0}


def test_blocks_of_samples_change_nothing(monkeypatch):
    truth, scores, _ = made_up(20, 3, 5)
    weights = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=(2, 4)).astype(float)
    whole = ranking.average_precision(truth, scores, weights), ranking.correlation(scores[:, 0], scores[:, 1], weights)
    monkeypatch.setattr(ranking, "_CELLS_AT_ONCE", 30)
    parts = ranking.average_precision(truth, scores, weights), ranking.correlation(scores[:, 0], scores[:, 1], weights)
    for one, other in zip(whole, parts, strict=True):
        for name, value in one.items():
            assert value.shape == (2, 4)
            assert value == pytest.approx(other[name], abs=1e-15)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"truth has the shape \(2,\) and scores \(2,\); both should be"):
        ranking.average_precision([1, 0], [0.5, 0.5])
    with pytest.raises(ValueError, match="both should be two rows or more"):
        ranking.correlation([1], [1])
    with pytest.raises(ValueError, match=r"weights have the shape \(3,\); the last axis should be the 2 rows"):
        ranking.correlation([1, 2], [1, 2], [1, 1, 1])


def test_the_interval_of_a_perfect_ranking_holds_its_value():
    truth = np.eye(25)[np.arange(50) % 25]
    weights = np.random.default_rng(0).multinomial(50, np.full(50, 1 / 50), size=50).astype(float)
    assert ranking.average_precision(truth, truth, weights)["macro_average_precision"] == pytest.approx(np.ones(50))

"""Correlations and squared error: against scipy, and on hand-worked rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tunesmith.metrics import correlations, resampled_scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("has_ties", [False, True])
def test_correlations_equal_scipy(seed, has_ties):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(2, 50))
    if has_ties:
        first, second = first.round(), second.round()
    assert correlations.pearson(first, second) == pytest.approx(stats.pearsonr(first, second)[0], abs=1e-12)
    assert correlations.spearman(first, second) == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-12)
    assert correlations.ranks(first).tolist() == stats.rankdata(first).tolist()


def test_a_hand_worked_case():
    found = correlations.values([1, 2, 3], [1, 3, 2])
    assert found == {"spearman": pytest.approx(0.5), "pearson": pytest.approx(0.5), "mse": pytest.approx(2 / 3)}
    assert correlations.values([1, 2, 3], [10, 20, 900])["spearman"] == pytest.approx(1.0)


def test_a_constant_side_has_no_correlation():
    assert correlations.pearson([0.1] * 3, [1, 2, 3]) == 0.0
    assert correlations.spearman([1, 2, 3], [5, 5, 5]) == 0.0
    assert correlations.pearson([], []) == 0.0


def test_intervals_hold_the_value():
    generator = np.random.default_rng(0)
    expected = generator.normal(size=80)
    answered = expected + generator.normal(size=80)
    scores = resampled_scores(80, correlations.of_rows(expected, answered), main="spearman")
    for name, value in scores.values.items():
        low, high = scores.intervals[name]
        assert low < value < high

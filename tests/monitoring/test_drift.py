from __future__ import annotations

import numpy as np
import pytest
from usual_rows import make_reference, mixed, rows

from tunesmith.monitoring.drift import (
    Finding,
    _counts,
    _grouped,
    _separation,
    calibrate_domain,
    compare,
    domain_scores,
    holm,
    jensen_shannon,
)
from tunesmith.monitoring.traits import measure

REFERENCE = make_reference()


def findings(window, null=None):
    traits = measure(window, REFERENCE.embedder, REFERENCE.categories)
    found = compare(REFERENCE.inputs, REFERENCE.outputs, traits, categories=REFERENCE.categories, null=null)
    return {each.name: each for each in found}


@pytest.fixture(scope="module")
def null():
    traits = measure(rows(300, 7), REFERENCE.embedder, REFERENCE.categories)
    return calibrate_domain(REFERENCE.inputs, traits, permutations=20)


def test_jensen_shannon_by_hand():
    assert jensen_shannon(np.array([5, 5]), np.array([50, 50])) == 0
    assert jensen_shannon(np.array([5, 0]), np.array([0, 3])) == pytest.approx(1)
    # p = (1, 0), q = (1/2, 1/2): middle (3/4, 1/4); (log2(4/3) + (log2(2/3) + log2(2)) / 2) / 2
    assert jensen_shannon(np.array([4, 0]), np.array([3, 3])) == pytest.approx(0.311278, abs=1e-6)


def test_holm_by_hand():
    found = holm([Finding(name, "input", 0, p, 0, 0) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))])
    assert {each.name: each.adjusted for each in found} == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


def test_area_and_share_beyond_by_hand():
    # Of nine pairs the window's value is above in 6, equal in 1; the 95% limit of three rows is the largest.
    auc, beyond = _separation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.5, 9.0]))
    assert auc == pytest.approx((1.5 + 2 + 3) / 9)
    assert beyond == pytest.approx(1 / 3)


def test_rare_categories_are_put_together_until_they_count():
    groups = _grouped(np.array([[100, 50, 1, 2, 0], [100, 50, 2, 1, 12]]))
    assert groups.sum(1).tolist() == [153, 165]
    assert groups.shape[1] == 3  # the three rare ones are one group
    assert _counts("label", "output", np.zeros(60, int), np.zeros(60, int), 3) is None  # one kind: nothing to compare


def test_chi_squared_is_scipys_own():
    from scipy.stats import chi2_contingency

    one, other = np.repeat([0, 1, 2], [60, 30, 30]), np.repeat([0, 1, 2], [30, 30, 40])
    found = _counts("label", "output", one, other, 3)
    assert found is not None
    assert found.p_value == pytest.approx(chi2_contingency([[60, 30, 30], [30, 30, 40]], correction=False).pvalue)
    assert (found.reference, found.window) == pytest.approx((0.5, 0.3))


def test_the_usual_is_quiet_in_every_test(null):
    found = findings(rows(300, 11), null)
    assert set(found) == {"length", "confidence", "label", "domain", "novelty"}  # one script, no unknown token
    assert min(each.adjusted for each in found.values()) > 0.01


def test_a_new_topic_is_found_by_the_domain_classifier(null):
    found = findings(mixed(300, 12, 0.3), null)
    assert found["novelty"].adjusted < 1e-3
    assert found["novelty"].window > 0.15
    assert found["domain"].score > 0.02


def test_other_lengths_answers_and_scripts_are_found_by_their_tests():
    import dataclasses

    usual = rows(300, 13)
    assert findings([dataclasses.replace(row, text=row.text * 2) for row in usual])["length"].adjusted < 1e-6
    assert findings([dataclasses.replace(row, category="ship") for row in usual])["label"].adjusted < 1e-6
    assert findings([dataclasses.replace(row, category="new one") for row in usual])["label"].adjusted < 1e-6
    assert findings([dataclasses.replace(row, confidence=0.4) for row in usual])["confidence"].adjusted < 1e-6
    chinese = findings([dataclasses.replace(row, text="快递来得太晚了") for row in usual])
    assert chinese["language"].adjusted < 1e-6
    assert chinese["unknown_tokens"].adjusted < 1e-6


def test_too_few_rows_are_not_judged():
    assert findings(rows(30, 14)) == {}


def test_dealing_at_random_spreads_as_widely_as_windows_without_drift(null):
    """The permutations' spread is what fresh windows show: about 20 draws of each agree to 60%."""
    scores = [
        domain_scores(REFERENCE.inputs.vectors_ND, measure(rows(300, seed), REFERENCE.embedder, ()).vectors_ND)
        for seed in range(100, 118)
    ]
    spreads = np.std(scores, axis=0)
    assert spreads[0] == pytest.approx(null.auc[1], rel=0.6)
    assert spreads[1] == pytest.approx(null.novelty[1], rel=0.6)
    assert abs(np.mean(scores, axis=0)[0] - null.auc[0]) < 2 * null.auc[1]


def test_the_same_rows_give_the_same_scores():
    window = measure(rows(200, 15), REFERENCE.embedder, REFERENCE.categories).vectors_ND
    assert domain_scores(REFERENCE.inputs.vectors_ND, window) == domain_scores(REFERENCE.inputs.vectors_ND, window)

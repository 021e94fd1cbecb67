"""Scores against scikit-learn, and intervals against what theory says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from tunesmith import metrics

LABELS = ("a", "b", "c", "d")


def random_answers(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    expected = generator.integers(0, 3, n)  # label d is never true
    logits = generator.normal(size=(n, 4)) + 1.5 * np.eye(4)[expected]
    return expected, metrics.softmax(logits)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_scores_equal_scikit_learn(n, seed):
    expected, probabilities = random_answers(n, seed)
    scores = metrics.classification_scores(expected, probabilities, LABELS)
    answered = probabilities.argmax(1)
    assert scores.values["accuracy"] == pytest.approx(accuracy_score(expected, answered), abs=1e-12)
    for average in ("macro", "weighted"):
        theirs = precision_recall_fscore_support(expected, answered, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
            assert scores.values[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)
    each = precision_recall_fscore_support(expected, answered, labels=range(4), zero_division=0)
    for index, label in enumerate(LABELS):
        mine = [scores.per_label[label][key] for key in ("precision", "recall", "f1", "support")]
        assert mine == pytest.approx([float(column[index]) for column in each], abs=1e-12)
    assert scores.details["confusion"] == confusion_matrix(expected, answered, labels=range(4)).tolist()


def test_interval_has_the_width_that_theory_gives():
    expected = np.zeros(1000, dtype=int)
    probabilities = np.tile([0.9, 0.1], (1000, 1))
    probabilities[:200] = [0.1, 0.9]
    low, high = metrics.classification_scores(expected, probabilities, ("a", "b")).intervals["accuracy"]
    standard_error = (0.8 * 0.2 / 1000) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert low < 0.8 < high


def test_interval_covers_the_truth_about_95_times_in_100():
    hits = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        right = generator.random(200) < 0.7
        probabilities = np.where(right[:, None], [0.8, 0.2], [0.2, 0.8])
        low, high = metrics.classification_scores(np.zeros(200, dtype=int), probabilities, ("a", "b")).intervals[
            "accuracy"
        ]
        hits += low <= 0.7 <= high
    assert 88 <= hits <= 100


def test_same_seed_gives_same_interval():
    expected, probabilities = random_answers(80, 1)
    first = metrics.classification_scores(expected, probabilities, LABELS, seed=3)
    assert first == metrics.classification_scores(expected, probabilities, LABELS, seed=3)
    assert first.intervals != metrics.classification_scores(expected, probabilities, LABELS, seed=4).intervals


def test_blocks_of_resamples_do_not_change_the_interval(monkeypatch):
    expected, probabilities = random_answers(50, 5)
    whole = metrics.classification_scores(expected, probabilities, LABELS)
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 50 * 70)
    assert metrics.classification_scores(expected, probabilities, LABELS).intervals == whole.intervals


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="zero rows"):
        metrics.classification_scores(np.zeros(0, dtype=int), np.zeros((0, 2)), ("a", "b"))


def test_paired_difference_is_sharper_than_two_intervals():
    generator = np.random.default_rng(0)
    expected = generator.integers(0, 2, 500)
    first = np.where(generator.random(500) < 0.9, expected, 1 - expected)
    second = np.where(generator.random(500) < 0.02, 1 - first, first)
    difference = metrics.paired_difference(expected, first, second, 2, metric="accuracy")
    assert difference.value == pytest.approx((first == expected).mean() - (second == expected).mean())
    assert difference.interval[0] <= difference.value <= difference.interval[1]
    single = metrics.classification_scores(expected, np.eye(2)[first], ("a", "b")).intervals["accuracy"]
    assert difference.interval[1] - difference.interval[0] < single[1] - single[0]


def test_equal_answers_differ_by_nothing():
    expected = np.array([0, 1, 1, 0])
    difference = metrics.paired_difference(expected, expected, expected, 2, metric="macro_f1")
    assert (difference.value, difference.interval, difference.is_clear) == (0.0, (0.0, 0.0), False)


def test_temperature_undoes_a_known_scaling():
    generator = np.random.default_rng(2)
    true_logits = generator.normal(size=(6000, 3)) * 2
    chances = metrics.softmax(true_logits)
    expected = np.array([generator.choice(3, p=row) for row in chances])
    assert metrics.fit_temperature(true_logits * 3.0, expected) == pytest.approx(3.0, rel=0.08)


def test_temperature_stays_finite_when_everything_is_right():
    logits = np.array([[5.0, 0.0], [0.0, 5.0]] * 10)
    assert 0.5 < metrics.fit_temperature(logits, np.array([0, 1] * 10)) < 3


def test_calibration_error_of_a_hand_worked_case():
    bins, error = metrics.calibration(np.array([0.95, 0.95, 0.55, 0.55]), np.array([True, False, True, True]))
    assert bins[9] == {"from": 0.9, "to": 1.0, "n": 2, "confidence": pytest.approx(0.95), "accuracy": 0.5}
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)


def test_abstention_finds_the_widest_cut():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    assert metrics.abstention(confidence, right, 0.75) == {
        "threshold": 0.6,
        "coverage": 0.8,
        "precision_reached": 0.75,
    }
    assert metrics.abstention(confidence, ~right, 0.9) is None


def test_abstention_never_cuts_through_a_tie():
    found = metrics.abstention(np.array([0.9, 0.5, 0.5]), np.array([True, True, False]), 0.9)
    assert found == {"threshold": 0.9, "coverage": pytest.approx(1 / 3), "precision_reached": 1.0}


def test_worst_mistakes_come_most_confident_first():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
    rows = [{"text": t, "row": i} for i, t in enumerate("xyz")]
    worst = metrics.worst_mistakes(np.array([1, 1, 1]), probabilities, ("no", "yes"), rows)
    assert [item["text"] for item in worst] == ["y", "x"]
    assert worst[0]["expected"] == "yes"
    assert worst[0]["answered"] == "no"

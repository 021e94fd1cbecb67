"""Bent cross-entropies against torch, scikit-learn and plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from tunesmith.errors import PlanProblem
from tunesmith.tasks.losses import (
    LossShape,
    balanced_weights,
    divergence,
    given_weights,
    plain_loss,
    shaped_loss,
)


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    logits_NL = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return logits_NL, torch.arange(12) % 4, (torch.rand(12, 4, generator=generator) < 0.3).double()


def test_plain_losses_are_torchs_own(answers):
    logits_NL, labels_N, truth_NL = answers
    assert torch.equal(plain_loss(logits_NL, labels_N), functional.cross_entropy(logits_NL, labels_N, reduction="sum"))
    binary = functional.binary_cross_entropy_with_logits(logits_NL, truth_NL, reduction="sum") / 4
    assert torch.allclose(plain_loss(logits_NL, truth_NL), binary, atol=1e-12)


def test_focal_loss_by_hand_and_without_gamma_the_cross_entropy(answers):
    logits_NL, labels_N, truth_NL = answers
    chosen_N = logits_NL.softmax(1)[range(12), labels_N]
    focal = shaped_loss(logits_NL, labels_N, LossShape(focal_gamma=2.0))
    assert float(focal) == pytest.approx(float((-((1 - chosen_N) ** 2) * chosen_N.log()).sum()), rel=1e-9)
    nearly = shaped_loss(logits_NL, labels_N, LossShape(focal_gamma=1e-12))
    assert float(nearly) == pytest.approx(float(plain_loss(logits_NL, labels_N)), rel=1e-9)
    right_NL = torch.where(truth_NL == 1, logits_NL.sigmoid(), 1 - logits_NL.sigmoid())
    binary = shaped_loss(logits_NL, truth_NL, LossShape(focal_gamma=2.0))
    assert float(binary) == pytest.approx(float((-((1 - right_NL) ** 2) * right_NL.log()).sum() / 4), rel=1e-9)


def test_focal_loss_has_a_finite_gradient_where_the_model_is_quite_sure():
    logits_NL = torch.tensor([[80.0, -80.0], [-3.0, 3.0]], requires_grad=True)
    shaped_loss(logits_NL, torch.tensor([0, 0]), LossShape(focal_gamma=0.5)).backward()
    assert torch.isfinite(logits_NL.grad).all()
    assert float(logits_NL.grad[1].abs().max()) > 0.1


def test_smoothing_is_torchs_and_of_yes_and_no_by_hand(answers):
    logits_NL, labels_N, truth_NL = answers
    wanted = functional.cross_entropy(logits_NL, labels_N, label_smoothing=0.1, reduction="sum")
    assert torch.allclose(shaped_loss(logits_NL, labels_N, LossShape(0.1)), wanted, atol=1e-12)
    target_NL = truth_NL * 0.9 + 0.05
    chances_NL = logits_NL.sigmoid()
    by_hand = -(target_NL * chances_NL.log() + (1 - target_NL) * (1 - chances_NL).log()).sum() / 4
    assert torch.allclose(shaped_loss(logits_NL, truth_NL, LossShape(0.1)), by_hand, atol=1e-9)


def test_weights_multiply_each_units_loss(answers):
    logits_NL, labels_N, truth_NL = answers
    weights_L = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    losses_N = functional.cross_entropy(logits_NL, labels_N, reduction="none")
    shape = LossShape(class_weights=tuple(weights_L.tolist()))
    assert torch.allclose(shaped_loss(logits_NL, labels_N, shape), (losses_N * weights_L[labels_N]).sum(), atol=1e-12)
    pairs = LossShape(class_weights=((2.0, 1.0), (1.0, 1.0), (1.0, 3.0), (1.0, 1.0)))
    losses_NL = functional.binary_cross_entropy_with_logits(logits_NL, truth_NL, reduction="none")
    losses_NL[:, 0] *= torch.where(truth_NL[:, 0] == 1, 2.0, 1.0)
    losses_NL[:, 2] *= torch.where(truth_NL[:, 2] == 1, 1.0, 3.0)
    assert torch.allclose(shaped_loss(logits_NL, truth_NL, pairs), losses_NL.sum() / 4, atol=1e-12)


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 50 + [1] * 7 + [2] * 3)
    wanted = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    found = balanced_weights(np.bincount(labels).tolist(), 60, is_binary=False)
    assert found == pytest.approx(wanted.tolist(), rel=1e-12)
    yes_no = compute_class_weight("balanced", classes=np.array([0, 1]), y=(labels == 1).astype(int))
    assert balanced_weights([7], 60, is_binary=True)[0] == pytest.approx(yes_no[::-1].tolist(), rel=1e-12)


def test_balanced_weights_leave_out_labels_that_never_occur():
    assert balanced_weights([4, 0, 4], 8, is_binary=False) == [1.0, 1.0, 1.0]
    assert balanced_weights([0, 8], 8, is_binary=True) == [[1.0, 1.0], [1.0, 1.0]]


def test_given_weights_go_by_name_and_a_label_of_entities_stands_for_its_tags():
    assert given_weights({"spam": 3}, ["ham", "spam"], is_binary=False) == [1.0, 3.0]
    assert given_weights({"PER": 2, "O": 0.5}, ["O", "B-PER", "I-PER"], is_binary=False) == [0.5, 2.0, 2.0]
    assert given_weights({"a": 2}, ["a", "b"], is_binary=True) == [[2.0, 1.0], [1.0, 1.0]]
    with pytest.raises(PlanProblem) as caught:
        given_weights({"spma": 3}, ["ham", "spam"], is_binary=False)
    assert str(caught.value) == (
        "PlanProblem: class_weights names 'spma', which is no label here\n"
        "  where: class_weights\n  do:    use these: spam, ham"
    )
    with pytest.raises(PlanProblem, match="gives 'spam' the weight 0"):
        given_weights({"spam": 0}, ["ham", "spam"], is_binary=False)


def test_divergence_is_the_mean_of_both_of_kullback_and_leibler(answers):
    first_NL, _, _ = answers
    second_NL = first_NL.flip(0)
    logs = first_NL.log_softmax(1), second_NL.log_softmax(1)
    wanted = sum(functional.kl_div(one, other, log_target=True, reduction="sum") for one, other in (logs, logs[::-1]))
    assert torch.allclose(divergence(first_NL, second_NL, is_binary=False), wanted / 2, atol=1e-12)
    total = 0.0
    for x, y in zip(first_NL.flatten().tolist(), second_NL.flatten().tolist(), strict=True):
        p, q = (1 / (1 + math.exp(-value)) for value in (x, y))
        for a, b in ((p, q), (q, p)):
            total += a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
    assert float(divergence(first_NL, second_NL, is_binary=True)) == pytest.approx(total / 2 / 4, rel=1e-9)
    assert float(divergence(first_NL, first_NL, is_binary=False)) == 0.0

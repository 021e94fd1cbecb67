"""Cross-entropies as training may bend them: smoothed targets, weighted labels, less weight on what is easy.

Letters: N units (rows, or labelled tokens), L labels. Labels are either one index for each unit (N), or a yes (1) or no
(0) for each label (N, L); logits are (N, L). Everything here is summed over the units; the binary losses are averaged
over the labels first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import PlanProblem, nearest_first

if TYPE_CHECKING:
    import torch

_LEAST = 1e-8  # of 1 - probability under a root: its slope is endless at 0


@dataclass(frozen=True)
class LossShape:
    """How the plain cross-entropy is bent."""

    label_smoothing: float = 0.0  # share of each target that is spread over all labels
    focal_gamma: float = 0.0  # power of what is missing to a sure, right answer
    class_weights: tuple[Any, ...] = ()  # of each label; for yes and no a pair (of yes, of no); none: all 1

    @property
    def is_plain(self) -> bool:
        """Whether nothing is bent."""
        return not (self.label_smoothing or self.focal_gamma or self.class_weights)


def plain_loss(logits_NL: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Give the cross-entropy, or the binary one for labels of yes and no: a scalar."""
    return shaped_loss(logits_NL, labels, LossShape())


def shaped_loss(logits_NL: torch.Tensor, labels: torch.Tensor, shape: LossShape) -> torch.Tensor:
    """Give the bent cross-entropy: a scalar.

    Sources: Szegedy et al. 2016 for smoothing; Lin et al. 2017 for the focal loss, (1 - p)^gamma of the cross-entropy,
    where p is the probability of the true answer. Weights multiply a unit's loss and, unlike in torch's mean, the sum
    is divided by the number of units, not by the sum of their weights: a rare label then counts the same in each batch.
    """
    return _binary_loss(logits_NL, labels, shape) if labels.is_floating_point() else _loss(logits_NL, labels, shape)


def _loss(logits_NL: torch.Tensor, labels_N: torch.Tensor, shape: LossShape) -> torch.Tensor:
    from torch.nn import functional

    weights_L = logits_NL.new_tensor(shape.class_weights) if shape.class_weights else None
    if not shape.focal_gamma:
        return functional.cross_entropy(
            logits_NL, labels_N, weight=weights_L, label_smoothing=shape.label_smoothing, reduction="sum"
        )
    losses_N = functional.cross_entropy(logits_NL, labels_N, reduction="none")
    losses_N = _missing(losses_N) ** shape.focal_gamma * losses_N
    return (losses_N if weights_L is None else losses_N * weights_L[labels_N]).sum()


def _binary_loss(logits_NL: torch.Tensor, truth_NL: torch.Tensor, shape: LossShape) -> torch.Tensor:
    from torch.nn import functional

    smoothing = shape.label_smoothing
    losses_NL = functional.binary_cross_entropy_with_logits(
        logits_NL, truth_NL * (1 - smoothing) + smoothing / 2 if smoothing else truth_NL, reduction="none"
    )
    if shape.focal_gamma:
        losses_NL = _missing(losses_NL) ** shape.focal_gamma * losses_NL
    if shape.class_weights:
        yes_L, no_L = logits_NL.new_tensor(shape.class_weights).unbind(1)
        losses_NL = losses_NL * (truth_NL * yes_L + (1 - truth_NL) * no_L)
    return losses_NL.sum() / logits_NL.shape[1]


def _missing(losses: torch.Tensor) -> torch.Tensor:
    """Give 1 - p of losses -log p."""
    return (-(-losses).expm1()).clamp_min(_LEAST)


def divergence(first_NL: torch.Tensor, second_NL: torch.Tensor, *, is_binary: bool) -> torch.Tensor:
    """Give the mean of both Kullback-Leibler divergences between the answers of two sets of logits: a scalar.

    KL(p|q) + KL(q|p) is the sum of (p - q)(log p - log q). Source: Liang et al. 2021, equation 2.
    """
    if is_binary:
        both_NL = (first_NL.sigmoid() - second_NL.sigmoid()) * (first_NL - second_NL)
        return both_NL.sum() / (2 * first_NL.shape[1])
    first_NL, second_NL = first_NL.log_softmax(1), second_NL.log_softmax(1)
    return ((first_NL.exp() - second_NL.exp()) * (first_NL - second_NL)).sum() / 2


def balanced_weights(counts_L: Sequence[float], units: float, *, is_binary: bool) -> list[Any]:
    """Give each label the weight with which all labels count alike, as scikit-learn's "balanced" does.

    Args:
        counts_L: Units with each label.
        units: All units.
        is_binary: Whether each label is a yes or no of its own: then pairs (of yes, of no).

    Returns:
        units / (labels that occur * units with the label), so that the mean over all units is 1; 1 for a label that
        never occurs, or that every unit has.
    """
    counts = np.asarray(counts_L, dtype=np.float64)
    if is_binary:
        return [
            [units / (2 * count), units / (2 * (units - count))] if 0 < count < units else [1.0, 1.0]
            for count in counts.tolist()
        ]
    there = int((counts > 0).sum())
    return [units / (there * count) if count else 1.0 for count in counts.tolist()]


def given_weights(given: Mapping[str, float], names: Sequence[str], *, is_binary: bool) -> list[Any]:
    """Give the weight of each output by its label's name; what is not named counts 1.

    Args:
        given: Label -> weight. A label of entities stands for all its tags (PER for B-PER and I-PER).
        names: Of the outputs, in order.
        is_binary: Whether each label is a yes or no of its own: the weight is then that of yes.

    Raises:
        PlanProblem: A name that no output has, or a weight that is not positive.
    """
    known = {name for output in names for name in (output, _label_of(output))}
    for name, weight in given.items():
        if name not in known:
            raise PlanProblem(
                f"class_weights names '{name}', which is no label here",
                where="class_weights",
                do=f"use these: {nearest_first(name, known)[:500]}",
            )
        if not 0 < weight < float("inf"):
            raise PlanProblem(
                f"class_weights gives '{name}' the weight {weight:g}", where="class_weights", do="give one above 0"
            )
    weights = [float(given.get(name, given.get(_label_of(name), 1.0))) for name in names]
    return [[weight, 1.0] for weight in weights] if is_binary else weights


def _label_of(output: str) -> str:
    return output[2:] if output[:2] in {"B-", "I-"} else output

"""A head that is fitted, not trained step by step: logistic regression on what the output layer reads.

Letters: N rows, H hidden, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith.metrics import Floats
from tunesmith.tasks.contrast import head_layer

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""How freely the head may fit (the C of scikit-learn), with states of length one: the best was 10 to 1000 so far."""

_ITERATIONS, _TOLERANCE = 300, 1e-4
_CERTAIN = 12.0  # the logit of a label that all rows have, or none


@dataclass(frozen=True)
class Head:
    """Weights of an output layer."""

    weight_LH: Floats
    bias_L: Floats

    def logits(self, states_NH: Floats) -> Floats:
        """Give the logits (N, L)."""
        found: Floats = states_NH @ self.weight_LH.T + self.bias_L
        return found

    def put_into(self, model: nn.Module) -> None:
        """Write the weights into the model's output layer."""
        layer = head_layer(model)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(self.weight_LH)))
            layer.bias.copy_(torch.from_numpy(np.ascontiguousarray(self.bias_L)))


def fitted_heads(
    states_NH: Floats, targets: Sequence[Any], *, strengths: Sequence[float] = STRENGTHS
) -> Iterator[Head]:
    """Yield the head of each strength, from the one held back most to the freest.

    Args:
        states_NH: Of the training rows.
        targets: The index of a label for each row, each label at least once; or yes and no (1, 0) for each label.
        strengths: C of scikit-learn for states whose mean length is 1, rising: a fit begins where the last one ended.
    """
    from sklearn.linear_model import LogisticRegression

    length = float(np.linalg.norm(states_NH, axis=1).mean()) or 1.0
    scaled_NH, truth = states_NH / length, np.asarray(targets)
    columns = truth[:, None] if truth.ndim == 1 else truth
    fits = [
        LogisticRegression(max_iter=_ITERATIONS, tol=_TOLERANCE, warm_start=True) if np.ptp(truth_N) else None
        for truth_N in columns.T
    ]
    for strength in strengths:
        parts = []
        for fit, truth_N in zip(fits, columns.T, strict=True):
            if fit is not None:
                fit.set_params(C=strength).fit(scaled_NH, truth_N)
            parts.append(_weights(fit, truth_N, states_NH.shape[1]))
        weight_LH, bias_L = (np.concatenate(each) for each in zip(*parts, strict=True))
        if (
            truth.ndim == 1 and len(bias_L) == 1
        ):  # of two labels scikit-learn gives one logit: the second's over the first's
            weight_LH, bias_L = np.concatenate([-weight_LH, weight_LH]) / 2, np.concatenate([-bias_L, bias_L]) / 2
        yield Head(weight_LH / length, bias_L)


def _weights(fit: Any, truth_N: Any, hidden: int) -> tuple[Floats, Floats]:
    """Give what was fitted; of a label that all rows have, or none, that it is nearly certain."""
    if fit is None:
        return np.zeros((1, hidden)), np.array([_CERTAIN if truth_N[0] else -_CERTAIN])
    return fit.coef_, fit.intercept_

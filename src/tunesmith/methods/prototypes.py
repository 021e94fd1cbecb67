"""A head of class means: the label whose examples lie nearest, written as a plain output layer.

The squared distance of points of length one is linear in the point that is asked for, but for a part that is the same
for every label. So means make weights and biases, and the model stays a plain Transformers model.

Letters: N rows, H hidden, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tunesmith import metrics
from tunesmith.metrics import Floats
from tunesmith.tasks.contrast import head_layer
from tunesmith.tasks.episodes import SCALE

CONFIG = "prototype_scale"
"""Entry of the model's configuration: what the squared distance is multiplied by. Only such heads can be extended."""


def class_means(points_NH: Floats, targets: Sequence[int], labels: int) -> Floats:
    """Give the mean point of each label (L, H); of one without rows, zero."""
    member_NL = np.eye(labels)[list(targets)]
    found: Floats = member_NL.T @ points_NH / np.maximum(member_NL.sum(0), 1.0)[:, None]
    return found


def fitted_scale(points_NH: Floats, targets: Sequence[int], judged: Sequence[int], labels: int) -> float:
    """Give the scale at which the chances of the labels fit best; each judged row is taken out of its mean first.

    Args:
        points_NH: Of all rows, each of length one.
        targets: The index of the label of each.
        judged: The rows that are asked; those alone in their label are left out.
        labels: How many labels there are.
    """
    places = np.asarray(targets)
    counts_L = np.bincount(places, minlength=labels)
    rows = [row for row in judged if counts_L[places[row]] > 1]
    means_LH = class_means(points_NH, targets, labels)
    asked_NH, expected_N = points_NH[rows], places[rows]
    logits_NL = -SCALE * _squared_distances(asked_NH, means_LH)
    left_N1 = counts_L[expected_N][:, None]
    others_NH = (means_LH[expected_N] * left_N1 - asked_NH) / (left_N1 - 1)
    logits_NL[np.arange(len(rows)), expected_N] = -SCALE * ((asked_NH - others_NH) ** 2).sum(1)
    return SCALE / metrics.fit_temperature(logits_NL, expected_N)


def _squared_distances(points_NH: Floats, means_LH: Floats) -> Floats:
    found: Floats = (points_NH**2).sum(1)[:, None] - 2 * points_NH @ means_LH.T + (means_LH**2).sum(1)[None]
    return found


def put_means(model: nn.Module, means_LH: Floats, *, scale: float, length: float) -> None:
    """Make the model's output layer answer with the nearest mean.

    Args:
        model: Changed in place: its head, and its configuration.
        means_LH: One for each label; the layer is made anew where it has another number of them.
        scale: Times the squared distance.
        length: That of the states which the layer reads.
    """
    layer: Any = head_layer(model)
    weight = torch.from_numpy(2 * scale / length * means_LH).float()
    bias = torch.from_numpy(-scale * (means_LH**2).sum(1)).float()
    with torch.no_grad():
        layer.weight = nn.Parameter(weight.to(layer.weight.device), requires_grad=layer.weight.requires_grad)
        layer.bias = nn.Parameter(bias.to(layer.bias.device), requires_grad=layer.bias.requires_grad)
    layer.out_features = len(means_LH)
    setattr(model.config, CONFIG, float(scale))
    model.config.prototype_length = float(length)


def extended(model: nn.Module, states_NH: Floats, targets: Sequence[int], names: Sequence[str]) -> None:
    """Add labels to a head of means, from a few rows of each; what it knew before stays as it was.

    Args:
        model: With such a head. Changed in place: its head, and the names in its configuration.
        states_NH: What the output layer reads of each row.
        targets: The place of each row's label in `names`.
        names: The new labels.
    """
    layer = head_layer(model)
    scale, length = float(getattr(model.config, CONFIG)), float(model.config.prototype_length)
    known_LH = layer.weight.detach().cpu().double().numpy() * length / (2 * scale)
    points_NH = states_NH / np.maximum(np.linalg.norm(states_NH, axis=1, keepdims=True), 1e-12)
    means_LH = np.concatenate([known_LH, class_means(points_NH, targets, len(names))])
    put_means(model, means_LH, scale=scale, length=length)
    all_names = [*(model.config.id2label[place] for place in range(len(known_LH))), *names]
    model.config.id2label = dict(enumerate(all_names))
    model.config.label2id = {name: place for place, name in enumerate(all_names)}

"""Reptile: the gradient of an episode is the way that a few steps of gradient descent on it would take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tunesmith.tasks.episodes import EpisodicTask
from tunesmith.training.learning import Fill


@dataclass(frozen=True)
class Reptile:
    """Learns from where inner steps lead. The optimiser of the run takes the outer step.

    Source: Nichol et al. 2018, algorithm 1 with one episode a step; (start - end) / (rate * steps) stands for the
    gradient, so that rate and number of inner steps do not change how far the outer step goes. Where we differ: the
    head is not learnt across episodes but made of each episode's means (as Triantafillou et al. 2020 do for MAML), so
    that without any inner step the model answers with the nearest mean.
    """

    task: EpisodicTask

    def learn(self, fill: Fill) -> torch.Tensor:
        """Set the gradients; give the loss before the first inner step, summed over the rows."""
        labels = fill.batch["labels"].unique(return_inverse=True)[1]
        adapted = self.task.adapted(fill.model, {**fill.batch, "labels": labels})
        with fill.computing(), adapted:
            ends = [parameter.detach().clone() for parameter in adapted.parameters]
        way = self.task.inner_rate * self.task.inner_steps
        for parameter, end in zip(adapted.parameters, ends, strict=True):
            slope = (parameter.detach() - end) / way
            parameter.grad = slope if parameter.grad is None else parameter.grad + slope
        loss: torch.Tensor = adapted.first_loss
        return loss

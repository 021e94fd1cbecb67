"""Averaged weights by hand, and that nothing of them leaks into training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tunesmith.training.averaging import Average


def walk(kind: str, steps: int, **options) -> tuple[nn.Linear, Average, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    start = model.weight.detach().clone()
    average = Average(model, kind, steps=steps, **{"decay": 0.9, "share": 0.5, **options})
    seen = [start]
    for step in range(1, steps + 1):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        seen.append(model.weight.detach().clone())
        average.after_step(step)
    return model, average, seen


def test_moving_average_by_hand():
    _, average, seen = walk("ema", 120)
    mean = seen[0]
    for step, weights in enumerate(seen[1:], 1):
        memory = min(0.9, (1 + step) / (10 + step))
        mean = memory * mean + (1 - memory) * weights
    assert min(0.9, 121 / 130) == 0.9, "the last steps have the full memory"
    assert torch.allclose(average.mean["weight"], mean, atol=1e-12)


@pytest.mark.parametrize(("share", "first"), [(0.5, 6), (0.25, 8), (1.0, 1), (0.0001, 10)])
def test_mean_over_the_last_steps_by_hand(share, first):
    _, average, seen = walk("swa", 10, share=share)
    assert average.first == first
    assert torch.allclose(average.mean["weight"], torch.stack(seen[first:]).mean(0), atol=1e-12)


def test_the_mean_is_in_place_for_a_while_and_the_weights_come_back():
    model, average, seen = walk("swa", 10)
    with average.in_place(10):
        assert torch.allclose(model.weight, torch.stack(seen[6:]).mean(0))
    assert torch.equal(model.weight, seen[-1])
    with pytest.raises(RuntimeError), average.in_place(10):
        raise RuntimeError
    assert torch.equal(model.weight, seen[-1])
    with average.in_place(5):
        assert torch.equal(model.weight, seen[-1]), "before the first averaged step nothing changes"


def test_the_mean_settles_and_what_is_frozen_stays():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = Average(model, "ema", steps=3, decay=0.5, share=0.5)
    assert set(average.mean) == {"weight"}
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.after_step(1)
    average.settle(1)
    assert torch.allclose(model.weight, before + 9 / 11)


def test_a_run_that_ended_before_there_was_a_mean_keeps_its_weights():
    model, average, seen = walk("swa", 10)
    average.settle(4)
    assert torch.equal(model.weight, seen[-1])

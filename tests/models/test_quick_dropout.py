"""Quick dropout drops the share that it should, keeps sums on average, and is there only while it is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tunesmith.models.quick_dropout import QuickDropout, dropped, quick_dropout


@pytest.mark.parametrize("rate", [0.004, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_share_that_is_dropped_and_the_mean(rate, kind):
    torch.manual_seed(0)
    found = dropped(torch.ones(401, 997, dtype=kind), rate).float()
    share = float((found == 0).float().mean())
    assert share == pytest.approx(rate, abs=1 / 512 + 0.003)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)
    assert len(found.unique()) == 2


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    is_gone = (dropped(torch.ones(1_000_000), 0.25) == 0).float()
    for step in (1, 2, 4, 8):  # eight numbers share a draw of 64 bits
        both = float((is_gone[step:] * is_gone[:-step]).mean())
        assert both == pytest.approx(0.25**2, abs=0.002)


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (8, 8), (2, 3, 7)])
def test_any_shape_and_the_gradient_of_what_stays(shape):
    torch.manual_seed(1)
    values = torch.ones(shape, requires_grad=True)
    found = dropped(values, 0.5)
    found.sum().backward()
    assert found.shape == torch.Size(shape)
    assert torch.equal(values.grad, found.detach()), "one to what is kept, scaled; none to what is dropped"


def test_the_same_seed_drops_the_same():
    first, second = (torch.manual_seed(3) and dropped(torch.ones(1000), 0.3) for _ in range(2))
    assert torch.equal(first, second)


def test_layers_are_quick_inside_and_as_they_were_afterwards():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.0)))
    with quick_dropout(model):
        kinds = [type(module) for module in model.modules() if isinstance(module, nn.Dropout)]
        torch.manual_seed(0)
        assert 0.4 < float((model[1](torch.ones(2000)) == 0).float().mean()) < 0.6
        twin = copy.deepcopy(model)
        model.eval()
        assert torch.equal(model[1](torch.ones(9)), torch.ones(9))
    assert kinds == [QuickDropout, QuickDropout]
    assert [type(module) for module in model.modules() if isinstance(module, nn.Dropout)] == [nn.Dropout] * 2
    assert isinstance(twin[1], nn.Dropout)

"""The rate at chosen steps of every schedule."""

from __future__ import annotations

import itertools
import math

import pytest

from tunesmith.errors import PlanProblem
from tunesmith.training.schedules import SCHEDULES, demand_schedule, learning_rate_at
from tunesmith.types import Plan


def rates(schedule: str, warmup_ratio: float = 0.1) -> list[float]:
    options = {"learning_rate": 2.0, "warmup_ratio": warmup_ratio, "schedule": schedule}
    plan = Plan("t", "full", "b", "", {}, (), options, 0, "cpu", 1, "no", 100, 0.0, 0.0)
    return [learning_rate_at(step, plan) for step in range(101)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_to_the_peak_and_never_rises_after(schedule):
    found = rates(schedule)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert max(found) == pytest.approx(2.0)
    after = found[10:]
    assert after[0] == pytest.approx(2.0)
    assert all(one >= other for one, other in itertools.pairwise(after))


def test_chosen_steps():
    assert rates("linear")[55] == pytest.approx(1.0)
    assert rates("linear")[100] == 0.0
    assert rates("cosine")[55] == pytest.approx(1.0)
    assert rates("cosine")[40] == pytest.approx(1 + math.cos(math.pi / 3))
    assert rates("cosine")[100] == pytest.approx(0.0)
    assert rates("constant")[99] == 2.0
    assert rates("inverse-sqrt")[40] == pytest.approx(1.0)
    assert rates("inverse-sqrt", warmup_ratio=0)[4] == pytest.approx(1.0)


def test_after_the_warm_up_they_are_what_transformers_has():
    import torch
    import transformers

    def theirs(make, **more):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
        shape = make(optimizer, 10, **more).lr_lambdas[0]
        return [2.0 * shape(step) for step in range(10, 100)]

    assert rates("cosine")[10:100] == pytest.approx(
        theirs(transformers.get_cosine_schedule_with_warmup, num_training_steps=100)
    )
    assert rates("linear")[10:100] == pytest.approx(
        theirs(transformers.get_linear_schedule_with_warmup, num_training_steps=100)
    )
    assert rates("inverse-sqrt")[10:100] == pytest.approx(theirs(transformers.get_inverse_sqrt_schedule))


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(PlanProblem) as caught:
        demand_schedule("cosin")
    assert str(caught.value) == (
        "PlanProblem: no schedule 'cosin'\n  where: schedule\n"
        "  do:    use one of: cosine, constant, inverse-sqrt, linear"
    )

"""Bottlenecks stand where attention and feed-forward end, and start as nothing."""

from __future__ import annotations

import families
import pytest
import torch

from tunesmith.errors import PlanProblem
from tunesmith.methods import adapter
from tunesmith.models.anatomy import find_anatomy

PLACES = {  # family -> (behind both, behind the feed-forward only)
    "bert": (4, 2),
    "distilbert": (4, 2),
    "gpt2": (4, 2),
    "bart": (7, 3),
    "t5": (10, 4),
}


def applied(family: str, **changes):
    model = families.make(family)
    anatomy = find_anatomy(model, has_fresh_head=family in families.FRESH)
    torch.manual_seed(0)
    return adapter.apply(model, anatomy, {**families.OPTIONS, **changes})


def places(model) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, adapter.Adapted)]


@pytest.mark.parametrize("family", PLACES)
def test_they_stand_behind_each_attention_and_feed_forward_or_the_latter_only(family):
    both, feed_forward = PLACES[family]
    assert len(places(applied(family))) == both
    found = places(applied(family, adapter_places="feed-forward"))
    assert len(found) == feed_forward
    assert not [name for name in found if "att" in name.lower()]


def test_the_places_of_bert_are_those_of_the_papers():
    assert places(applied("bert"))[:2] == [
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.output.dense",
    ]


@pytest.mark.parametrize("family", PLACES)
def test_the_model_answers_as_before_until_it_learns(family):
    with torch.no_grad():
        before = families.logits(families.make(family), family)
        assert torch.equal(families.logits(applied(family).eval(), family), before)


def test_a_correction_is_added_to_what_the_layer_writes():
    torch.manual_seed(0)
    layer = adapter.Adapted(torch.nn.Linear(6, 4), 4, 3)
    with torch.no_grad():
        layer.up.weight.normal_()
        layer.up.bias.normal_()
        states = torch.randn(2, 5, 6)
        written = layer.layer(states)
        inner = torch.nn.functional.gelu(written @ layer.down.weight.T + layer.down.bias)
        expected = written + inner @ layer.up.weight.T + layer.up.bias
        assert torch.allclose(layer(states), expected, atol=1e-6)


def test_other_places_are_refused():
    with pytest.raises(PlanProblem) as caught:
        applied("bert", adapter_places="everywhere")
    assert str(caught.value) == (
        "PlanProblem: adapter_places is 'everywhere'\n  where: adapter_places\n  do:    use one of: both, feed-forward"
    )

"""The vectors scale keys, values and the feed-forward's inner states."""

from __future__ import annotations

import families
import torch

from tunesmith.methods import companions, ia3
from tunesmith.models.anatomy import find_anatomy


def applied(family: str):
    model = families.make(family)
    return ia3.apply(model, find_anatomy(model, has_fresh_head=family in families.FRESH), {}).eval()


def test_they_start_as_ones_and_change_nothing():
    with torch.no_grad():
        before = families.logits(families.make("bert"), "bert")
        assert torch.equal(families.logits(applied("bert"), "bert"), before)


def test_keys_are_scaled_behind_and_the_feed_forward_before():
    attention = applied("bert").bert.encoder.layer[0]
    key, second = attention.attention.self.key, attention.output.dense
    states, inner = torch.randn(2, 16), torch.randn(2, 24)
    with torch.no_grad():
        for layer in (key, second):
            layer.ia3_l["default"].normal_()
        scale = key.ia3_l["default"].view(-1)
        assert torch.allclose(key(states), key.base_layer(states) * scale, atol=1e-6)
        scale = second.ia3_l["default"].view(-1)
        assert torch.allclose(second(inner), second.base_layer(inner * scale), atol=1e-6)


def test_a_family_that_peft_does_not_know_is_declined_with_those_that_it_knows():
    reason = ia3.why_not("any", find_anatomy(families.make("distilbert")))
    assert reason is not None
    assert reason.startswith("PEFT does not know which layers of distilbert make keys and values; it knows ")
    assert "bert, " in reason
    assert companions.no_linear_layers(find_anatomy(families.make("bert"))) is None

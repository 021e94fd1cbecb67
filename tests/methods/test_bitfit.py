"""Biases and the head are free, and nothing else."""

from __future__ import annotations

import families
import pytest

from tunesmith.methods import bitfit
from tunesmith.models.anatomy import find_anatomy


@pytest.mark.parametrize("family", ["bert", "gpt2", "bart"])
def test_biases_and_head_are_free(family):
    model = families.make(family)
    anatomy = find_anatomy(model, has_fresh_head=family in families.FRESH)
    bitfit.apply(model, anatomy, {})
    fresh = {id(one) for part in anatomy.fresh for one in part.parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name.endswith("bias") or id(parameter) in fresh), name


def test_a_model_without_biases_is_declined():
    assert bitfit.why_not("any", find_anatomy(families.make("t5"))) == "the body of this model has no biases to train"

"""Methods that reach the top blocks alone leave the others frozen, so that their states can be kept."""

from __future__ import annotations

import importlib

import families
import pytest
import torch

from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.prefix_cache import frozen_blocks

REACHING = ("lora", "adalora", "dora", "adapter", "ia3", "bitfit")


def applied(name: str, family: str, blocks: int):
    method = importlib.import_module(f"tunesmith.methods.{name}")
    model = families.make(family)
    anatomy = find_anatomy(model, has_fresh_head=family in families.FRESH)
    return method.apply(model, anatomy, {**families.OPTIONS, "adapted_layers": blocks}), anatomy, method


@pytest.mark.parametrize("name", REACHING)
def test_the_lowest_block_learns_only_when_it_is_reached(name):
    for blocks, frozen in ((0, 0), (1, 1), (2, 0)):
        _, anatomy, _ = applied(name, "bert", blocks)
        assert frozen_blocks(anatomy) == frozen, blocks
        learns = [any(one.requires_grad for one in block.parameters()) for block in anatomy.blocks]
        assert learns == [frozen == 0, True]


@pytest.mark.parametrize("name", REACHING)
def test_training_changes_nothing_below(name):
    model, anatomy, method = applied(name, "bert", 1)
    before = {key: value.clone() for key, value in anatomy.blocks[0].state_dict().items()}
    whole = families.logits(model, "bert").detach()
    families.train(model, "bert", method)
    assert not torch.equal(families.logits(model, "bert"), whole)
    after = anatomy.blocks[0].state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_an_encoder_decoder_is_reached_at_the_top_of_both_its_stacks():
    _, anatomy, _ = applied("lora", "bart", 1)
    learns = [
        [any(one.requires_grad for one in block.parameters()) for block in stack]
        for stack in sorted(anatomy.stacks, key=len)
    ]
    assert learns == [[True], [False, True]]


@pytest.mark.parametrize("name", ["lora", "adapter", "bitfit"])
def test_more_blocks_than_there_are_is_refused(name):
    with pytest.raises(PlanProblem) as refused:
        applied(name, "bert", 3)
    assert str(refused.value) == (
        "PlanProblem: adapted_layers is 3; this model has 2 blocks\n"
        "  where: adapted_layers\n"
        "  do:    choose 1 to 2, or 0 for all"
    )

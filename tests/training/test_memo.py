"""What several runs share changes nothing of any of them."""

from __future__ import annotations

import pytest
import torch

from tunesmith.tasks import TASKS, find_task
from tunesmith.training.memo import Forgetful, Memo, reading
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import Recipe, keys, make_recipe


def test_what_was_made_is_made_once():
    made: list[int] = []
    memo = Memo()
    assert memo.recall("a", lambda: made.append(1) or len(made)) == 1
    assert memo.recall("a", lambda: made.append(1) or len(made)) == 1
    assert memo.recall("b", lambda: made.append(1) or len(made)) == 2
    assert memo.recall(["no key"], lambda: made.append(1) or len(made)) == 3
    assert memo.recall(["no key"], lambda: made.append(1) or len(made)) == 4


def test_a_copy_may_be_changed_and_chance_goes_on_as_after_the_first():
    memo = Memo()
    draws = []
    for _ in range(2):
        copy = memo.copy("model", lambda: torch.rand(3))
        draws.append(torch.rand(3))
        copy.zero_()
    assert memo.copy("model", lambda: None).sum() > 0
    assert torch.equal(*draws)


def test_a_run_alone_keeps_nothing():
    made: list[int] = []
    memo = Forgetful()
    for _ in range(2):
        memo.recall("a", lambda: made.append(1))
    assert len(made) == 2


def test_no_key_that_shapes_reading_is_left_out():
    """A task's options may change how rows are read: none of them counts as shaping training alone."""
    changed = {item.name: f"other {item.name}" for item in keys() if item.metadata["kind"] == "text"}
    plain = Recipe()
    kept = reading(make_recipe({**changed, "abstain_at": ""}))
    same = {name for name in changed if getattr(kept, name) == getattr(plain, name)}
    for task in TASKS:
        assert not same & set(find_task(task).options)
    assert not same & {"data", "valid", "test", "task", "columns", "text", "label", "model", "metric"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_shares_starts_from_the_same_bits(toy_options, method):
    """LoRA draws its first factors after the head: the chances that follow the copy have to be the same."""
    recipe = make_recipe({**toy_options, "method": method, "epochs": 1})
    memo = Memo()
    prepare(make_recipe({**toy_options, "method": "top-layers", "epochs": 2}), memo=memo)
    shared, alone = prepare(recipe, memo=memo), prepare(recipe)
    assert shared.plan.id == alone.plan.id
    for (name, mine), (_, other) in zip(shared.model.named_parameters(), alone.model.named_parameters(), strict=True):
        assert torch.equal(mine, other), name

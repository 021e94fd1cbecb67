"""Epochs, steps and fills hold what they promise, whatever the lengths."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.tasks.batching import POOL_STEPS, epoch_steps, fill, steps_per_epoch

LENGTHS = st.lists(st.integers(1, 600), max_size=400)
SIZES = st.integers(1, 40)


@settings(deadline=None)
@given(LENGTHS, SIZES, st.integers(0, 5), st.integers(0, 5))
def test_every_row_stands_in_one_step_of_an_epoch(lengths, batch_size, seed, epoch):
    steps = epoch_steps(lengths, batch_size, seed=seed, epoch=epoch)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    assert all(1 <= len(step) <= batch_size for step in steps)
    assert len(steps) == steps_per_epoch(len(lengths), batch_size)
    assert steps == epoch_steps(lengths, batch_size, seed=seed, epoch=epoch)


@settings(deadline=None)
@given(st.integers(0, 5000), SIZES)
def test_the_number_of_steps_is_known_beforehand(rows, batch_size):
    assert len(epoch_steps([1] * rows, batch_size, seed=0, epoch=0)) == steps_per_epoch(rows, batch_size)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 2000))
def test_fills_keep_to_the_budget(lengths, batch_tokens):
    fills = fill(range(len(lengths)), lengths, batch_tokens)
    assert sorted(row for part in fills for row in part) == list(range(len(lengths)))
    for part in fills:
        assert len(part) == 1 or len(part) * max(lengths[row] for row in part) <= batch_tokens
    assert fills == fill(range(len(lengths) - 1, -1, -1), lengths, batch_tokens), "whatever order the rows came in"


def test_a_fill_takes_only_the_rows_it_is_given():
    assert fill([5, 2], [9] * 6, 100) == [[2, 5]]
    assert fill([], [9] * 6, 100) == []


def test_longest_rows_come_first_so_that_too_little_memory_shows_at_once():
    assert fill([0, 1, 2, 3], [3, 9, 5, 20], 12) == [[3], [1], [2, 0]]


def test_another_epoch_or_seed_has_another_order():
    lengths = list(range(1, 301))
    orders = [
        epoch_steps(lengths, 16, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (10, 0), (1, 1))
    ]
    assert len({str(order) for order in orders}) == 5


def test_the_order_is_the_same_on_every_machine():
    assert epoch_steps([3, 1, 2, 5, 4, 9, 7], 3, seed=7, epoch=2) == [[1, 2, 0], [4, 3, 6], [5]]


def test_rows_of_like_length_stand_together():
    """Padding to the longest of a step costs little: at most a few percent with lengths as mixed as these."""
    lengths = [5 + (row * 37) % 60 for row in range(2000)]
    steps = epoch_steps(lengths, 16, seed=0, epoch=0)
    padded = sum(len(step) * max(lengths[row] for row in step) for step in steps)
    assert padded < 1.05 * sum(lengths)
    assert len(lengths) > POOL_STEPS * 16

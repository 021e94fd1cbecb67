"""Put examples of like length together, so that little of a batch is padding. Pure arithmetic on lengths.

Three words: an *epoch* is a pass over all rows; a *step* is the `batch_size` rows behind one optimiser update; a
*fill* is the part of a step that goes through the model at once, at most `batch_tokens` tokens, padding included.
The step decides what is learnt and does not depend on memory; the fill decides what fits.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import Any, overload

POOL_STEPS = 50  # rows are sorted within a pool of this many steps: 2% padding on SST-2, and still well mixed


class Steps(Sequence[list[int]]):
    """The rows of each step, made when they are asked for; costs four bytes a row."""

    def __init__(self, order: array[int], starts: array[int], batch_size: int) -> None:
        self._order, self._starts, self._batch_size = order, starts, batch_size

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...

    @overload
    def __getitem__(self, place: slice) -> Steps: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Steps(self._order, self._starts[place], self._batch_size)
        start = self._starts[place]
        return self._order[start : start + self._batch_size].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def epoch_steps(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> Steps:
    """Give the row indices of each step of one epoch.

    All rows are shuffled, cut into pools, sorted by length inside each pool, cut into steps, and the steps of all pools
    are shuffled. Every row stands in exactly one step; each step but the last of a pool has `batch_size` rows.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows in a step (1 or more).
        seed: Of the whole run.
        epoch: Counted from 0; the same seed and epoch give the same steps on every machine.
    """
    generator = random.Random(f"{seed}/{epoch}")
    # Arrays are shuffled as lists are, and hold a million rows in 4 MB.
    order = array("I", range(len(lengths)))
    generator.shuffle(order)
    pool_rows = batch_size * POOL_STEPS
    for start in range(0, len(order), pool_rows):
        pool = order[start : start + pool_rows]
        order[start : start + pool_rows] = array("I", sorted(pool, key=lambda row: lengths[row]))
    starts = array("I", range(0, len(order), batch_size))
    generator.shuffle(starts)
    return Steps(order, starts, batch_size)


def lengths_of(examples: Sequence[Any]) -> Sequence[int]:
    """Give the tokens of each example; many of them know without making each example."""
    known: Sequence[int] | None = getattr(examples, "lengths", None)
    return known if known is not None else [example.length for example in examples]


def cut_of(examples: Sequence[Any]) -> int:
    """Give of how many examples something was cut off; many of them know without making each example."""
    known: int | None = getattr(examples, "cut", None)
    return known if known is not None else sum(example.was_cut for example in examples)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Give how many steps `epoch_steps` makes of this many rows."""
    pool_rows = batch_size * POOL_STEPS
    whole, rest = divmod(rows, pool_rows)
    return whole * POOL_STEPS + -(-rest // batch_size)


def fill(rows: Sequence[int], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows into fills of at most `batch_tokens` padded tokens, longest rows first.

    A row longer than the budget has a fill of its own.
    """
    fills: list[list[int]] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        widest = lengths[fills[-1][0]] if fills else 0
        if fills and widest * (len(fills[-1]) + 1) <= batch_tokens:
            fills[-1].append(row)
        else:
            fills.append([row])
    return fills

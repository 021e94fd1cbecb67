"""How fast engines answer on this machine, one by one and in bulk, and whether they answer alike.

All engines take turns on the same batches, several rounds of them, and the best round counts: what else the machine
does then slows all of them, or none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.tasks import Example
from tunesmith.tasks.batching import fill
from tunesmith.tasks.engine import Arrays, Engine

BUDGETS = (512, 1024, 2048, 4096)
"""Tokens in the model at once that are tried: more was no faster on any CPU so far, and less fits into its caches."""

PREFER = ("balanced", "latency", "throughput")
"""What the fastest engine is to be fastest at: the same engine need not win both."""

_ROUNDS = 3
_ROWS_ALONE = 32  # that are timed one by one, at most
_BULK_SECONDS = 1.5  # that one pass of the slowest engine over the rows in bulk may take, about
_ROWS_IN_BULK = 256

MakeInputs = Callable[[Sequence[Example]], Arrays]


@dataclass(frozen=True)
class Timing:
    """What an engine takes, without reading texts and answers."""

    milliseconds: float  # one row by itself, on average
    rows_per_second: float  # in bulk
    batch_tokens: int  # tokens at once at which it was fastest in bulk

    def speed(self, prefer: str = "balanced") -> float:
        """Give rows per second: alone (latency), in bulk (throughput), or the geometric mean of both (balanced)."""
        alone = 1000 / self.milliseconds
        speeds = {"latency": alone, "throughput": self.rows_per_second}
        return speeds.get(prefer, math.sqrt(alone * self.rows_per_second))


def time_engines(
    engines: Mapping[str, Engine], examples: Sequence[Example], make_inputs: MakeInputs
) -> dict[str, Timing]:
    """Time engines on the same rows.

    Args:
        engines: By name.
        examples: One or more, of usual lengths.
        make_inputs: Pads examples to what goes into the model.
    """
    some = _spread(examples, _ROWS_ALONE)
    alone = _best_seconds(engines, [make_inputs([example]) for example in some])
    slowest = max(alone.values()) / len(some)
    many = _spread(examples, max(len(some), min(_ROWS_IN_BULK, int(_BULK_SECONDS / slowest))))
    lengths = [example.length for example in many]
    best: dict[str, tuple[float, int]] = {}
    for budget in BUDGETS:
        fills = fill(range(len(many)), lengths, budget)
        found = _best_seconds(engines, [make_inputs([many[row] for row in rows]) for rows in fills], rounds=2)
        for name, seconds in found.items():
            best[name] = min(best.get(name, (math.inf, 0)), (seconds, budget))
    return {name: Timing(1000 * alone[name] / len(some), len(many) / best[name][0], best[name][1]) for name in engines}


def _spread(examples: Sequence[Example], most: int) -> list[Example]:
    """Give evenly spaced examples."""
    step = max(1.0, len(examples) / most)
    return [examples[int(place * step)] for place in range(min(most, len(examples)))]


def _best_seconds(engines: Mapping[str, Engine], batches: Sequence[Arrays], rounds: int = _ROUNDS) -> dict[str, float]:
    """Give the sum over batches of the best of several rounds; the first pass of each engine only warms up."""
    best = {name: [math.inf] * len(batches) for name in engines}
    for number in range(rounds + 1):
        for place, batch in enumerate(batches):
            for name, engine in engines.items():
                start = time.perf_counter()
                engine.run(batch)
                if number:
                    best[name][place] = min(best[name][place], time.perf_counter() - start)
            if not number and place >= 2:
                break
    return {name: sum(seconds) for name, seconds in best.items()}


def outputs_of(engine: Engine, batches: Sequence[Arrays]) -> list[Arrays]:
    """Give what an engine answers to batches, zero where padding is."""
    return [_real(batch, engine.run(batch)) for batch in batches]


def _real(inputs: Arrays, outputs: Arrays) -> Arrays:
    mask_BT = inputs["attention_mask"].astype(bool)
    found = {}
    for name, array in outputs.items():
        if array.shape[:2] == mask_BT.shape:  # one answer for each token: what stands on padding means nothing
            shaped = mask_BT.reshape(mask_BT.shape + (1,) * (array.ndim - 2))
            found[name] = np.where(shaped, array, 0.0)
        else:
            found[name] = array
    return found


def largest_difference(plain: Sequence[Arrays], other: Sequence[Arrays]) -> float:
    """Give by how much two engines' answers differ at most, in units of the largest of them (1 at least)."""
    worst = 0.0
    for one, two in zip(plain, other, strict=True):
        for name, array in one.items():
            size = max(1.0, float(np.abs(array).max(initial=0.0)))
            difference = float(np.abs(array - two[name]).max(initial=0.0)) / size
            worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst

"""Say before a run starts what it will cost: seconds and memory, from a step that is really made."""

from __future__ import annotations

import contextlib
import functools
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from tunesmith.models.anatomy import Anatomy
from tunesmith.models.prefix_cache import FrozenPrefix, States
from tunesmith.tasks import Example, Task
from tunesmith.tasks.batching import epoch_steps, fill, lengths_of
from tunesmith.training.learning import Fill, Learning

_PRICED_ANSWERS = 8
_PRICED_ROWS = 20_000  # an epoch of more rows is priced by this many


def price_of_answering(
    task: Task, model: nn.Module, examples: Sequence[Example], settings: Mapping[str, Any]
) -> tuple[float, float]:
    """Time the answers to a few middling examples; give the seconds of one and the memory in MiB that is held."""
    middle = sorted(examples, key=lambda example: example.length)[len(examples) // 2 :][:_PRICED_ANSWERS]
    seconds = _best_of_two(lambda: task.answer(model, middle, **settings))
    return seconds / len(middle), _held_mib()


def price_of_training(
    task: Task,
    model: nn.Module,
    examples: Sequence[Example],
    *,
    options: Mapping[str, Any],
    anatomy: Anatomy,
    tokenizer: Any,
    learning: Learning,
    computing: Callable[[nn.Module], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> tuple[float, float]:
    """Time one real step of middling length; give the seconds of training and the memory in MiB.

    Evaluation adds about a tenth, which is included. On a GPU the step is timed on the CPU all the same, so the
    estimate is an upper bound there; the progress line corrects it from the first steps on.

    Args:
        task: Makes the batch.
        model: With the method applied; the step leaves no trace in it.
        examples: To train on.
        options: Of the plan: `epochs`, `batch_size`, `gradient_accumulation_steps`, `batch_tokens`, `prefix_blocks`.
        anatomy: Of the model.
        tokenizer: For the task.
        learning: How a gradient is made.
        computing: Gives the precision of a pass through the model.
    """
    lengths = lengths_of(examples)[:_PRICED_ROWS]
    per_step = int(options["batch_size"]) * int(options["gradient_accumulation_steps"])
    steps = epoch_steps(lengths, per_step, seed=0, epoch=0)
    fills = [part for step in steps for part in fill(step, lengths, int(options["batch_tokens"]))]
    tokens = [len(part) * max(lengths[row] for row in part) for part in fills]
    middle = sorted(range(len(fills)), key=lambda index: tokens[index])[len(fills) // 2]
    batch = task.batch([examples[row] for row in fills[middle]], tokenizer)
    kept = torch.get_rng_state()
    learn = Fill(model, batch, lambda loss: loss.backward(), computing=functools.partial(computing, model))
    once, again = _time_step(task, learn, anatomy, int(options["prefix_blocks"]), learning)
    torch.set_rng_state(kept)
    free = sum(p.numel() for p in model.parameters() if p.requires_grad)
    update = 5e-10 * free * len(steps)  # AdamW reads and writes about 28 bytes a parameter
    share = sum(tokens) / max(tokens[middle], 1) * len(examples) / max(1, len(lengths))
    epochs = float(options["epochs"])
    seconds = (share * (again * epochs + once) + update * epochs) * 1.1
    # What the process holds now includes weights and one step's activations; gradients and two moments come on top,
    # and the largest step needs more than the middling one.
    return seconds, _held_mib() + 12 * free / 2**20


def _time_step(task: Task, one: Fill, anatomy: Anatomy, blocks: int, learning: Learning) -> tuple[float, float]:
    """Give the seconds that a batch costs once (its frozen blocks, where they are kept) and in every epoch."""
    model, batch = one.model, one.batch

    def learn() -> None:
        model.train()
        learning.learn(one)

    def look() -> None:
        with torch.no_grad():
            task.loss(model.eval(), batch)

    once = 0.0
    try:
        if not blocks:
            return once, _best_of_two(learn)
        with (
            tempfile.TemporaryDirectory() as folder,
            FrozenPrefix(anatomy, blocks, States(Path(folder) / "one.f32", anatomy.hidden)) as prefix,
        ):
            start = time.perf_counter()
            prefix.remember(look)
            once = time.perf_counter() - start
            return once, _best_of_two(learn)
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()


def _best_of_two(run: Callable[[], object]) -> float:
    """Give the seconds of the faster of two calls: the first also allocates and picks kernels."""
    seconds = math.inf
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def _held_mib() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)

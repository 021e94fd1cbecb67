"""When memory runs out in a step: the same rows again, fewer of them at a time. The step stays what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tunesmith.errors import MachineProblem, TunesmithError
from tunesmith.models.freed_memory import give_back_memory
from tunesmith.tasks.batching import fill
from tunesmith.training.desk import Desk, Progress

Found = TypeVar("Found")

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def with_room(desk: Desk, progress: Progress, rows: Sequence[int], learn: Callable[[int], Found]) -> Found:
    """Add a step's gradients; where memory runs out, again with half as many tokens at a time, and so from then on.

    A step's gradient is the mean over its rows however they are filled into the model; the draws of dropout change.

    Args:
        desk: Of the run.
        progress: Remembers how many tokens fit.
        rows: Of the step, in this process.
        learn: Takes the most tokens at a time; begins anew each time that it is called.

    Raises:
        MachineProblem: One row is too much; or other processes wait for this one, so that it cannot begin anew.
    """
    while True:
        tokens = progress.fill_tokens or int(desk.plan.options["batch_tokens"])
        try:
            return learn(tokens)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            text = " ".join(str(error).split())[:200]
        # Outside of the handler: the exception held on to every tensor of the step.
        desk.optimizer.zero_grad()
        give_back_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        progress.fill_tokens = _half(desk, progress, rows, tokens, text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in Python, on the CPU or on a GPU."""
    if isinstance(error, TunesmithError):
        return False
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        sign in str(error).lower() for sign in _SIGNS
    )


def _half(desk: Desk, progress: Progress, rows: Sequence[int], tokens: int, text: str) -> int:
    lengths = desk.material.lengths
    fills = fill(rows, lengths, tokens)
    where = f"training step {progress.step + 1} of {desk.plan.steps}"
    if all(len(part) == 1 for part in fills):
        raise MachineProblem(
            f"memory ran out with one row at a time ({text})",
            where=where,
            do="--max-length 128 cuts longer texts; or take a smaller base model. The last checkpoint is kept",
        )
    if not desk.is_alone:
        raise MachineProblem(
            f"memory ran out ({text})",
            where=where,
            do=f"go on with fewer tokens at a time: --resume with --set batch_tokens={tokens // 2}, or fewer processes",
        )
    return max(len(part) * lengths[part[0]] for part in fills) // 2

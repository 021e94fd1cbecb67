"""Several processes train one run: what each knows of the others, and how one that is lost is told.

Each process learns from every n-th row of a step, so that a step is what it would be in a single process. The first one
decides, measures, writes and speaks. No torch here until something is asked that needs it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tunesmith.errors import PlanProblem, ProcessLost, TunesmithError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tunesmith.types import Plan

Found = TypeVar("Found")

MOST_HOURS_APART = 24
"""Hours that processes wait for each other: the first one measures baselines and validation rows by itself."""

_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def process_rank() -> int:
    """Give this process's number in a run of several processes (`--processes`, `accelerate launch`, `torchrun`)."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """Give how many processes this run has, over all machines; 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_process_count() -> int:
    """Give how many processes of this run are on this machine; 1 when alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if process_count() > 1 else 1


def demand_alone(
    what: str, do: str = "leave --processes out, and start it without torchrun or accelerate launch"
) -> None:
    """Refuse what runs in one process only.

    Args:
        what: The reason, as a sentence.
        do: What to do instead.

    Raises:
        PlanProblem: This run has several processes.
    """
    if process_count() > 1:
        raise PlanProblem(what, where="--processes" if is_launched() else "WORLD_SIZE", do=do)


def demand_gpus(device: str) -> None:
    """Refuse more processes than there are GPUs to train on.

    Raises:
        PlanProblem: Two processes would have to share a GPU.
    """
    if device != "cuda" or process_count() == 1:
        return
    import torch

    count, processes = torch.cuda.device_count(), local_process_count()
    if processes > count:
        raise PlanProblem(
            f"{processes} processes want a GPU each, and this machine has {count}",
            where="--processes" if is_launched() else "LOCAL_WORLD_SIZE",
            do=f"use {count} processes, or train on the CPU with --set device=cpu",
        )


@contextlib.contextmanager
def with_all_threads(plan: Plan) -> Iterator[None]:
    """Let this process compute with the CPU threads of all processes of this machine, while the others wait for it."""
    count = local_process_count()
    if count == 1 or plan.device != "cpu":
        yield
        return
    import torch

    own = torch.get_num_threads()
    torch.set_num_threads(plan.threads * count)
    try:
        yield
    finally:
        torch.set_num_threads(own)


def found_by_first(accelerator: Accelerator, find: Callable[[], Found]) -> Found:
    """Let the first process find something, and give it to all of them."""
    if accelerator.num_processes == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    held = [find() if accelerator.is_main_process else None]
    found: Found = broadcast_object_list(held)[0]
    return found


def is_loss_of_process(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone, or cannot be reached any more."""
    if isinstance(error, TunesmithError) or process_count() == 1:
        return False
    import torch

    kind = getattr(torch.distributed, "DistError", None)
    return (kind is not None and isinstance(error, kind)) or any(sign in str(error).lower() for sign in _SIGNS)


def process_lost(folder: Path, step: int, steps: int) -> ProcessLost:
    """Give the error of a run that has lost a process.

    Args:
        folder: Of the run.
        step: The last one that all have made.
        steps: Of the run.
    """
    return ProcessLost(
        f"another process of this run ended, or cannot be reached any more, after step {step} of {steps}",
        where=str(folder),
        do=f"see why it ended (memory?), then start {process_count()} processes again with: tunesmith train --resume "
        f"{folder}",
    )


# What passes between `launch` and the processes that it has started.

LAUNCHER = "TUNESMITH_LAUNCHER"
"""Environment of a started process: number of the process that has started it."""

NOTES = "TUNESMITH_NOTES"
"""Environment of a started process: a folder in which it leaves word."""

_RUN = "run"


def is_launched() -> bool:
    """Whether `tunesmith train --processes` has started this process."""
    return LAUNCHER in os.environ


def is_orphaned() -> bool:
    """Whether the command that has started this process is gone: nobody would tell the person what became of it."""
    return is_launched() and os.getppid() != int(os.environ[LAUNCHER])


def note_folder(folder: Path) -> None:
    """Tell the command that has started this process where the run is kept."""
    if is_launched() and NOTES in os.environ:
        (Path(os.environ[NOTES]) / _RUN).write_text(str(folder), encoding="utf-8")


def noted_folder(notes: Path) -> str:
    """Give where the run is kept, as the first process has told; empty where it came not as far."""
    path = notes / _RUN
    return path.read_text(encoding="utf-8") if path.is_file() else ""

"""Hold a process to what the plan says of threads, determinism and precision."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tunesmith.models.cpu_attention import cpu_attention
from tunesmith.models.quick_dropout import quick_dropout
from tunesmith.training.processes import MOST_HOURS_APART, process_count
from tunesmith.types import Plan


@contextlib.contextmanager
def as_computed(plan: Plan, model: nn.Module) -> Iterator[None]:
    """Let attention and dropout compute in the way that suits the plan's device."""
    if plan.device != "cpu":
        yield
        return
    with cpu_attention(model), quick_dropout(model):
        yield


class as_planned:  # noqa: N801 - reads as the verb it is
    """Hold the process to the plan's threads, determinism and precision while it trains; put all back afterwards."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __enter__(self) -> Any:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.threads = torch.get_num_threads()
        self.is_deterministic = torch.are_deterministic_algorithms_enabled()
        torch.set_num_threads(self.plan.threads)
        # On GPUs some kernels have no deterministic form: torch then warns and the run goes on.
        torch.use_deterministic_algorithms(True, warn_only=self.plan.device != "cpu")
        # Torch would also write NaN over all memory it hands out, to show who reads what was never written: 2% of a
        # step of all-MiniLM-L6-v2.
        self.is_filling = torch.utils.deterministic.fill_uninitialized_memory
        torch.utils.deterministic.fill_uninitialized_memory = False
        AcceleratorState._reset_state(reset_partial_state=True)  # a process may train more than once, each as planned
        return Accelerator(
            mixed_precision=self.plan.precision, cpu=self.plan.device == "cpu", kwargs_handlers=self._exchange()
        )

    def _exchange(self) -> list[Any]:
        """Give how several processes work together.

        They wait for each other as long as the first one may be busy with something of its own. Where two texts are
        read apart, parts of the model may have no use (a pooler, say): gradients that never come are not waited for.
        """
        if process_count() == 1:
            return []
        from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

        has_unused = self.plan.options.get("encoder") == "bi"
        return [
            InitProcessGroupKwargs(timeout=datetime.timedelta(hours=MOST_HOURS_APART)),
            DistributedDataParallelKwargs(find_unused_parameters=has_unused),
        ]

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads)
        torch.use_deterministic_algorithms(self.is_deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = self.is_filling

"""What is asked of a model: input, target, batch, answer, score, naive baseline. One file per task behind one seam."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

TASKS = {
    "text-classification": "tunesmith.tasks.text_classification",
}
ALIASES = {
    "classification": "text-classification",
    "sequence-classification": "text-classification",
    "sentiment-analysis": "text-classification",
    "topic": "text-classification",
    "intent": "text-classification",
}


@dataclass(frozen=True)
class Example:
    """A record as the model takes it in."""

    tokens: tuple[int, ...]  # ids, special tokens included, cut to the longest allowed
    target: Any  # what the loss compares with; None for prediction
    was_cut: bool = False  # whether the text was longer than the model was allowed to read


@dataclass(frozen=True)
class Baseline:
    """A naive answer to the test rows."""

    name: str
    answers: np.ndarray[Any, Any]  # as `Task.answer` gives them
    seconds: float


class Task(Protocol):
    """What every task has. Letters in shapes: N rows, B batch, T tokens, L labels."""

    name: str
    needs: Mapping[str, str]  # role -> kind of column, as `data.columns` reads it
    main: str  # the metric that decides unless the recipe names another
    metrics: tuple[str, ...]  # the metrics that a recipe may name
    model_class: str  # Transformers auto class
    pipeline: str  # what model hubs call this task

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the label names in index order."""

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Turn records into token ids and targets."""

    def batch(self, examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
        """Pad examples to the longest of them; what `loss` and `answer` take."""

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss summed (not averaged) over the examples of the batch: a scalar."""

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, pad_id: int, batch_tokens: int
    ) -> np.ndarray[Any, Any]:
        """Run the model over examples and give its raw answers in their order."""

    def measure(self, answers: np.ndarray[Any, Any], examples: Sequence[Example]) -> dict[str, float]:
        """Give the metrics a recipe may name, and the mean `loss`, without intervals: quick enough for every epoch."""

    def calibrate(self, answers: np.ndarray[Any, Any], examples: Sequence[Example]) -> float:
        """Give the temperature that makes confidence match accuracy on these examples."""

    def score(
        self, records: Sequence[Record], answers: np.ndarray[Any, Any], *, labels: Sequence[str], main: str, seed: int
    ) -> Scores:
        """Score answers against the records' targets, with intervals."""

    def decode(
        self, answers: np.ndarray[Any, Any], *, labels: Sequence[str]
    ) -> Sequence[tuple[Any, float | None, Mapping[str, float]]]:
        """Give (value, confidence, alternatives) for each raw answer."""

    def abstention(
        self, answers: np.ndarray[Any, Any], records: Sequence[Record], *, labels: Sequence[str], precision: float
    ) -> float | None:
        """Give the lowest confidence from which answers reach `precision` on these records; None when none does."""

    def with_abstention(
        self,
        scores: Scores,
        answers: np.ndarray[Any, Any],
        records: Sequence[Record],
        *,
        labels: Sequence[str],
        threshold: float,
        precision: float,
    ) -> Scores:
        """Add to the scores' details how much is answered from `threshold` on, and how precisely (and as was asked)."""

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of decoded values on the same records by a paired bootstrap; first minus second."""

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer the test rows naively."""

    def zero_shot(
        self, body: nn.Module, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> np.ndarray[Any, Any] | None:
        """Answer with the base model as it came, or None where it has no way to."""


def find_task(name: str | Task) -> Task:
    """Give the task of that name or alias; a user's own object, or `module:NAME`, goes wherever a name does.

    Raises:
        PlanProblem: No such task; lists the valid names.
    """
    if not isinstance(name, str):
        return name
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found: Task = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise PlanProblem(
                f"task '{name}' cannot be loaded: {error}", where="task", do="check that the module imports"
            ) from error
        return found
    name = ALIASES.get(name, name)
    if name not in TASKS:
        raise PlanProblem(f"no task '{name}'", where="task", do=f"use one of: {nearest_first(name, TASKS)}")
    task: Task = importlib.import_module(TASKS[name]).TASK
    return task

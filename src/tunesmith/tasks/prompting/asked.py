"""What every way of asking in words shares: it holds the task that is asked, and is that task for everything else.

Scores of labels become logits by two numbers in the model's configuration, `answer_scale` and `answer_offset`. They
are fitted on validation rows after training; the model's own weights, which other answers need too, stay as they are.

Letters in shapes: N rows, B batch, L labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tunesmith.metrics import Floats
from tunesmith.tasks import Example, Load, Task
from tunesmith.tasks.base import in_batches, pad
from tunesmith.tasks.losses import plain_loss
from tunesmith.tasks.pairs import config_of
from tunesmith.tasks.prompting.label_words import Words
from tunesmith.tasks.prompting.templates import Template
from tunesmith.tasks.text_pair import fit_logistic
from tunesmith.types import Origin, Record

if TYPE_CHECKING:
    import torch
    from torch import nn

Self = TypeVar("Self", bound="AskedTask")
Scores = Callable[[dict[str, "torch.Tensor"]], "torch.Tensor"]

NO_TEXT = {"en": ("", "N/A"), "zh": ("", "无")}
"""Texts without content, per language: how likely a label is after them says how likely it is anyway."""


@dataclass(frozen=True)
class Wordings:
    """The words of a way of asking, with nothing left open."""

    templates: tuple[Template, ...]
    words: Words  # by label
    language: str  # en or zh
    is_corrected: bool  # whether how likely a label is without a text is taken off its score


@dataclass(frozen=True)
class Several(Example):
    """An example that goes through the model as several token sequences."""

    asked: tuple[tuple[int, ...], ...] = ()

    @property
    def length(self) -> int:
        """Tokens that go through the model: all sequences are padded to the longest."""
        return len(self.asked) * max(map(len, self.asked))


@dataclass(frozen=True)
class AskedTask:
    """A classification task that is asked in words. What is not said here is as the task that is asked has it."""

    inner: Any  # the task that is asked; single-label, multi-label or of two texts
    wordings: Wordings

    has_fresh_head: ClassVar[bool] = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # asked for while the object is still being made or copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def configured(self: Self, options: Mapping[str, Any]) -> Self:
        """Give the task with the options of the task that is asked set."""
        return dataclasses.replace(self, inner=self.inner.configured(options))

    def resolved(self: Self, examples: Sequence[Example]) -> Self:
        """Give the task with the open options of the task that is asked decided."""
        return dataclasses.replace(self, inner=self.inner.resolved(examples))

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Give nothing: no head is made for these labels."""
        return {}

    @property
    def is_multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return bool(self.inner.target_kind == "labels")

    def as_logits(self, model: nn.Module, scores: Any) -> Any:
        """Give the logits (..., L) of the labels' scores, an array or a tensor."""
        config = config_of(model)
        return getattr(config, "answer_scale", 1.0) * scores + getattr(config, "answer_offset", 0.0)

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what the loss compares: logits (B, L), and the labels as `batch` gives them."""
        raise NotImplementedError(f"{type(self).__name__} only answers: nothing is learnt through it")

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy, or the binary one for several labels, summed over the rows: a scalar."""
        return plain_loss(*self.labelled_logits(model, batch))

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the rows of the batch."""
        return float(len(batch["labels"]))

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give what the task that is asked measures."""
        answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        found: dict[str, float] = self.inner.measure(answers, examples)
        return found

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give the logits (N, L), float32, in the order of the examples."""
        settings: dict[str, Any] = {"tokenizer": tokenizer, "labels": labels, "batch_tokens": batch_tokens}
        scores_NL = self.scores(model, examples, **settings)
        return np.asarray(self.as_logits(model, scores_NL), dtype=np.float32)

    def scores(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Floats:
        """Give the scores (N, L) before `as_logits`."""
        raise NotImplementedError(f"{type(self).__name__} has to say how it scores")

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit one temperature, and for several labels also from which score on a text has one; kept in the config.

        One threshold serves all labels: few rows are not enough for one each.
        """
        answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        slope, shift = 1.0, 0.0
        if self.is_multi_label and len(examples):
            truth_NL = np.array([example.target for example in examples], dtype=np.float64)
            slope, shift = fit_logistic(np.asarray(answers, dtype=np.float64).ravel(), truth_NL.ravel() > 0)
        elif len(examples):
            slope = 1.0 / float(self.inner.temperature(answers, examples))
        config = config_of(model)
        config.answer_offset = slope * float(getattr(config, "answer_offset", 0.0)) + shift
        config.answer_scale = slope * float(getattr(config, "answer_scale", 1.0))
        return 1.0

    def settle(self, model: nn.Module, tokenizer: Any) -> None:
        """Do nothing: plain Transformers cannot put the question, and can run the model as it is."""

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Give None: where nothing is learnt, there is no "before"."""
        return None

    def targets(self, records: Sequence[Record], labels: Sequence[str]) -> list[Any]:
        """Give what the loss compares with for each record (None without target)."""
        place = {label: index for index, label in enumerate(labels)}
        return [None if record.target is None else self.inner.target_index(record.target, place) for record in records]

    def empty_records(self) -> list[Record]:
        """Give rows whose texts have no content."""
        fields = [hole for hole in ("text", "text_a", "text_b") if hole in self.roles]
        return [
            Record(str(row), dict.fromkeys(fields, text), None, Origin("no text", row))
            for row, text in enumerate(NO_TEXT[self.wordings.language], 1)
        ]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the texts that a record has."""
        return tuple(self.inner.forms[0].inputs)


def as_task(asked: AskedTask) -> Task:
    """Give it as the seam that it serves; what it does not say itself, its inner task does."""
    task: Any = asked
    return task  # type: ignore[no-any-return]


def batch_several(examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad all sequences of all examples: `input_ids`, `attention_mask` (B * V, T), and `labels` where all are known."""
    import torch

    rows = [tokens for example in examples if isinstance(example, Several) for tokens in example.asked]
    batch = {"input_ids": pad(rows, tokenizer.pad_token_id), "attention_mask": pad([[1] * len(row) for row in rows], 0)}
    if all(example.target is not None for example in examples):
        batch["labels"] = torch.tensor([example.target for example in examples])
    return batch


def in_rows(
    examples: Sequence[Example],
    score: Scores,
    make_batch: Callable[[Sequence[Example]], dict[str, torch.Tensor]],
    *,
    model: nn.Module,
    batch_tokens: int,
) -> Floats:
    """Give what `score` makes of batches, (B, ...) each, as one array (N, ...) in the order of the examples."""
    found: list[Any] = [None] * len(examples)

    def keep(rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        batch.pop("labels", None)
        for row, value in zip(rows, score(batch).float().cpu().numpy(), strict=True):
            found[row] = value

    in_batches(examples, keep, make_batch, model=model, batch_tokens=batch_tokens)
    return np.stack(found) if found else np.zeros((0, 1))

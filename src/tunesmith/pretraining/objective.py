"""What the three objectives share: how a batch becomes tensors, and perplexity on validation blocks.

Letters: B blocks, T tokens of a block, K chances that a token needs, N predicted tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from tunesmith.pretraining.packing import Frame
from tunesmith.pretraining.tokens import Separator
from tunesmith.tasks import Example
from tunesmith.training.material import Objective

_VALID_SEED = 20_190_524  # of the masks on validation blocks, the same for every run and every step


class LanguageObjective(Objective, Protocol):
    """An objective of the loop that is learnt from blocks of plain text."""

    name: str
    chances: int  # K

    @property
    def separator(self) -> Separator:
        """What stands between documents."""

    @property
    def frame(self) -> Frame:
        """How a block is laid out."""

    def build(self, examples: Sequence[Example], chance_BTK: torch.Tensor) -> dict[str, torch.Tensor]:
        """Make tensors of blocks, with the chance given."""

    def text_losses(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy (N) of each predicted token that is text and not a special token."""

    def truths(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the ids (N) that `text_losses` is about, in its order."""

    def show(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, *, step: int) -> str:
        """Give a few filled masks, or a sample, as a line or two for people."""


def draw(objective: LanguageObjective, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Make tensors of blocks by torch's own generator, which the loop has seeded for this step."""
    return objective.build(examples, torch.rand(len(examples), len(examples[0].tokens), objective.chances))


def fixed(objective: LanguageObjective, examples: Sequence[Example], first: int) -> dict[str, torch.Tensor]:
    """Make tensors of the validation blocks that start at number `first`: always with the same masks.

    Each block has a generator of its own, so that its masks do not depend on what it is batched with.
    """
    generator = torch.Generator()
    rows = []
    for number, example in enumerate(examples, start=first):
        generator.manual_seed(_VALID_SEED + number)
        rows.append(torch.rand(len(example.tokens), objective.chances, generator=generator))
    return objective.build(examples, torch.stack(rows))


def fixed_batches(
    objective: LanguageObjective, examples: Sequence[Example], batch_tokens: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Give all validation blocks as tensors, at most `batch_tokens` tokens at once."""
    rows = max(1, batch_tokens // objective.frame.length)
    for first in range(0, len(examples), rows):
        yield fixed(objective, examples[first : first + rows], first)


def mean_loss(objective: LanguageObjective, model: nn.Module, examples: Sequence[Example], batch_tokens: int) -> float:
    """Give the mean cross entropy, in nats, of the predicted text tokens of all blocks."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in fixed_batches(objective, examples, batch_tokens):
            losses = objective.text_losses(model, {name: tensor.to(device) for name, tensor in batch.items()})
            total += float(losses.double().sum())
            count += losses.numel()
    model.train(was_training)
    return total / max(1, count)


def scores_of(loss: float, characters_per_token: float | None = None) -> dict[str, float]:
    """Give loss (nats a token), perplexity and, where the whole text is predicted, bits per character."""
    scores = {"loss": loss, "perplexity": math.exp(min(loss, 100.0))}
    if characters_per_token:
        scores["bits_per_character"] = loss / math.log(2) / characters_per_token
    return scores


def as_tensor(examples: Sequence[Example]) -> torch.Tensor:
    """Give the tokens (B, T) of blocks that are all of one length."""
    return torch.tensor([example.tokens for example in examples])


def one_line(text: str) -> str:
    """Give text without line feeds and control characters."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())

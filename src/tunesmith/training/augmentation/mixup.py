"""Mix-up: learn from mixtures of two texts with the same mixture of their labels.

`pooled` mixes what the last linear layer reads. As that layer is linear, its answers may be mixed instead: it is the
same but for rounding, works with every head, and costs nothing. `embeddings` mixes the word embeddings of two texts,
position by position; all that is above them works on the mixture.

Sources: Zhang et al. 2018; Guo et al. 2019 (their senMixup and wordMixup). As in the former there is one share for all
rows of a pass, drawn from Beta(alpha, alpha); partners are drawn among these rows.

Letters: N rows, T tokens, H hidden, L labels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.data.augment.entries import AUGMENT, MIXUP, read_entries
from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Example
from tunesmith.tasks.losses import LossShape, plain_loss, shaped_loss
from tunesmith.training.recipe import Recipe

EMBEDDINGS = "embeddings"
_SAMPLE = 4  # examples that the task is tried on


@dataclass(frozen=True)
class Mixed:
    """The cross-entropy of mixtures."""

    task: Any
    shape: LossShape
    alpha: float
    at: str

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the loss of the mixtures to learn from, and the plain one to report.

        With embeddings nothing but mixtures goes through the model, and what is reported is their loss without what
        bends it.
        """
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        order = torch.randperm(len(batch["labels"])).to(batch["labels"].device)
        if self.at == EMBEDDINGS:
            both = torch.maximum(batch["attention_mask"], batch["attention_mask"][order])
            with mixing(model, order, share):
                mixed_NL, labels = self.task.labelled_logits(model, {**batch, "attention_mask": both})
        else:
            logits_NL, labels = self.task.labelled_logits(model, batch)
            mixed_NL = share * logits_NL + (1 - share) * logits_NL[order]
        parts = ((share, labels), (1 - share, labels[order]))
        loss = sum_of([part * shaped_loss(mixed_NL, truth, self.shape) for part, truth in parts])
        if self.at == EMBEDDINGS:
            return loss, sum_of([part * plain_loss(mixed_NL.detach(), truth) for part, truth in parts])
        return loss, plain_loss(logits_NL.detach(), labels)


def sum_of(losses: Sequence[torch.Tensor]) -> torch.Tensor:
    """Give the sum of scalars."""
    return torch.stack(list(losses)).sum()


@contextlib.contextmanager
def mixing(model: nn.Module, order: torch.Tensor, share: float) -> Iterator[None]:
    """Mix the output of the word embeddings: each row (T, H) with that of its partner.

    Args:
        model: Wrapped for several processes or not.
        order: The partner of each row (N).
        share: Of the row itself (0..1).
    """

    def mix(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return share * output + (1 - share) * output[order]

    hook = getattr(model, "module", model).get_input_embeddings().register_forward_hook(mix)
    try:
        yield
    finally:
        hook.remove()


def mixes_embeddings(recipe: Recipe) -> bool:
    """Whether the lowest part of the model is worked on, so that states of blocks above it cannot be kept."""
    return any(entry.kind == MIXUP and entry.settings["at"] == EMBEDDINGS for entry in read_entries(recipe.augment))


def mixup_options(
    recipe: Recipe, task: Any, *, anatomy: Anatomy, train: Sequence[Example], tokenizer: Any
) -> dict[str, Any]:
    """Give the plan's entry for mix-up; nothing where it was not asked for.

    Raises:
        PlanProblem: It does not fit the task, the model or another key.
    """
    entries = [entry for entry in read_entries(recipe.augment) if entry.kind == MIXUP]
    if not entries:
        return {}
    if reason := _why_not(
        recipe, task, anatomy=anatomy, batch=task.batch(train[:_SAMPLE], tokenizer), count=len(entries)
    ):
        raise PlanProblem(f"mixup cannot be used here: {reason}", where=AUGMENT, do="leave mixup out of augment")
    return {MIXUP: dict(entries[0].settings)}


def _why_not(recipe: Recipe, task: Any, *, anatomy: Anatomy, batch: Any, count: int) -> str:
    settings = next(entry.settings for entry in read_entries(recipe.augment) if entry.kind == MIXUP)
    labels = batch.get("labels")
    if "class_weights" not in getattr(task, "loss_options", ()) or labels is None:
        return f"it mixes labels to choose from, which task {task.name} has not"
    if task.weight(batch) != len(labels):
        return f"it mixes whole texts with one answer each, and task {task.name} answers for parts of a text"
    if count > 1:
        return "it is asked for twice"
    if recipe.r_drop:
        return "r_drop compares two passes of the same texts, and mixtures are other ones each time"
    if settings["at"] != EMBEDDINGS:
        return ""
    if recipe.adversarial != "none":
        return "adversarial training moves the embeddings, too; mix at=pooled"
    if anatomy.is_decoder or anatomy.is_encoder_decoder:
        return "this base model answers from the last token of a text, and mixed texts end in two places; mix at=pooled"
    return "" if len(batch["input_ids"]) == len(labels) else "both texts of a pair are encoded apart; mix at=pooled"

"""Denoising: an encoder reads a text with holes, a decoder writes what was in them.

Fresh models are of T5's kind, not BART's: the decoder writes only what was hidden (a fifth of the text, with its
sentinels) where BART's writes all of it again, so a step costs less; and relative positions leave no position
untrained when a task later reads more tokens than a block had. A model that is gone on with keeps its own kind: one
without sentinels but with a mask token gets BART's text infilling.

Perplexity is over the hidden text tokens; sentinels and the end are learnt but not counted, they are easy.

Source: Raffel et al. 2020 (T5); Lewis et al. 2020 (BART). See `spans`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith.errors import ModelProblem, PlanProblem
from tunesmith.pretraining import spans
from tunesmith.pretraining.objective import as_tensor, draw, fixed, mean_loss, one_line, scores_of
from tunesmith.pretraining.packing import Frame
from tunesmith.pretraining.tokens import Separator
from tunesmith.tasks import Example

MODEL_CLASS = "AutoModelForSeq2SeqLM"


@dataclass(frozen=True)
class DenoisingObjective:
    """See `LanguageObjective`. A block is raw text; its corrupted input has exactly the plan's `max_length` tokens."""

    frame: Frame
    separator: Separator
    hidden: int  # tokens of a block
    span_count: int
    sentinels: torch.Tensor  # ids (S); all the same: text infilling
    is_infilling: bool
    before: int | None  # id in front of input and target (BART's <s>), or None
    start: int  # id that the decoder starts from

    name = "seq2seq"
    chances = spans.CHANCES

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Hide spans, others in every epoch. See `build`."""
        return draw(self, examples)

    def build(self, examples: Sequence[Example], chance_BTK: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give `input_ids` (B, T), `targets` (B, U) and `is_text` (B, U): which targets are hidden text."""
        tokens_BR = as_tensor(examples)
        is_hidden_BR, is_start_BR = spans.choose_spans(chance_BTK, self.hidden, self.span_count)
        inputs, targets = spans.with_sentinels(tokens_BR, is_hidden_BR, is_start_BR, self.sentinels)
        is_text = torch.isin(targets, self.sentinels, invert=True)
        if self.is_infilling:
            targets, is_text = tokens_BR, is_hidden_BR
        return {
            "input_ids": _between(inputs, self.before, self.separator.after),
            "targets": _between(targets, self.before, self.separator.after),
            "is_text": _between(is_text, None if self.before is None else 0, 0),
        }

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the number of target tokens, sentinels and ends included."""
        return float(batch["targets"].numel())

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy summed over all target tokens."""
        return functional.cross_entropy(self._logits(model, batch), batch["targets"].flatten(), reduction="sum")

    def text_losses(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy (N) of each hidden text token."""
        losses = functional.cross_entropy(self._logits(model, batch), batch["targets"].flatten(), reduction="none")
        return losses[batch["is_text"].flatten().bool()]

    def _logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        targets_BU = batch["targets"]
        shifted_BU = torch.cat([torch.full_like(targets_BU[:, :1], self.start), targets_BU[:, :-1]], 1)
        logits_BUV: torch.Tensor = model(
            input_ids=batch["input_ids"], decoder_input_ids=shifted_BU, use_cache=False
        ).logits
        return logits_BUV.flatten(0, 1).float()

    def truths(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the hidden text tokens (N)."""
        return batch["targets"][batch["is_text"].bool()]

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give loss and perplexity of the hidden text, under holes that are always the same."""
        return scores_of(mean_loss(self, model, examples, batch_tokens))

    def show(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, *, step: int) -> str:
        """Fill the first holes of a validation block, each word greedily: the truth, and what the model wrote."""
        number = step % len(examples)
        batch = fixed(self, [examples[number]], number)
        device = next(model.parameters()).device
        ids = torch.full((1, 1), self.start, device=device)
        with torch.no_grad():
            for _ in range(min(24, batch["targets"].shape[1])):
                output = model(input_ids=batch["input_ids"].to(device), decoder_input_ids=ids, use_cache=False)
                ids = torch.cat([ids, output.logits[:, -1:].argmax(-1)], 1)
        truth = tokenizer.decode(batch["targets"][0, : ids.shape[1]].tolist())
        return f"{one_line(truth)} -> {one_line(tokenizer.decode(ids[0, 1:].tolist()))}"


def _between(rows: torch.Tensor, before: int | None, after: int) -> torch.Tensor:
    """Put a column before (unless None) and one after."""
    columns = [] if before is None else [torch.full_like(rows[:, :1], before)]
    return torch.cat([*columns, rows, torch.full_like(rows[:, :1], after)], 1)


def separator(tokenizer: Any) -> Separator:
    """Give the token that ends every document.

    Raises:
        ModelProblem: The tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelProblem(
            "this base model's tokenizer has no end-of-text token", where="model", do="choose another base model"
        )
    return Separator(int(tokenizer.eos_token_id))


def make_objective(
    tokenizer: Any, model: nn.Module, *, max_length: int, share: float, masking_kind: str, span_length: float
) -> DenoisingObjective:
    """Make the objective for a tokenizer and a model; `masking_kind` is for mlm only.

    Raises:
        ModelProblem: The tokenizer has neither sentinels nor a mask token.
        PlanProblem: A block needs more sentinels than there are.
    """
    sentinels = _sentinels(tokenizer)
    is_infilling = not sentinels
    if is_infilling and tokenizer.mask_token_id is None:
        raise ModelProblem(
            "this base model's tokenizer has neither sentinels (<extra_id_0>) nor a mask token",
            where="model",
            do="choose a model of T5's or BART's kind",
        )
    before = tokenizer.bos_token_id if is_infilling else None
    raw = spans.raw_length(max_length, share, span_length, 1 if before is None else 2)
    hidden, count = spans.count_spans(raw, share, span_length)
    if not is_infilling and count > len(sentinels):
        raise PlanProblem(
            f"a block of {max_length} tokens needs {count} sentinels; there are {len(sentinels)}",
            where="max_length",
            do="choose a smaller max_length or a larger span_length",
        )
    start = model.config.decoder_start_token_id
    return DenoisingObjective(
        frame=Frame(raw),
        separator=separator(tokenizer),
        hidden=hidden,
        span_count=count,
        sentinels=torch.tensor([tokenizer.mask_token_id] * count if is_infilling else sentinels[:count]),
        is_infilling=is_infilling,
        before=before,
        start=int(tokenizer.pad_token_id if start is None else start),
    )


def _sentinels(tokenizer: Any) -> list[int]:
    """Give the ids of <extra_id_0>, <extra_id_1> ... as far as the vocabulary has them."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while (name := f"<extra_id_{len(found)}>") in vocabulary:
        found.append(int(vocabulary[name]))
    return found

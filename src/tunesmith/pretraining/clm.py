"""Causal language modelling: predict each token from those before it. Documents are joined by the end-of-text token.

The end-of-text token also starts the stream, so that the first word of a text is learnt from it too, as generation
without a prompt needs. A token sees earlier documents of its block: the end of text between them says where they end.

Source: Radford et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith.errors import ModelProblem
from tunesmith.pretraining.objective import as_tensor, draw, mean_loss, one_line, scores_of
from tunesmith.pretraining.packing import Frame
from tunesmith.pretraining.tokens import Separator
from tunesmith.tasks import Example

MODEL_CLASS = "AutoModelForCausalLM"

_SAMPLE_TOKENS = 32
_SAMPLE_TEMPERATURE = 0.8


@dataclass(frozen=True)
class CausalObjective:
    """See `LanguageObjective`."""

    frame: Frame
    separator: Separator
    characters_per_token: float  # of the validation text

    name = "clm"
    chances = 0

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give `input_ids` (B, T)."""
        return draw(self, examples)

    def build(self, examples: Sequence[Example], chance_BTK: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give `input_ids` (B, T); nothing is left to chance."""
        return {"input_ids": as_tensor(examples)}

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the number of predicted tokens: all but the first of each block."""
        rows, length = batch["input_ids"].shape
        return float(rows * (length - 1))

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy summed over the predicted tokens."""
        return functional.cross_entropy(self._logits(model, batch), self.truths(batch), reduction="sum")

    def text_losses(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy (N) of each predicted token. The end of a text counts: it has to be predicted too."""
        return functional.cross_entropy(self._logits(model, batch), self.truths(batch), reduction="none")

    def _logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits_BTV: torch.Tensor = model(input_ids=batch["input_ids"], use_cache=False).logits
        return logits_BTV[:, :-1].flatten(0, 1).float()

    def truths(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the predicted tokens (N)."""
        return batch["input_ids"][:, 1:].flatten()

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give loss, perplexity and bits per character."""
        return scores_of(mean_loss(self, model, examples, batch_tokens), self.characters_per_token)

    def show(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, *, step: int) -> str:
        """Write on from the first tokens of a validation block, at temperature 0.8."""
        generator = torch.Generator().manual_seed(step)
        device = next(model.parameters()).device
        start = examples[step % len(examples)].tokens[: min(8, self.frame.length // 2)]
        ids = torch.tensor([start], device=device)
        with torch.no_grad():
            for _ in range(min(_SAMPLE_TOKENS, self.frame.length - len(start))):
                logits_V = model(input_ids=ids, use_cache=False).logits[0, -1].float().cpu()
                shares_V = (logits_V / _SAMPLE_TEMPERATURE).softmax(-1)
                ids = torch.cat([ids, torch.multinomial(shares_V, 1, generator=generator)[None].to(device)], 1)
        words = (tokenizer.decode(part, skip_special_tokens=True) for part in (start, ids[0, len(start) :].tolist()))
        before, after = map(one_line, words)
        return f"{before} | {after}"


def separator(tokenizer: Any) -> Separator:
    """Give the token that ends every document and starts the stream.

    Raises:
        ModelProblem: The tokenizer has no end-of-text token.
    """
    last = tokenizer.eos_token_id
    if last is None:
        raise ModelProblem(
            "this base model's tokenizer has no end-of-text token", where="model", do="choose another base model"
        )
    first = tokenizer.bos_token_id
    return Separator(int(last), int(last if first is None else first))


def make_objective(
    tokenizer: Any, model: nn.Module, *, max_length: int, share: float, masking_kind: str, span_length: float
) -> CausalObjective:
    """Make the objective; nothing is hidden, so `share`, `masking_kind` and `span_length` are for the others."""
    return CausalObjective(Frame(max_length), separator(tokenizer), 0.0)

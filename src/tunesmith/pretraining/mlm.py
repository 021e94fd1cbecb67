"""Masked-language modelling: hide 15% of the tokens, whole words at a time, and predict them from both sides.

The language-model head is computed where a token was hidden and nowhere else: in a small model it is much of the
arithmetic, and 85% of it would be thrown away.

Source: Devlin et al. 2019, section 3.1, without next-sentence prediction, which Liu et al. 2019 found to be of no use.
See `masking` for how words are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith.errors import ModelProblem
from tunesmith.pretraining import masking
from tunesmith.pretraining.objective import as_tensor, draw, fixed, mean_loss, one_line, scores_of
from tunesmith.pretraining.packing import Frame
from tunesmith.pretraining.tokens import Separator
from tunesmith.pretraining.words import WordRules, find_word_rules
from tunesmith.tasks import Example

MODEL_CLASS = "AutoModelForMaskedLM"

_HEADS = ("cls", "lm_head")  # BERT and its kin; RoBERTa and its kin
_SHOWN, _AROUND = 3, 8  # masks, and tokens on both sides of each


@dataclass(frozen=True)
class MaskedObjective:
    """See `LanguageObjective`."""

    rules: WordRules
    mask_id: int
    frame: Frame
    separator: Separator
    share: float  # of the tokens that are hidden, 0..1
    is_whole_word: bool
    head: str = ""  # attribute of the model that turns states into logits; empty: only the whole model does

    name = "mlm"
    chances = masking.CHANCES

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Hide words, others in every epoch. See `build`."""
        return draw(self, examples)

    def build(self, examples: Sequence[Example], chance_BTK: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give `input_ids` (B, T), `places` (N) of the hidden tokens in the flattened batch, and `targets` (N)."""
        tokens_BT = as_tensor(examples)
        special_BT = self.rules.special_V[tokens_BT]
        if examples[0].target is not None:  # words come from the segmenter
            starts_BT = torch.tensor([example.target for example in examples]) | special_BT
            starts_BT[:, 1:] |= special_BT[:, :-1]
        elif self.is_whole_word:
            starts_BT = self.rules.starts(tokens_BT)
        else:
            starts_BT = torch.ones_like(special_BT)
        chosen_BT = masking.choose_words(starts_BT, ~special_BT, chance_BTK[..., 0], self.share)
        ordinary = (~self.rules.special_V).nonzero()[:, 0]
        inputs_BT = masking.hide(tokens_BT, chosen_BT, chance_BTK[..., 1:], mask_id=self.mask_id, ordinary=ordinary)
        places = chosen_BT.flatten().nonzero()[:, 0]
        return {"input_ids": inputs_BT, "places": places, "targets": tokens_BT.flatten()[places]}

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the number of hidden tokens."""
        return float(len(batch["places"]))

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy summed over the hidden tokens."""
        logits_NV = self.logits(model, batch["input_ids"], batch["places"])
        return functional.cross_entropy(logits_NV.float(), batch["targets"], reduction="sum")

    def logits(self, model: nn.Module, input_ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Give the logits (N, V) at some places of the flattened batch (B * T)."""
        body = getattr(model, "base_model", None)  # a model that is spread over processes has none
        if not self.head or body is None:
            logits_BTV: torch.Tensor = model(input_ids=input_ids).logits
            return logits_BTV.flatten(0, 1).index_select(0, places)
        states_BTH: torch.Tensor = body(input_ids=input_ids).last_hidden_state
        logits_NV: torch.Tensor = getattr(model, self.head)(states_BTH.flatten(0, 1).index_select(0, places))
        return logits_NV

    def text_losses(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross entropy (N) of each hidden token."""
        logits_NV = self.logits(model, batch["input_ids"], batch["places"])
        return functional.cross_entropy(logits_NV.float(), batch["targets"], reduction="none")

    def truths(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the hidden tokens (N)."""
        return batch["targets"]

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give loss and perplexity of the hidden tokens, under masks that are always the same."""
        return scores_of(mean_loss(self, model, examples, batch_tokens))

    def show(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, *, step: int) -> str:
        """Fill three masks of one validation block: the words around, the truth, the model's answer and its surety."""
        number = step % len(examples)
        batch = fixed(self, [examples[number]], number)
        masked = batch["input_ids"].flatten()
        hidden = (masked[batch["places"]] == self.mask_id).nonzero()[:, 0]
        hidden = hidden[:: max(1, len(hidden) // _SHOWN)][:_SHOWN]
        places, truths = batch["places"][hidden], batch["targets"][hidden]
        device = next(model.parameters()).device
        with torch.no_grad():
            shares_NV = self.logits(model, batch["input_ids"].to(device), places.to(device)).float().softmax(-1).cpu()
        lines = []
        for place, truth, shares_V in zip(places.tolist(), truths.tolist(), shares_NV, strict=True):
            ends = masked[max(0, place - _AROUND) : place], masked[place + 1 : place + 1 + _AROUND]
            before, after = (tokenizer.decode(part.tolist()) for part in ends)
            answer = int(shares_V.argmax())
            said = f"[{_word(tokenizer, truth)}] -> {_word(tokenizer, answer)} ({float(shares_V[answer]):.0%})"
            lines.append(one_line(f"{before} {said} {after}"))
        return "\n".join(lines)


def _word(tokenizer: Any, token: int) -> str:
    return one_line(str(tokenizer.decode([token])))


def find_head(model: nn.Module, tokens: int = 6) -> str:
    """Give the attribute that turns the body's states into logits, proved on a few tokens; "" where there is none."""
    body = getattr(model, "base_model", model)
    if body is model:
        return ""
    input_ids = torch.arange(1, 1 + tokens)[None]
    with torch.no_grad():
        wanted = model(input_ids=input_ids).logits[0]
        for name in _HEADS:
            head = getattr(model, name, None)
            if isinstance(head, nn.Module):
                found = head(body(input_ids=input_ids).last_hidden_state[0])
                if isinstance(found, torch.Tensor) and torch.allclose(found, wanted, atol=1e-4):
                    return name
    return ""


def separator(tokenizer: Any) -> Separator:
    """Give what stands between documents: the token that also ends a block.

    Raises:
        ModelProblem: The tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise ModelProblem(
            "this base model's tokenizer has no mask token", where="model", do="use --objective clm or another model"
        )
    last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return Separator(int(last))


def make_objective(
    tokenizer: Any, model: nn.Module, *, max_length: int, share: float, masking_kind: str, span_length: float
) -> MaskedObjective:
    """Make the objective for a tokenizer and a model; `span_length` is for seq2seq only."""
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    between = separator(tokenizer)
    return MaskedObjective(
        rules=find_word_rules(tokenizer),
        mask_id=tokenizer.mask_token_id,
        frame=Frame(max_length - 2, (int(first),), (between.after,)),
        separator=between,
        share=share,
        is_whole_word=masking_kind != "token",
        head=find_head(model),
    )

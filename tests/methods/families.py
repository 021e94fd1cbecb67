"""Small models of several families, drawn from a seed, and inputs that suit them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

_BERT = {
    "vocab_size": 70,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": 70, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "pad_token_id": 0}
_BART = {
    "vocab_size": 70,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "max_position_embeddings": 64,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5 = {"vocab_size": 70, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "pad_token_id": 0}
_DISTILBERT = {"vocab_size": 70, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "num_labels": 3}
MAKERS: dict[str, Any] = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**_BERT, num_labels=3)),
    "bert-tokens": lambda: transformers.BertForTokenClassification(transformers.BertConfig(**_BERT, num_labels=3)),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(**_DISTILBERT)
    ),
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**_GPT2, num_labels=3)),
    "gpt2-writing": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**_GPT2, eos_token_id=2, bos_token_id=2)
    ),
    "bart": lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**_BART)),
    "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5, decoder_start_token_id=0)),
}
FRESH = {"bert", "bert-tokens", "distilbert", "gpt2"}  # those with a head that is new
OPTIONS: dict[str, Any] = {
    "lora_rank": 4,
    "lora_alpha": 16.0,
    "lora_dropout": 0.0,
    "adapter_size": 8,
    "adapter_places": "both",
    "adapted_layers": 0,
    "prompt_length": 5,
    "merge": "auto",
}


def make(family: str, seed: int = 0) -> nn.Module:
    """Give a model in evaluation mode, the same for the same seed."""
    torch.manual_seed(seed)
    model: nn.Module = MAKERS[family]().eval()
    return model


def inputs(family: str) -> dict[str, torch.Tensor]:
    """Give three texts, one of them padded."""
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = 2
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 0, 0
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "decoder_input_ids": ids[:, :4]} if family in {"bart", "t5"} else given


def logits(model: nn.Module, family: str) -> torch.Tensor:
    """Give what the model answers to `inputs`."""
    found: torch.Tensor = model(**inputs(family)).logits
    return found


def train(model: nn.Module, family: str, method: Any = None, steps: int = 10) -> None:
    """Push the logits towards zero, with the method's upkeep between the steps."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for step in range(1, steps + 1):
        logits(model, family).square().sum().backward()
        if hasattr(method, "before_step"):
            method.before_step(model)
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step(model, step, steps)
        optimizer.zero_grad()

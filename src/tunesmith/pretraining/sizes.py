"""Fresh models of three sizes in the families of BERT, GPT-2 and T5, and how their weights are drawn.

Output and input embeddings are tied. Dropout is 0 while a fresh model is pretrained, as in Geiping & Goldstein 2023: a
small model with a small budget learns too little, not too much. The folder that is kept says 0.1 again, which is what
the families use when they are adapted to a few labels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import nn

from tunesmith.pretraining import SIZES
from tunesmith.pretraining.vocabulary import SPECIALS

_HEAD = 64  # width of an attention head
ADAPTATION_DROPOUT = 0.1
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout", "dropout_rate"),
)


def make_config(objective: str, size: str, tokenizer: Any, *, max_length: int, dropout: float = 0.0) -> Any:
    """Give the Transformers configuration of a fresh model; see SIZES.

    Args:
        objective: mlm (BERT), clm (GPT-2) or seq2seq (T5, version 1.1: gated GELU).
        size: Name from SIZES.
        tokenizer: Its special tokens and number of entries.
        max_length: Positions. There are no more than are trained, so that no task reads at an untrained position
            (T5 has relative positions and no such limit).
        dropout: While pretraining, of all kinds, 0..1.
    """
    config = _family(objective, size, tokenizer, max_length)
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    return config


def _family(objective: str, size: str, tokenizer: Any, max_length: int) -> Any:
    blocks, hidden = SIZES[size]
    ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in SPECIALS[objective].items()}
    shared = {"vocab_size": len(tokenizer), "pad_token_id": ids["pad"]}
    heads = hidden // _HEAD
    if objective == "mlm":
        return transformers.BertConfig(
            **shared,
            hidden_size=hidden,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            intermediate_size=4 * hidden,
            max_position_embeddings=max_length,
        )
    if objective == "clm":
        return transformers.GPT2Config(
            **shared,
            n_embd=hidden,
            n_layer=blocks,
            n_head=heads,
            n_positions=max_length,
            bos_token_id=ids["bos"],
            eos_token_id=ids["eos"],
        )
    return transformers.T5Config(
        **shared,
        d_model=hidden,
        d_kv=_HEAD,
        d_ff=round(8 / 3 * hidden / 64) * 64,  # three matrices of this width cost what two of four times would
        num_layers=blocks,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        eos_token_id=ids["eos"],
        decoder_start_token_id=ids["pad"],
        tie_word_embeddings=True,
    )


def make_model(model_class: str, config: Any, *, seed: int, init: str = "family") -> nn.Module:
    """Draw a fresh model in float32 on the CPU, in evaluation mode; the same for the same seed.

    Args:
        model_class: Transformers auto class.
        config: From `make_config`.
        seed: Of the weights.
        init: family (as the architecture's authors do it), xavier (Glorot & Bengio 2010: uniform, by fan-in and
            fan-out) or he (He et al. 2015: normal, by fan-in). The latter two draw the inner matrices; embeddings,
            the output layer that is tied to them, norms and biases stay as the family has them.
    """
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, model_class).from_config(config)
    if init != "family":
        _redraw(model, init)
    return model.eval()


def _redraw(model: Any, init: str) -> None:
    tied = {id(model.get_input_embeddings().weight)}
    linear = (nn.Linear, transformers.pytorch_utils.Conv1D)
    for module in model.modules():
        if not isinstance(module, linear) or id(module.weight) in tied:
            continue
        fan_out, fan_in = module.weight.shape if isinstance(module, nn.Linear) else module.weight.shape[::-1]
        with torch.no_grad():
            if init == "xavier":
                limit = math.sqrt(6 / (fan_in + fan_out))
                module.weight.uniform_(-limit, limit)
            else:
                module.weight.normal_(0.0, math.sqrt(2 / fan_in))

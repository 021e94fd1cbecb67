"""Attention as CPUs are quick at it: in float32 whatever autocast says, and with quick dropout.

torch's fused kernel for CPUs takes longer backwards in bf16 than all products of a block together, and it takes no
dropout: with one, torch falls back to a plain computation with checks of its own (docs/notebook.md has the figures).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tunesmith.models.quick_dropout import dropped

_PLAIN, _QUICK = "sdpa", "tunesmith_cpu"  # as Transformers calls ways to compute attention


@contextlib.contextmanager
def cpu_attention(model: nn.Module) -> Iterator[None]:
    """Let a Transformers model compute its attention so; afterwards it is as it was.

    Args:
        model: One whose attention is torch's own (sdpa); another is left alone.
    """
    config = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", "") != _PLAIN:
        yield
        return
    _register()
    model.set_attn_implementation(_QUICK)
    try:
        yield
    finally:
        model.set_attn_implementation(_PLAIN)


def _register() -> None:
    """Make it known to Transformers, with the masks that torch's own attention takes."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_QUICK, _attend)
    AttentionMaskInterface.register(_QUICK, sdpa_mask)


def _attend(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BNSD: torch.Tensor,
    value_BNSD: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as Transformers does. Letters: B batch, N heads, T queries, S keys, D width of a head."""
    floats = (query_BNTD.float(), key_BNSD.float(), value_BNSD.float())
    bias = mask.float() if mask is not None and mask.is_floating_point() else mask
    with torch.autocast(query_BNTD.device.type, enabled=False):
        if _is_plain(module, query_BNTD, key_BNSD, mask, is_causal=is_causal, settings=settings) and 0 < dropout < 1:
            found = _with_dropout(*floats, bias, dropout=dropout, scaling=scaling)
        else:
            from transformers.integrations.sdpa_attention import sdpa_attention_forward

            found, _ = sdpa_attention_forward(
                module, *floats, bias, dropout=dropout, scaling=scaling, is_causal=is_causal, **settings
            )
    return found.to(query_BNTD.dtype), None


def _is_plain(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BNSD: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool | None,
    settings: dict[str, Any],
) -> bool:
    """Whether every head has keys of its own, and all that hides a key is in the mask."""
    is_hidden_later = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    looks_ahead = mask is not None or not is_hidden_later or query_BNTD.shape[2] == 1
    has_more = any(settings.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    return looks_ahead and not has_more and query_BNTD.shape[1] == key_BNSD.shape[1] and query_BNTD.device.type == "cpu"


def _with_dropout(
    query_BNTD: torch.Tensor,
    key_BNSD: torch.Tensor,
    value_BNSD: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Give what is attended to (B, T, N, D)."""
    scale = query_BNTD.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BNTS = torch.matmul(query_BNTD * scale, key_BNSD.transpose(2, 3))
    if mask is not None:
        bias = mask[..., : key_BNSD.shape[2]]
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape).masked_fill_(~bias, torch.finfo(torch.float32).min)
        scores_BNTS = scores_BNTS + bias
    shares_BNTS = dropped(scores_BNTS.softmax(-1), dropout)
    return torch.matmul(shares_BNTS, value_BNSD).transpose(1, 2).contiguous()

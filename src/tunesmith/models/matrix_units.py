"""Use a CPU's units for products of bf16 matrices (Intel AMX) where it has them.

Products in bf16 then take a quarter of their float32 time; weights, sums, norms and the optimiser stay float32, as
autocast leaves them. Attention is kept in float32: torch's fused kernel for CPUs takes longer backwards in bf16 than
all products of a block together (docs/notebook.md has the figures), and it is a small part of short texts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

_LEAST_WIDTH = 256  # below it, turning numbers into bf16 and back costs what the products save
_PLAIN, _FLOAT32 = "sdpa", "tunesmith_float32_sdpa"  # as Transformers calls ways to compute attention


def has_matrix_units() -> bool:
    """Whether this CPU multiplies bf16 matrices in units of its own; False where it cannot be told."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def pays(width: int) -> bool:
    """Whether matrices of a model of this width are large enough, and this CPU has the units."""
    return width >= _LEAST_WIDTH and has_matrix_units()


@contextlib.contextmanager
def in_bf16(model: nn.Module) -> Iterator[None]:
    """Compute a model's products in bf16 on the CPU, and its attention in float32."""
    with attention_in_float32(model), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@contextlib.contextmanager
def attention_in_float32(model: nn.Module) -> Iterator[None]:
    """Let a Transformers model compute its attention in float32, whatever autocast says; afterwards it is as it was.

    Args:
        model: One whose attention is torch's own (sdpa); another is left alone.
    """
    config = getattr(model, "config", None)
    if getattr(config, "_attn_implementation", "") != _PLAIN:
        yield
        return
    _register()
    model.set_attn_implementation(_FLOAT32)
    try:
        yield
    finally:
        model.set_attn_implementation(_PLAIN)


def _register() -> None:
    """Make it known to Transformers, with the masks that torch's own attention takes."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_FLOAT32, _attend)
    AttentionMaskInterface.register(_FLOAT32, sdpa_mask)


def _attend(
    module: nn.Module,
    query_BNTD: torch.Tensor,
    key_BNTD: torch.Tensor,
    value_BNTD: torch.Tensor,
    mask: torch.Tensor | None,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as Transformers does, in float32. Letters: B batch, N heads, T tokens, D width of a head."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    floats = (part.float() for part in (query_BNTD, key_BNTD, value_BNTD))
    bias = mask.float() if mask is not None and mask.is_floating_point() else mask
    with torch.autocast(query_BNTD.device.type, enabled=False):
        found, _ = sdpa_attention_forward(module, *floats, bias, **settings)
    return found.to(query_BNTD.dtype), None

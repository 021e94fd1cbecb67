"""Use a CPU's units for products of bf16 matrices (Intel AMX) where it has them.

Products in bf16 then take a quarter of their float32 time; weights, sums, norms and the optimiser stay float32, as
autocast leaves them, and so does attention (`cpu_attention`), which is a small part of short texts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from tunesmith.models.cpu_attention import cpu_attention

_LEAST_WIDTH = 256  # below it, turning numbers into bf16 and back costs what the products save


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
    with cpu_attention(model), torch.autocast("cpu", dtype=torch.bfloat16):
        yield

"""Keep the frozen linear layers of a base model in 4 or 8 bits while something beside them is trained.

The weights that no gradient changes take an eighth or a quarter of their room on the GPU. They come back afterwards as
they were: what was learnt is kept, measured and served beside the whole base model, on machines without a GPU too.

Sources: Dettmers et al. 2023 (QLoRA: 4 bits as normal floats, quantised twice), Dettmers et al. 2022 (LLM.int8).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.models.anatomy import Anatomy, linear_layers

BITS = (0, 4, 8)


def demand_bits(bits: int, model: nn.Module, anatomy: Anatomy, *, method: str, device: str) -> None:
    """Refuse to keep a base in few bits where it cannot be, or nothing would be gained.

    Args:
        bits: As asked for; 0 where the base stays as it is.
        model: With the method applied.
        anatomy: Of it.
        method: Its name.
        device: Trains.

    Raises:
        PlanProblem: Not a number of bits, no CUDA GPU, or no linear layer stays frozen.
        MissingExtra: bitsandbytes is not installed.
    """
    if bits not in BITS:
        raise PlanProblem(f"base_bits is {bits}", where="base_bits", do="use 4 or 8; 0 keeps the base as it is")
    if not bits:
        return
    if device != "cuda":
        raise PlanProblem(
            f"a base in {bits} bits needs a CUDA GPU, and this run trains on {device}",
            where="base_bits",
            do="leave base_bits out; to train in less memory use --method lora, or --set batch_tokens=512",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            "a base in few bits needs bitsandbytes, which is not installed",
            where="base_bits",
            do="pip install 'tunesmith[bits]'",
        )
    if method == "dora" or not frozen_linear_layers(model, anatomy):
        reason = "measures" if method == "dora" else "trains"
        raise PlanProblem(
            f"method '{method}' {reason} the base's own weights, which then have to stay as they are",
            where="base_bits",
            do="use --method lora, or leave base_bits out",
        )


def frozen_linear_layers(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Linear]:
    """Give the linear layers inside the blocks of which nothing is trained, by their names in the model."""
    return {
        name: layer
        for name, layer in linear_layers(model, anatomy).items()
        if isinstance(layer, nn.Linear) and not any(one.requires_grad for one in layer.parameters())
    }


@contextlib.contextmanager
def base_in_bits(model: nn.Module, anatomy: Anatomy, bits: int, *, device: Any, precision: str) -> Iterator[int]:
    """Hold the model's frozen linear layers in few bits on the device; afterwards they are what they were, on the CPU.

    Args:
        model: With the method applied, on the CPU. Changed in place, and back.
        anatomy: Of it.
        bits: 4 or 8; 0 does nothing.
        device: Where the layers in few bits go.
        precision: Of the run: bf16, fp16 or no.

    Yields:
        How many layers are held so.
    """
    held = frozen_linear_layers(model, anatomy) if bits else {}
    try:
        for name, layer in held.items():
            model.set_submodule(name, _in_bits(layer, bits, device=device, precision=precision))
        yield len(held)
    finally:
        for name, layer in held.items():
            model.set_submodule(name, layer)


def _in_bits(layer: nn.Linear, bits: int, *, device: Any, precision: str) -> nn.Module:
    """Give a layer that computes with the weights of this one in few bits."""
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of every cast, in every layer

    has_bias, sizes = layer.bias is not None, (layer.in_features, layer.out_features)
    small: Any
    if bits == 4:
        computing = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
        small = Linear4bit(*sizes, bias=has_bias, compute_dtype=computing, quant_type="nf4", device="meta")
        small.weight = Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4", module=small)
    else:
        small = Linear8bitLt(*sizes, bias=has_bias, has_fp16_weights=False, device="meta")
        small.weight = Int8Params(layer.weight.detach(), requires_grad=False, has_fp16_weights=False)
    if has_bias:
        small.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    moved: nn.Module = small.to(device)  # here the weights are quantised
    return moved.requires_grad_(False).train(layer.training)

"""Prefix: learnt keys and values that every block attends to besides the text's own.

Letters in shapes: B batch, V virtual tokens, N blocks, A attention heads, D width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tunesmith.methods import virtual_tokens
from tunesmith.methods.delta import Adapter
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.models.anatomy import Anatomy

OPTIONS = ("prompt_length", "merge")
WHEN = "as prompt, but it reaches every block: more numbers, and more effect on small bases"
HEAD_FACTOR = 0.1
SPACE: Space = {**COMMON, "prompt_length": Choices((5, 10, 20, 40))}


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for models whose attention takes no keys and values from outside."""
    if (reason := virtual_tokens.reason_against(anatomy)) is not None:
        return reason
    if "past_key_values" not in inspect.signature(anatomy.body.forward).parameters:
        return f"the attention of {anatomy.family or 'this model'} takes no keys and values from outside"
    return None


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze the model, and let every block attend to learnt keys and values.

    The paper trains them through a network that it then drops; training them directly is steadier at the higher rate
    given here (Liu et al. 2022, P-Tuning v2, find no gain from that network on most tasks).

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its body and its fresh parts are.
        options: `prompt_length`, how many keys and values for each block.

    Raises:
        PlanProblem: The model has too few positions for so many.

    Source: Li & Liang 2021.
    """
    heads, width = _heads(anatomy)
    layers = len(anatomy.blocks)
    start = torch.randn(int(options["prompt_length"]), layers * 2 * heads * width) * 0.02
    tokens = virtual_tokens.install(model, anatomy, start)

    def before(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        from transformers import DynamicCache

        named = virtual_tokens.named_arguments(body, args, kwargs)
        virtual_tokens.make_room(named, len(tokens.weight), in_input=False)
        if virtual_tokens.is_first_call(named):
            rows = len(named["input_ids"] if named.get("input_ids") is not None else named["inputs_embeds"])
            pairs = tokens.weight.view(-1, layers, 2, heads, width).permute(1, 2, 3, 0, 4)  # (N, 2, A, V, D)
            cache = DynamicCache(
                [(key.expand(rows, -1, -1, -1), value.expand(rows, -1, -1, -1)) for key, value in pairs]
            )
            named["past_key_values"] = cache
        return (), named

    anatomy.body.register_forward_pre_hook(before, with_kwargs=True)
    return model


def adapter(model: nn.Module, anatomy: Anatomy) -> Adapter:
    """Give the prefix and the fresh parts as PEFT's prefix tuning."""
    from peft import PrefixTuningConfig

    heads, width = _heads(anatomy)
    config = PrefixTuningConfig(
        num_virtual_tokens=len(anatomy.body.get_submodule(virtual_tokens.NAME).get_parameter("weight")),
        token_dim=heads * width,
        num_transformer_submodules=1,
        num_attention_heads=heads,
        num_layers=len(anatomy.blocks),
        encoder_hidden_size=heads * width,
    )
    return virtual_tokens.adapter_of(model, anatomy, config)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 1e-2: of the rates between 5e-3 and 3e-2 that P-Tuning v2's runs took without a network in between."""
    return 1e-2


def _heads(anatomy: Anatomy) -> tuple[int, int]:
    """Give how many heads keys and values have, and how wide they are."""
    config: Any = anatomy.body.config
    all_heads = int(config.num_attention_heads)
    heads = int(getattr(config, "num_key_value_heads", None) or all_heads)
    return heads, int(getattr(config, "head_dim", None) or anatomy.hidden // all_heads)

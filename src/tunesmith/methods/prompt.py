"""Soft prompt: a few learnt tokens before every text; the model itself stays as it is.

Letters in shapes: B batch, V virtual tokens, T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tunesmith.methods import virtual_tokens
from tunesmith.methods.delta import Adapter
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.models.anatomy import Anatomy

OPTIONS = ("prompt_length", "merge")
WHEN = "large bases with many small tasks; small bases learn little from it"
HEAD_FACTOR = 0.03
SPACE: Space = {**COMMON, "prompt_length": Choices((5, 10, 20, 40))}


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for models that need the tokens' numbers, or tokens that stand where the text does."""
    if anatomy.is_decoder and "SequenceClassification" in anatomy.kind:
        return (
            "behind a soft prompt this decoder is given states and no token numbers, "
            "so its head cannot tell where a padded text ends"
        )
    return virtual_tokens.reason_against(anatomy)


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze the model, and let the body read learnt tokens before each text.

    They start as the embeddings of tokens drawn from the vocabulary, which the paper found better than noise for all
    but the largest models. A sequence head then reads the first virtual token; token heads see the text alone.

    Args:
        model: Base model with its head. Changed in place.
        anatomy: Where its embeddings, its body and its fresh parts are.
        options: `prompt_length`, how many tokens to learn.

    Raises:
        PlanProblem: The model has too few positions for so many.

    Source: Lester et al. 2021.
    """
    table: Any = anatomy.embeddings
    drawn = torch.randint(0, len(table.weight), (int(options["prompt_length"]),))
    tokens = virtual_tokens.install(model, anatomy, table.weight.detach()[drawn].clone())
    reads_first = "SequenceClassification" in anatomy.kind

    def before(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
        named = virtual_tokens.named_arguments(body, args, kwargs)
        is_first = virtual_tokens.is_first_call(named)
        virtual_tokens.make_room(named, len(tokens.weight), in_input=is_first)
        if is_first:
            states_BTH = table(named.pop("input_ids"))
            own_BVH = tokens.weight.to(states_BTH.dtype).expand(len(states_BTH), -1, -1)
            named["inputs_embeds"] = torch.cat([own_BVH, states_BTH], 1)
            if (kinds_BT := named.get("token_type_ids")) is not None:
                named["token_type_ids"] = nn.functional.pad(kinds_BT, (len(tokens.weight), 0))
        return (), named

    def after(body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> Any:
        if not reads_first and kwargs.get("inputs_embeds") is not None:
            found["last_hidden_state"] = found["last_hidden_state"][:, len(tokens.weight) :]
        return found

    anatomy.body.register_forward_pre_hook(before, with_kwargs=True)
    anatomy.body.register_forward_hook(after, with_kwargs=True)
    return model


def adapter(model: nn.Module, anatomy: Anatomy) -> Adapter:
    """Give the prompt and the fresh parts as PEFT's prompt tuning."""
    from peft import PromptTuningConfig

    count, hidden = anatomy.body.get_submodule(virtual_tokens.NAME).get_parameter("weight").shape
    config = PromptTuningConfig(
        num_virtual_tokens=count,
        token_dim=hidden,
        num_transformer_submodules=1,
        num_attention_heads=int(anatomy.body.config.num_attention_heads),
        num_layers=len(anatomy.blocks),
    )
    return virtual_tokens.adapter_of(model, anatomy, config)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 0.03: prompts move far; the paper's 0.3 is for Adafactor, whose steps shrink with small parameters."""
    return 3e-2

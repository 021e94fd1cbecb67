"""What soft prompts and prefixes share: tokens that are learnt, stand before every text, and are in no vocabulary.

The body of the model is given them by hooks, so the model stays the Transformers class that it was. Position numbers
that they take are gone for the text: the configuration's `max_position_embeddings` says how many are left.

Letters in shapes: B batch, V virtual tokens, T tokens, H width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods.companions import plain_config
from tunesmith.methods.delta import Adapter
from tunesmith.models.anatomy import Anatomy

NAME = "virtual_tokens"  # of the learnt part, in the body
_LEAST_TEXT = 8  # tokens that a text is left with at least
_READS_APART = "this task encodes two texts apart and averages their tokens; virtual tokens would be averaged too"


class VirtualTokens(nn.Module):  # type: ignore[misc]
    """The learnt numbers: one row for each virtual token."""

    def __init__(self, start: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)


def reason_against(anatomy: Anatomy) -> str | None:
    """Give the reason why neither soft prompts nor prefixes can serve this kind of model; None when they may."""
    if anatomy.is_encoder_decoder:
        return "virtual tokens are built for models of one stack, and this one has an encoder and a decoder"
    if "MultipleChoice" in anatomy.kind:
        return "PEFT has no virtual tokens for multiple choice, so nothing else could read the result"
    if not anatomy.head:
        return _READS_APART
    return None


def install(model: nn.Module, anatomy: Anatomy, start_VX: torch.Tensor) -> VirtualTokens:
    """Freeze the model, put virtual tokens into its body, and take their positions away from the text.

    Raises:
        PlanProblem: Too few positions would be left.
    """
    count, config = len(start_VX), anatomy.body.config
    limit = getattr(config, "max_position_embeddings", None)
    if isinstance(limit, int) and limit - count < _LEAST_TEXT:
        raise PlanProblem(
            f"prompt_length is {count}; this model has {limit} positions for virtual tokens and text together",
            where="prompt_length",
            do=f"choose {max(1, limit - _LEAST_TEXT)} or less",
        )
    if isinstance(limit, int):
        config.max_position_embeddings = limit - count
    model.requires_grad_(False)
    tokens = VirtualTokens(start_VX)
    anatomy.body.add_module(NAME, tokens)
    for part in anatomy.fresh:
        part.requires_grad_(True)
    return tokens


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give the arguments of a call of the body, all by name."""
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    named = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(parameter.name, {}))
    return named


def is_first_call(named: Mapping[str, Any]) -> bool:
    """Whether nothing has been read yet; while a text is being written, the cache holds what was."""
    cache = named.get("past_key_values")
    return cache is None or cache.get_seq_length() == 0


def make_room(named: dict[str, Any], count: int, *, in_input: bool) -> None:
    """Let attention mask and positions know of `count` virtual tokens before the text.

    Args:
        named: Arguments of the body, changed in place.
        count: V.
        in_input: Whether the virtual tokens go through the body with this call, and so need positions of their own.
    """
    mask_BT, places = named.get("attention_mask"), named.get("position_ids")
    if mask_BT is not None:
        named["attention_mask"] = torch.cat([mask_BT.new_ones(len(mask_BT), count), mask_BT], 1)
    if places is not None:
        places = places + count
        own = torch.arange(count, device=places.device).expand(len(places), count)
        named["position_ids"] = torch.cat([own, places], 1) if in_input else places
    named.pop("cache_position", None)  # the body finds it anew


def adapter_of(model: nn.Module, anatomy: Anatomy, config: Any) -> Adapter:
    """Give what was learnt as a PEFT adapter: the virtual tokens, the fresh parts and the configuration."""
    names = {id(part): name for name, part in model.named_modules()}
    fresh = {names[id(part)]: part for part in anatomy.fresh}
    tensors: dict[str, torch.Tensor] = {"prompt_embeddings": anatomy.body.get_submodule(NAME).get_parameter("weight")}
    for name, part in fresh.items():
        tensors |= {f"base_model.{name}.{key}": tensor for key, tensor in part.named_parameters()}
    return Adapter(tensors, {**plain_config(config, anatomy), "modules_to_save": sorted(fresh) or None})

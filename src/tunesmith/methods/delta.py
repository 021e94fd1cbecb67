"""What a method learnt, apart from the base model: its tensors, and how plain PEFT is to read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.methods import Method
from tunesmith.models.anatomy import Anatomy


@dataclass(frozen=True)
class Adapter:
    """The learnt part of a model. The tensors are the model's own: whoever changes them changes the model."""

    tensors: Mapping[str, torch.Tensor]  # by the name that they have in a file
    config: Mapping[str, Any] | None = None  # of PEFT; None where PEFT has no such method


def take_adapter(method: Method, model: nn.Module, anatomy: Anatomy) -> Adapter:
    """Give what a method learnt; for methods that PEFT does not have, all that training may change, by its name."""
    own = getattr(method, "adapter", None)
    if own is not None:
        found: Adapter = own(model, anatomy)
        return found
    return Adapter({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})


def put_adapter(adapter: Adapter, kept: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy kept tensors into a model's own; give the names that do not fit, which is none for what we wrote."""
    wrong = sorted(adapter.tensors.keys() ^ kept.keys())
    wrong += [name for name in adapter.tensors.keys() & kept.keys() if adapter.tensors[name].shape != kept[name].shape]
    if not wrong:
        with torch.no_grad():
            for name, tensor in adapter.tensors.items():
                tensor.copy_(kept[name])
    return wrong

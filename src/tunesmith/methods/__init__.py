"""Which parameters may change, and how. One file per method behind one small seam."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from tunesmith.errors import PlanProblem, nearest_first

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.models.anatomy import Anatomy

METHODS = {
    "full": "tunesmith.methods.full",
    "top-layers": "tunesmith.methods.top_layers",
    "bitfit": "tunesmith.methods.bitfit",
    "lora": "tunesmith.methods.lora",
    "adalora": "tunesmith.methods.adalora",
    "dora": "tunesmith.methods.dora",
    "adapter": "tunesmith.methods.adapter",
    "ia3": "tunesmith.methods.ia3",
    "prefix": "tunesmith.methods.prefix",
    "prompt": "tunesmith.methods.prompt",
}


class Method(Protocol):
    """What every method module (or a user's own object) has.

    A method may also have, and most of ours do:

    - `HEAD_FACTOR`, at how many times the rate a fresh head learns unless the recipe says otherwise (else 10);
    - `merge(model) -> model`, which makes plain weights of what was learnt, for methods that keep it beside them;
    - `adapter(model, anatomy) -> Adapter`, what was learnt in a form of its own (see `methods.delta`);
    - what `Upkeep` asks.
    """

    OPTIONS: tuple[str, ...]  # recipe keys that this method listens to; with "merge", a bundle may hold a delta only
    WHEN: str  # when to choose it, in one line

    def why_not(self, task: str, anatomy: Anatomy) -> str | None:
        """Give the reason why this method cannot serve this task and model; None when it can."""

    def apply(self, model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
        """Free the parameters that training may change, freeze the rest, and give the model."""

    def default_learning_rate(self, anatomy: Anatomy) -> float:
        """Give the rate that suits this method on a model of this size."""


class Upkeep(Protocol):
    """What a method does between the steps of training. Its state is buffers of the model, which checkpoints keep."""

    def before_step(self, model: nn.Module) -> None:
        """Add to the gradients, after they were clipped."""

    def after_step(self, model: nn.Module, step: int, steps: int) -> None:
        """Look after the model when `step` (from 1) of `steps` was made; the gradients are still there."""

    def settled_after(self, steps: int) -> int:
        """Give the first step whose weights may be the result."""


def find_method(name: str | Method) -> Method:
    """Give the method of that name; a user's own object, or `module:NAME`, goes wherever a name does.

    Raises:
        PlanProblem: No such method; lists the valid names.
    """
    if not isinstance(name, str):
        return name
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found: Method = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise PlanProblem(
                f"method '{name}' cannot be loaded: {error}", where="method", do="check that the module imports"
            ) from error
        return found
    if name not in METHODS:
        raise PlanProblem(f"no method '{name}'", where="method", do=f"use one of: {nearest_first(name, METHODS)}")
    method: Method = cast("Method", importlib.import_module(METHODS[name]))
    return method


def upkeep_of(method: Method) -> Upkeep | None:
    """Give the method as what looks after the model between steps; None for most."""
    return cast("Upkeep", method) if hasattr(method, "after_step") else None

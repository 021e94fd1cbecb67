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
}


class Method(Protocol):
    """What every method module (or a user's own object) has."""

    def why_not(self, task: str, anatomy: Anatomy) -> str | None:
        """Give the reason why this method cannot serve this task and model; None when it can."""

    def apply(self, model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
        """Free the parameters that training may change, freeze the rest, and give the model."""

    def default_learning_rate(self, anatomy: Anatomy) -> float:
        """Give the rate that suits this method on a model of this size."""


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

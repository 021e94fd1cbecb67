"""Describe every method by what it says of itself and by what it would do to a base model."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tunesmith.errors import ModelProblem
from tunesmith.methods import METHODS, find_method, is_trained
from tunesmith.models.anatomy import Anatomy, find_anatomy, trainable_share
from tunesmith.models.build import build_model


@dataclass(frozen=True)
class Described:
    """One method, as a person chooses it."""

    name: str
    changes: str  # what it changes
    when: str  # when to choose it
    options: tuple[str, ...]  # recipe keys that it listens to
    can_merge: bool | None  # whether what it learns can become part of the weights; None where it always is
    trainable_share: float | None = None  # 0..1 of the base model with a head of two labels; None without a base
    learning_rate: float | None = None  # its own, for that base


def describe_methods(base: Path | None, options: Mapping[str, Any]) -> list[Described]:
    """Give all methods in the catalogue's order.

    Args:
        base: Folder of the base model that shares and rates are for; None leaves them out.
        options: Recipe keys with their values, for all methods.
    """
    found = []
    kept = None
    if base is not None:
        model = build_model(base, "AutoModelForSequenceClassification", num_labels=2)
        anatomy = find_anatomy(model)
        kept = (model.to("meta"), anatomy)  # sizes are all that is asked: nothing below is computed
    for name, module in METHODS.items():
        method: Any = find_method(name)
        changes = (importlib.import_module(module).__doc__ or "").split("\n\n")[0].replace("\n", " ")
        can_merge = hasattr(method, "merge") if "merge" in method.OPTIONS else None
        share, rate = _share_and_rate(method, base, kept, options)
        found.append(Described(name, changes, method.WHEN, method.OPTIONS, can_merge, share, rate))
    return found


def _share_and_rate(
    method: Any, base: Path | None, kept: tuple[nn.Module, Anatomy] | None, options: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    """Give what share of the base model a method trains, and its rate; None where it cannot serve this base.

    A method may need another head than that of a sequence: it names the class in `MODEL_CLASS`.
    """
    if base is None or kept is None:
        return None, None
    if not is_trained(method):
        return 0.0, None
    own_class = getattr(method, "MODEL_CLASS", None)
    if own_class is None:
        model, anatomy = copy.deepcopy(kept)
    else:
        try:
            model = build_model(base, own_class)
        except ModelProblem:
            return None, None
        anatomy = find_anatomy(model, has_fresh_head=False)
    if method.why_not("text-classification", anatomy) is not None:
        return None, None
    rate = float(method.default_learning_rate(anatomy))
    return trainable_share(method.apply(model, anatomy, options)), rate

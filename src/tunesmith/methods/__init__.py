"""Which parameters may change, and how. One file per method behind one small seam."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.methods.space import COMMON, Choices, Range
from tunesmith.tasks import Load, Task
from tunesmith.types import Record, Splits

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
    "contrastive": "tunesmith.methods.contrastive",
    "meta": "tunesmith.methods.meta",
    "pet": "tunesmith.methods.pet",
    "few-shot": "tunesmith.methods.few_shot",
    "zero-shot": "tunesmith.methods.zero_shot",
}


class Method(Protocol):
    """What every method module (or a user's own object) has.

    A method may also have, and most of ours do:

    - `HEAD_FACTOR`, at how many times the rate a fresh head learns unless the recipe says otherwise (else 10);
    - `merge(model) -> model`, which makes plain weights of what was learnt, for methods that keep it beside them;
    - `adapter(model, anatomy) -> Adapter`, what was learnt in a form of its own (see `methods.delta`);
    - `SPACE`, the recipe keys that a search may vary and how far (see `methods.space`; else what all may vary);
    - what `Upkeep` asks;
    - `resolve(options, known) -> options`, the options with all that they leave open decided by base and rows;
    - `own_task(task, options) -> Task`, the task as this method asks it, e.g. as a cloze (catalogue methods only);
    - `deal(splits, options, task=, seed=, files=) -> splits, options`, other parts than rows are cut into by chance;
    - `defaults(rows, labels, options) -> options`, its own `batch_size` and `epochs` where the recipe leaves them open;
    - `EVALUATIONS`, how often a run is evaluated (else after every epoch);
    - `before_evaluation(model, material)`, what it does to the model (in evaluation mode) before the loop scores it;
    - `before_measuring(model, examples, task=, tokenizer=, temperature=, is_valid_given=)`, what it does to the model
      when all but the test is over; `examples` by part (the test's are not for learning), and whether validation rows
      came as a file of their own;
    - `learnt_task(task, options) -> Task`, the task as a run learns and measures it; the finished run answers as the
      task itself;
    - `IS_TRAINED = False`, where nothing is learnt: the plan has no steps and the loop is skipped.
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


@dataclass(frozen=True)
class Known:
    """What is known before the plan, and what a method's open options may be decided by."""

    task: Task  # as the recipe asks it
    labels: tuple[str, ...]
    rows: Sequence[Record]  # for training
    config: Any  # of the base model, as Transformers reads it
    tokenizer: Any  # of the base model
    load: Load  # builds the base model


def is_trained(method: Method) -> bool:
    """Whether anything is learnt; a method may also only ask the base model in its own way."""
    return bool(getattr(method, "IS_TRAINED", True))


def resolve_options(method: Method, options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Give the method's options with nothing left open: what the plan, and so the bundle, keeps of them."""
    own = getattr(method, "resolve", None)
    return dict(options if own is None else own(options, known))


def own_task(name: str | Method, task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task as the method asks it; for most methods that is the task itself.

    Only methods of the catalogue can ask in their own way: a bundle has to know them again, and never imports a module
    that its files name.

    Args:
        name: Of the method, as recipe and plan have it.
        task: With its options set.
        options: Of the method, with nothing left open.
    """
    own = getattr(find_method(name), "own_task", None) if isinstance(name, str) and name in METHODS else None
    return task if own is None else cast("Task", own(task, options))


def dealt_by(
    method: Method, splits: Splits, options: Mapping[str, Any], *, task: str, seed: int, files: Sequence[str]
) -> tuple[Splits, dict[str, Any]]:
    """Give the parts as the method wants them, and its options; for most methods both stay as they are.

    Args:
        method: That will learn.
        splits: As rows are cut by chance, or given.
        options: Of the method.
        task: Its name.
        seed: Of the run.
        files: The parts that came as files.
    """
    own = getattr(method, "deal", None)
    found = (splits, dict(options)) if own is None else own(splits, options, task=task, seed=seed, files=files)
    return cast("tuple[Splits, dict[str, Any]]", found)


def learnt_task(method: Method, task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task as the method learns and measures it; for most methods that is the task itself."""
    own = getattr(method, "learnt_task", None)
    return task if own is None else cast("Task", own(task, options))


def space_of(method: Method) -> Mapping[str, Range | Choices]:
    """Give what a search may vary of this method: its own space, else what every method that trains may vary."""
    found: Mapping[str, Range | Choices] = getattr(method, "SPACE", COMMON if is_trained(method) else {})
    return found


def upkeep_of(method: Method) -> Upkeep | None:
    """Give the method as what looks after the model between steps; None for most."""
    return cast("Upkeep", method) if hasattr(method, "after_step") else None

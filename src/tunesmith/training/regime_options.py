"""Decide the regime before work starts: every open key gets its value, and what cannot work together is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.methods import Method, is_trained, upkeep_of
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Example, Task
from tunesmith.tasks.losses import balanced_weights, given_weights, plain_loss
from tunesmith.training.adversarial import KINDS
from tunesmith.training.augmentation.mixup import mixup_options
from tunesmith.training.averaging import AVERAGES
from tunesmith.training.optimizers import LARGEST_RATE, demand_optimizer, rate_factor
from tunesmith.training.recipe import Recipe, keys
from tunesmith.training.schedules import demand_schedule
from tunesmith.training.unfreezing import demand_levels, level_count
from tunesmith.types import Plan

LOSS_KEYS = ("label_smoothing", "class_weights", "focal_gamma", "r_drop")
REGIME_KEYS = (
    *("optimizer", "momentum", "schedule", "layer_decay", "unfreeze", *LOSS_KEYS),
    *("adversarial", "adversarial_epsilon", "adversarial_steps", "averaging", "ema_decay", "swa_share"),
)
_AT_ONCE = 256  # examples whose labels are counted together
_SAMPLE = 4  # examples that the loss is tried on


def regime_options(
    recipe: Recipe,
    task: Task,
    method: Method,
    *,
    model: nn.Module,
    anatomy: Anatomy,
    train: Sequence[Example],
    tokenizer: Any,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Give the plan's entries for the regime; `class_weights` becomes the weight of each output, in order.

    Args:
        recipe: What was asked for.
        task: Says which of the loss keys it listens to (`loss_options`).
        method: Applied to the model already.
        model: Its loss is tried on a few examples where a key bends it.
        anatomy: Of the model.
        train: The training examples.
        tokenizer: Of the base model.
        labels: Of the task.

    Raises:
        PlanProblem: A key does not fit the task, the method, the model or another key.
    """
    options = {name: getattr(recipe, name) for name in REGIME_KEYS}
    _demand_training(recipe, method)
    demand_optimizer(recipe.optimizer)
    demand_schedule(recipe.schedule)
    demand_levels(recipe.unfreeze, level_count(model, anatomy))
    _demand_one_of("adversarial", recipe.adversarial, KINDS)
    _demand_one_of("averaging", recipe.averaging, AVERAGES)
    _demand_average_can_be_kept(recipe, method)
    _demand_average_of_head(recipe, method)
    asked = _changed(recipe, LOSS_KEYS)
    mixup = mixup_options(recipe, task, anatomy=anatomy, train=train, tokenizer=tokenizer)
    if asked:
        _demand_loss(task, asked)
    if asked or mixup:
        _demand_plain_loss(task, model, task.batch(train[:_SAMPLE], tokenizer), [*asked, *mixup])
    if asked:
        _demand_company(recipe, model)
        options["class_weights"] = _weights(recipe.class_weights, task, train, tokenizer, labels)
    return {**options, **mixup}


def _changed(recipe: Recipe, names: Sequence[str]) -> list[str]:
    """Give the keys that are not at their default."""
    defaults = {item.name: item.default for item in keys()}
    return [name for name in names if getattr(recipe, name) != defaults[name]]


def _demand_training(recipe: Recipe, method: Method) -> None:
    changed = _changed(recipe, REGIME_KEYS)
    if changed and not is_trained(method):
        raise PlanProblem(
            f"{changed[0]} shapes training, and method '{recipe.method}' trains nothing",
            where=changed[0],
            do=f"leave {changed[0]} out, or choose another method; `tunesmith methods` lists them",
        )


def _demand_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PlanProblem(f"{name} is '{value}'", where=name, do=f"use one of: {nearest_first(value, known)}")


def _demand_average_can_be_kept(recipe: Recipe, method: Method) -> None:
    if recipe.averaging != "none" and upkeep_of(method) is not None:
        raise PlanProblem(
            f"method '{recipe.method}' takes parts of what it learns away while it trains; an average of the weights "
            "would bring them back",
            where="averaging",
            do="leave averaging out, or choose another method, e.g. lora",
        )


def _demand_average_of_head(recipe: Recipe, method: Method) -> None:
    if recipe.averaging != "none" and hasattr(method, "before_evaluation"):
        raise PlanProblem(
            f"method '{recipe.method}' fits its head anew to the weights of each evaluation; an average of heads fits "
            "none of them",
            where="averaging",
            do="leave averaging out, or choose another method; `tunesmith methods` lists them",
        )


def _demand_loss(task: Task, asked: Sequence[str]) -> None:
    known = getattr(task, "loss_options", ())
    for name in asked:
        if name not in known:
            its = f"its loss listens to {', '.join(known)}" if known else "its loss is not one of chosen labels"
            raise PlanProblem(
                f"{name} does not fit task {task.name}: {its}", where=name, do=f"leave {name} out of the recipe"
            )


def _demand_plain_loss(task: Any, model: nn.Module, batch: Any, asked: Sequence[str]) -> None:
    """Refuse to bend a loss that is not the plain cross-entropy: a method may ask the task in a way of its own."""
    with torch.inference_mode():
        own = float(task.loss(model, batch))
        plain = float(plain_loss(*task.labelled_logits(model, batch)))
    if abs(own - plain) > 1e-3 * max(1.0, abs(own)):
        raise PlanProblem(
            f"{asked[0]} bends a cross-entropy, and what this method learns from is another loss",
            where=asked[0],
            do=f"leave {asked[0]} out, or choose another method; `tunesmith methods` lists them",
        )


def _demand_company(recipe: Recipe, model: nn.Module) -> None:
    """Refuse keys that take each other's sense away."""
    if recipe.label_smoothing and recipe.focal_gamma:
        raise PlanProblem(
            "label_smoothing asks the model to be less sure and focal_gamma weighs answers by how sure they are: no "
            "published loss has both",
            where="focal_gamma",
            do="leave one of them out",
        )
    if recipe.r_drop and not has_dropout(model):
        raise PlanProblem(
            "r_drop compares two passes with other dropout, and this model has no dropout",
            where="r_drop",
            do="give it some: --set dropout=0.1",
        )


def has_dropout(model: nn.Module) -> bool:
    """Whether two passes in training mode can differ."""
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()):
        return True
    entries = vars(getattr(model, "config", object)).items()  # attention may drop without a module
    return any(isinstance(value, float) and value > 0 for name, value in entries if "drop" in name)


def _weights(wanted: str, task: Any, train: Sequence[Example], tokenizer: Any, labels: Sequence[str]) -> Any:
    """Resolve `class_weights`: the word none, or one entry for each output of the model."""
    if wanted in {"none", ""}:
        return "none"
    outputs = task.model_config(labels)["id2label"]
    names = [outputs[place] for place in range(len(outputs))]
    counts, units, is_binary = _count(task, train, tokenizer, len(names))
    if wanted == "balanced":
        return balanced_weights(counts, units, is_binary=is_binary)
    return given_weights(read_weights(wanted), names, is_binary=is_binary)


def _count(task: Any, train: Sequence[Example], tokenizer: Any, outputs: int) -> tuple[list[float], float, bool]:
    """Count the units that have each label; give the counts, all units, and whether each label is a yes or no."""
    counts, units, is_binary = torch.zeros(outputs, dtype=torch.float64), 0.0, False
    for start in range(0, len(train), _AT_ONCE):
        batch = task.batch(train[start : start + _AT_ONCE], tokenizer)
        labels = batch["labels"]
        is_binary = labels.is_floating_point()
        units += task.weight(batch)
        counts += labels.double().sum(0) if is_binary else torch.bincount(labels[labels >= 0], minlength=outputs)
    return counts.tolist(), units, is_binary


def read_weights(text: str) -> dict[str, float]:
    """Read `spam=3,ham=1`, or the same as a JSON object where labels hold commas or equals signs.

    Raises:
        PlanProblem: It is neither.
    """
    problem = PlanProblem(
        f"class_weights is '{text[:200]}'",
        where="class_weights",
        do='write balanced, none, or weights: spam=3,ham=1 or {"spam": 3, "ham": 1}',
    )
    try:
        if text.lstrip().startswith("{"):
            return {str(name): float(weight) for name, weight in json.loads(text).items()}
        pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise problem
        return {name.strip(): float(weight) for name, _, weight in pairs}
    except (ValueError, TypeError):
        raise problem from None


def changed_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the entries of a plan in which its regime differs from the usual one."""
    usual = {item.name: item.default for item in keys()}
    return {name: options[name] for name in REGIME_KEYS if options.get(name, usual[name]) != usual[name]}


def regime_remarks(plan: Plan, model: nn.Module, anatomy: Anatomy) -> list[str]:
    """Say what of the model the plan will never let learn, though the method would."""
    if plan.options["unfreeze"] != "epoch":
        return []
    levels, stages = level_count(model, anatomy), math.ceil(float(plan.options["epochs"]))
    if stages >= levels:
        return []
    return [
        f"unfreeze=epoch frees one level with each epoch: in {stages} of them the lowest {levels - stages} of {levels} "
        "levels never learn; unfreeze=even reaches them all"
    ]


def default_rate(recipe: Recipe, method: Method, anatomy: Anatomy, model: nn.Module) -> float:
    """Give the learning rate that suits method and optimiser; the method is applied to the model already."""
    numbers = sum(one.numel() for one in model.parameters() if one.requires_grad)
    factor = rate_factor(demand_optimizer(recipe.optimizer), numbers=numbers, momentum=recipe.momentum)
    return min(LARGEST_RATE, method.default_learning_rate(anatomy) * factor)

"""Few labels: the body learns to tell texts of one label from all others, then a head is fitted on what it gives.

Each step compares all its texts with each other, so that a text goes through the model once for all its pairs. The mean
of the tokens' states is compared where the base's blocks allow it (see `models.mean_block`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods import Known
from tunesmith.methods.fitted_head import STRENGTHS, Head, fitted_heads
from tunesmith.methods.space import COMMON, Choices, Space
from tunesmith.metrics import Floats
from tunesmith.models import mean_block
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Example, Task
from tunesmith.tasks.contrast import ContrastedTask, head_states

OPTIONS: tuple[str, ...] = ("pooling", "contrast_temperature", "contrast_layers")
WHEN = "few labels: up to some dozens of rows for each, with a sentence encoder as base"
SPACE: Space = {**COMMON, "contrast_temperature": Choices((0.03, 0.05, 0.1))}
EVALUATIONS = 2  # each fits a head, and the few rows to judge by can hardly tell one epoch from the next
TASKS = ("text-classification", "text-pair", "multi-label-classification")
_BATCH_TOKENS = 4096  # at once where nothing is learnt; memory is small then
_STEP_ROWS, _PASSES, _LEAST_STEPS, _MOST_VISITS = 128, 3, 20, 20_000
POOLINGS = ("mean", "first")


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for tasks without labels of whole texts, and for models that do not read a text as a whole."""
    if task not in TASKS:
        return f"texts are compared by their labels, which suits {', '.join(TASKS)}, and this task is {task}"
    if not anatomy.head:
        return "the two texts are encoded apart, without a head to fit: leave encoder at cross"
    if anatomy.is_decoder or anatomy.is_encoder_decoder:
        return "it compares what an encoder makes of whole texts, and this base is a decoder"
    return None


def resolve(options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Decide what is compared: the mean of the states where the base's blocks can be made to give it.

    Raises:
        PlanProblem: There is no such pooling, or this base cannot have it.
    """
    wanted, family = str(options["pooling"]), str(getattr(known.config, "model_type", ""))
    if wanted not in {"auto", *POOLINGS}:
        raise PlanProblem(f"pooling is '{wanted}'", where="pooling", do=f"use one of: auto, {', '.join(POOLINGS)}")
    can_average = family in mean_block.FAMILIES
    if wanted == "mean" and not can_average:
        raise PlanProblem(
            f"the mean of the states cannot be made part of a model of family {family}",
            where="pooling",
            do=f"use first, or a base of one of: {', '.join(mean_block.FAMILIES)}",
        )
    return {**options, "pooling": ("mean" if can_average else "first") if wanted == "auto" else wanted}


def learnt_task(task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task with a contrastive loss; it answers as it does without."""
    contrasted: Any = ContrastedTask(task, float(options["contrast_temperature"]))
    found: Task = contrasted
    return found if task.name in TASKS else task


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Add the averaging block where it is asked for, and free the head and the upper blocks, or all below the head.

    Args:
        model: Base model with a fresh head. Changed in place.
        anatomy: Of the model as it came.
        options: `pooling`, decided by `resolve`; `contrast_layers`, the blocks that learn, from the top (0: all).

    Raises:
        PlanProblem: More blocks than there are.
    """
    count = int(options["contrast_layers"])
    if count > len(anatomy.blocks):
        raise PlanProblem(
            f"contrast_layers is {count}; this model has {len(anatomy.blocks)} blocks",
            where="contrast_layers",
            do=f"choose 1 to {len(anatomy.blocks)}, or 0 for all and the embeddings",
        )
    model.requires_grad_(count == 0)
    for part in (*anatomy.head, *anatomy.fresh, *anatomy.blocks[len(anatomy.blocks) - count :]):
        part.requires_grad_(True)
    if options["pooling"] == "mean" and mean_block.why_not(anatomy) is None:
        mean_block.add_mean_block(model, anatomy)
    return model


def defaults(rows: int, labels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give rows of a step, and passes: three, more where they make too few steps, fewer where rows abound.

    On CLINC150 with eight rows for each label six passes were worse than three (docs/notebook.md).
    """
    passes = max(_PASSES, math.ceil(_LEAST_STEPS / math.ceil(rows / _STEP_ROWS)))
    return {"batch_size": _STEP_ROWS, "epochs": float(max(1, min(passes, _MOST_VISITS // rows)))}


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 1e-4 at a width of 384, less for wider models, as for full tuning."""
    return min(1e-3, max(1e-5, 1e-4 * 384 / anatomy.hidden))


def before_evaluation(model: nn.Module, material: Any) -> None:
    """Fit the head anew on the states that the body gives now, and write it into the model.

    How freely it may fit is chosen by the loss on the validation rows, at the temperature that suits each.

    Args:
        model: In evaluation mode, not wrapped.
        material: Of the run: `task`, `tokenizer`, `train`, `valid`.
    """
    parts = {"train": material.train, "valid": material.valid}
    states = {name: _states(model, part, material.task, material.tokenizer) for name, part in parts.items()}
    best, _ = _best_head(states, parts, material.task)
    best.put_into(model)


def before_measuring(
    model: nn.Module,
    examples: Mapping[str, Sequence[Example]],
    *,
    task: Any,
    tokenizer: Any,
    temperature: float,
    is_valid_given: bool,
) -> None:
    """Fit the head once more, on the validation rows too where they were cut from the training file.

    Of eight rows for each label one is held back, and what it was held back for is decided now. How freely the head may
    fit, and its temperature, stay as the validation rows had it when they were no part of it.

    Args:
        model: With the best body, its head divided by the temperature.
        examples: By part; those of the test are not looked at.
        task: Of the run.
        tokenizer: For the task.
        temperature: That was found on the validation rows.
        is_valid_given: Whether the validation rows are a file of their own; then nothing is fitted to them.
    """
    if is_valid_given:
        return
    parts = {name: examples[name] for name in ("train", "valid")}
    states = {name: _states(model, part, task, tokenizer) for name, part in parts.items()}
    _, place = _best_head(states, parts, task)
    targets = [example.target for part in parts.values() for example in part]
    both_NH = np.concatenate([states[name] for name in parts])
    strengths = STRENGTHS[place : place + 1]
    (head,) = fitted_heads(both_NH, targets, strengths=strengths)
    Head(head.weight_LH / temperature, head.bias_L / temperature).put_into(model)


def _states(model: nn.Module, examples: Sequence[Example], task: Any, tokenizer: Any) -> Floats:
    return head_states(model, examples, task=task, tokenizer=tokenizer, batch_tokens=_BATCH_TOKENS)


def _best_head(states: Mapping[str, Floats], parts: Mapping[str, Sequence[Example]], task: Any) -> tuple[Head, int]:
    """Give the head that answers the validation rows best, and the place of its strength."""
    heads = list(fitted_heads(states["train"], [example.target for example in parts["train"]]))
    losses = [_loss(head, states["valid"], parts["valid"], task) for head in heads]
    place = losses.index(min(losses))
    return heads[place], place


def _loss(head: Head, states_NH: Floats, examples: Sequence[Example], task: Any) -> float:
    """Give the mean loss of a head on rows, once its temperature is fitted to them."""
    logits_NL = head.logits(states_NH)
    found = task.measure(logits_NL / task.temperature(logits_NL, examples), examples)["loss"]
    return float(found) if np.isfinite(found) else float("inf")

"""Nothing is learnt: the base model is asked by label names, as cloze, entailment, likeness or likelihood.

Which of them the base model can do is told by its architecture, and stands in the plan as `asked_by`. Validation rows,
where there are any, only set how sure the answers are, and for several labels from which score on a text has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.methods import Known, asking
from tunesmith.methods.space import Space
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Task

OPTIONS: tuple[str, ...] = ("asked_by", "template", "label_words", "correct_prior")
WHEN = "no labels yet, or to see what the base model knows by itself"
SPACE: Space = {}
IS_TRAINED = False


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for tasks without labels, and for masked language models whose head was never trained."""
    return asking.no_such_task(task) or asking.no_head(anatomy)


def resolve(options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Decide the way of asking, the templates and the words; training rows tell the language and nothing else."""
    if asking.no_such_task(known.task.name):
        return dict(options)
    return asking.resolve(options, known, asking.choose_way(str(options["asked_by"]), known))


def own_task(task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task as it is asked."""
    return asking.task_of(task, options)


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Freeze every parameter.

    Args:
        model: Base model with its own head. Changed in place.
        anatomy: Not needed here; every method is given it.
        options: Decided by `resolve`.
    """
    return model.requires_grad_(False)


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 0: nothing is learnt."""
    return 0.0

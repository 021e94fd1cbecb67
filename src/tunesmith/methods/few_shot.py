"""Nothing is learnt: a causal model is asked with the most similar training rows, as examples, before each text.

The rows that may be shown become part of the bundle, texts and labels (`shown_rows.jsonl`): whoever has the bundle can
read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods import Known, asking
from tunesmith.methods.space import Choices, Space
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Task
from tunesmith.tasks.prompting.asked import as_task
from tunesmith.tasks.prompting.defaults import LIKELIHOOD
from tunesmith.tasks.prompting.shown_examples import ShownExamples, demand_nearness
from tunesmith.tasks.wording import base_class

OPTIONS: tuple[str, ...] = ("template", "label_words", "correct_prior", "shots", "examples_by")
WHEN = "few labels and a large causal base; each answer costs a long prompt"
SPACE: Space = {"shots": Choices((4, 8, 16, 32))}
IS_TRAINED = False


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for tasks without one label, and for models that do not write from left to right."""
    if task == "multi-label-classification":
        return "an example in a prompt shows one label, and here a text may have several"
    if reason := asking.no_such_task(task):
        return reason
    if not anatomy.is_decoder:
        return "examples are shown in the prompt of a causal model such as GPT-2, and this base model is none"
    return None


def resolve(options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Decide the templates and the words.

    Raises:
        PlanProblem: There is more than one template, or no such way of choosing examples.
    """
    demand_nearness(str(options["examples_by"]))
    is_causal = base_class(known.config) == "AutoModelForCausalLM"
    if asking.no_such_task(known.task.name) or not is_causal:
        return dict(options)
    found = asking.resolve(options, known, LIKELIHOOD)
    if len(asking.wordings_of(found).templates) > 1:
        what = "the examples in a prompt are written by one template, and several were given"
        raise PlanProblem(what, where="template", do="give one template")
    return found


def own_task(task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task as it is asked; the rows that it shows are given to it after."""
    if asking.no_such_task(task.name) or "asked_by" not in options or task.target_kind == "labels":
        return task
    wordings = asking.wordings_of(options)
    return as_task(ShownExamples(task, wordings, int(options["shots"]), str(options["examples_by"])))


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

"""Pattern-verbaliser training: the task is asked as a cloze, and the model learns to fill in the right label's word.

The head is the one of pretraining, so that few labels go further than with a fresh one; labels whose names say nothing
are given words found in the training rows.

Source: Schick & Schütze 2021 (PET). There each template trains a model of its own and their answers are distilled into
one; here one model learns all templates, and answers by their mean, as no unlabelled rows are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.methods import Known, asking, find_method
from tunesmith.methods.full import default_learning_rate as full_rate
from tunesmith.methods.space import COMMON, Space
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Task
from tunesmith.tasks.prompting.asked import as_task
from tunesmith.tasks.prompting.cloze import Cloze
from tunesmith.tasks.prompting.defaults import CLOZE

OPTIONS: tuple[str, ...] = ("template", "label_words", "pet_tunes", "top_layers")
WHEN = "few labels (up to some dozens of each) and a base with a masked-language-model head"
SPACE: Space = COMMON
EVALUATIONS = 10  # an epoch of few rows has a few steps: looking after each would stop training on a jumpy score
MODEL_CLASS = "AutoModelForMaskedLM"

_TUNES = ("full", "top-layers", "bitfit")


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for tasks without labels, and for models that cannot fill in masked words."""
    if reason := asking.no_such_task(task):
        return reason
    if not anatomy.kind.endswith("ForMaskedLM"):
        return (
            "words are filled in by an encoder's masked-language-model head, which this base model has not; "
            + asking.NO_HEAD_DO
        )
    return asking.no_head(anatomy)


def resolve(options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Decide the templates and the words; the latter are searched for where the labels' names say nothing.

    Raises:
        PlanProblem: `pet_tunes` is no method that works here, or the labels cannot be put into words.
    """
    if options["pet_tunes"] not in _TUNES:
        raise PlanProblem(
            f"pet_tunes is '{options['pet_tunes']}'", where="pet_tunes", do=f"use one of: {', '.join(_TUNES)}"
        )
    if not _can_be_asked(known.task, known.config, known.tokenizer):
        return dict(options)
    return asking.resolve(options, known, CLOZE, may_search=True)


def _can_be_asked(task: Task, config: Any, tokenizer: Any) -> bool:
    """Whether it may go on to `why_not` as a cloze; everything else is declined there as what it is."""
    is_masked = asking.is_masked(config) and tokenizer.mask_token is not None
    return asking.no_such_task(task.name) is None and is_masked


def own_task(task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task as a cloze."""
    if asking.no_such_task(task.name) or "asked_by" not in options:
        return task
    return as_task(Cloze(task, asking.wordings_of(options), is_learnt=True))


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Free what the method named by `pet_tunes` frees.

    Args:
        model: Base model with its masked-language-model head. Changed in place.
        anatomy: Where its blocks and its head are.
        options: `pet_tunes`, and `top_layers` for the method of that name.
    """
    tuned = find_method(str(options["pet_tunes"])).apply(model, anatomy, options)
    if options["pet_tunes"] == "top-layers":  # the head's last matrix is the embeddings, which lie below all blocks
        anatomy.embeddings.requires_grad_(False)
    return tuned


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give full tuning's rate."""
    return full_rate(anatomy)

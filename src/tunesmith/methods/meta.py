"""Learning to learn: trained on episodes of some labels, measured on episodes of labels that it has never seen.

`prototypical` learns so that the nearest mean of a few examples is right (Snell et al. 2017); `reptile` moves the body
to where a few steps of gradient descent on an episode lead (Nichol et al. 2018). Whole labels are held out. In the end
the head answers with the means of all labels of the file, and further labels need examples, but no training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from tunesmith import data
from tunesmith.errors import DataProblem, PlanProblem, nearest_first
from tunesmith.methods import Known
from tunesmith.methods.prototypes import class_means, fitted_scale, put_means
from tunesmith.methods.space import Choices, Range, Space
from tunesmith.models import mean_block
from tunesmith.models.anatomy import Anatomy
from tunesmith.tasks import Example, Task
from tunesmith.tasks.contrast import head_states
from tunesmith.tasks.episodes import EpisodicTask, Shape, unit
from tunesmith.types import Record, Splits

OPTIONS: tuple[str, ...] = (
    *("meta", "episodes", "episode_labels", "episode_shots", "episode_asked", "measured_episodes"),
    *("inner_steps", "inner_learning_rate"),
)
WHEN = "labels come and go: a model that is told a new one by a few examples, without training"
SPACE: Space = {"learning_rate": Range(0.3, 3.0, is_log=True, is_factor=True), "episodes": Choices((100, 200, 400))}
KINDS = ("prototypical", "reptile")
EVALUATIONS = 4
_TASK = "text-classification"
_BATCH_TOKENS = 4096  # at once where nothing is learnt; memory is small then
_HELD_OUT = 0.2  # share of the labels for choosing, and the same again for the test
_LEAST_LABELS = 2  # of an episode


def why_not(task: str, anatomy: Anatomy) -> str | None:
    """Give a reason for tasks of other than one label a text, and for models that cannot average their states."""
    if task != _TASK:
        return f"an episode asks for one label of a text, and this task is {task}"
    reason = mean_block.why_not(anatomy)
    return None if reason is None else f"means are taken of averaged states, and {reason}"


def deal(
    splits: Splits, options: Mapping[str, Any], *, task: str, seed: int, files: Sequence[str]
) -> tuple[Splits, dict[str, Any]]:
    """Deal the labels, not the rows: every label is learnt from, chosen by, or measured on. Decide an episode's labels.

    Labels with too few rows for an episode are learnt from; nothing is asked about them.

    Args:
        splits: All rows of the file, however they were cut.
        options: `episode_labels`, `episode_shots`.
        task: Its name; parts of tasks that this method declines stay as they are.
        seed: Decides which labels go where.
        files: The parts that came as files.

    Raises:
        PlanProblem: Valid or test are files of their own.
        DataProblem: Too few labels, or too few rows of them.
    """
    if task != _TASK:  # `why_not` says so
        return splits, {**options, "episode_labels": _LEAST_LABELS}
    rows = sorted((*splits.train, *splits.valid, *splits.test), key=lambda record: (record.origin.row, record.id))
    if given := [part for part in ("valid", "test") if part in files]:
        raise PlanProblem(
            f"method meta holds out whole labels of one file, and {given[0]} is a file of its own",
            where=given[0],
            do=f"leave {given[0]} out: rows of labels that training never sees are cut from the data",
        )
    counts: dict[str, int] = {}
    for record in rows:
        counts[record.target] = counts.get(record.target, 0) + 1
    shots = int(options["episode_shots"])
    fit = sorted(label for label, count in counts.items() if count > shots)
    labels = episode_labels(options["episode_labels"], len(fit))
    if labels < _LEAST_LABELS or 3 * labels > len(fit):
        needed = 3 * max(_LEAST_LABELS, labels)
        raise DataProblem(
            f"episodes of {max(_LEAST_LABELS, labels)} labels, apart for learning, choosing and the test, need "
            f"{needed} labels with more than {shots} rows each; here are {len(fit)}",
            where=str(rows[0].origin.path) if rows else "data",
            do="give more labels or rows, or smaller episodes: --set episode_labels=2 --set episode_shots=1",
        )
    random.Random(f"{seed}/labels").shuffle(fit)
    held = max(labels, round(_HELD_OUT * len(fit)))
    held = min(held, (len(fit) - labels) // 2)
    test, valid = set(fit[:held]), set(fit[held : 2 * held])

    def part(is_mine: Any) -> tuple[Record, ...]:
        return tuple(record for record in rows if is_mine(record.target))

    parts = (
        part(lambda label: label not in test and label not in valid),
        part(lambda label: label in valid),
        part(lambda label: label in test),
    )
    return Splits(*parts, data.fingerprint(*parts)), {**options, "episode_labels": labels}


def episode_labels(wanted: Any, labels: int) -> int:
    """Give the labels of an episode: as asked, else 5, or a third of those there are."""
    return min(5, labels // 3) if wanted == "auto" else int(wanted)


def resolve(options: Mapping[str, Any], known: Known) -> dict[str, Any]:
    """Give what each kind needs: only reptile takes steps inside an episode.

    Raises:
        PlanProblem: There is no such kind.
    """
    kind = str(options["meta"])
    if kind not in KINDS:
        raise PlanProblem(f"meta is '{kind}'", where="meta", do=f"use one of: {nearest_first(kind, KINDS)}")
    return dict(options) if kind == "reptile" else {**options, "inner_steps": 0}


def defaults(rows: int, labels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the rows of an episode as those of a step, and so many passes that the episodes asked for are made."""
    size = int(options["episode_labels"]) * (int(options["episode_shots"]) + int(options["episode_asked"]))
    steps = -(-rows // size)
    return {"batch_size": size, "epochs": int(options["episodes"]) / steps}


def learnt_task(task: Task, options: Mapping[str, Any]) -> Task:
    """Give the task in episodes."""
    shape = Shape(*(int(options[name]) for name in ("episode_labels", "episode_shots", "episode_asked")))
    steps, rate = int(options["inner_steps"]), float(options["inner_learning_rate"])
    episodic: Any = EpisodicTask(task, shape, int(options["measured_episodes"]), steps, rate)
    found: Task = episodic
    return found if task.name == _TASK else task


def apply(model: nn.Module, anatomy: Anatomy, options: Mapping[str, Any]) -> nn.Module:
    """Add the averaging block, and free all below it; the head is made of means, and does not learn.

    Args:
        model: Base model with a fresh head. Changed in place.
        anatomy: Of the model as it came.
        options: Not needed here; every method is given them.
    """
    model.requires_grad_(True)
    mean_block.add_mean_block(model, anatomy)
    for part in anatomy.head:
        part.requires_grad_(False)
    return model


def default_learning_rate(anatomy: Anatomy) -> float:
    """Give 5e-5 at a width of 384, less for wider models: what is learnt has to hold for labels yet unseen."""
    return min(1e-3, max(1e-5, 5e-5 * 384 / anatomy.hidden))


def before_measuring(
    model: nn.Module,
    examples: Mapping[str, Sequence[Example]],
    *,
    task: Any,
    tokenizer: Any,
    temperature: float,
    is_valid_given: bool,
) -> None:
    """Make the head of the means of all labels of the file, those of the test too: the episodes do not look at it.

    Its scale is fitted on the rows of labels that the body was not trained on, each taken out of its mean.

    Args:
        model: With the best body.
        examples: Of all parts.
        task: Of the run.
        tokenizer: For the task.
        temperature: 1: this head has a scale of its own.
        is_valid_given: False here.
    """
    every = [example for part in ("train", "valid", "test") for example in examples[part]]
    inner, targets = task.inner, [example.target for example in every]
    labels = model.config.num_labels
    states_NH = head_states(model, every, task=inner, tokenizer=tokenizer, batch_tokens=_BATCH_TOKENS)
    first = len(examples["train"])
    judged = range(first, first + len(examples["valid"]))
    scale = fitted_scale(unit(states_NH), targets, judged, labels)
    length = float(np.linalg.norm(states_NH, axis=1).mean())
    put_means(model, class_means(unit(states_NH), targets, labels), scale=scale / temperature, length=length)

"""Learn from a finished run as well as from the labels: knowledge distillation, through the one loop.

The loss of a row is `(1 - weight) * labels + weight * teacher + states * apart`, where `teacher` is the divergence of
softened answers and `apart` is how far the states of matched blocks point in other directions. A row without a label
has the teacher alone.

Sources: Hinton et al. 2015, for softened answers (their gradient is kept in size by the square of the temperature);
Sanh et al. 2019 (DistilBERT), for the cosine of states; Jiao et al. 2020 (TinyBERT), for the even map of layers and the
projection where widths differ.

Letters: N units, L labels, B batch, T tokens, K layers, H hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.unlabelled import KnownTexts, open_unlabelled
from tunesmith.engines import TORCH
from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.find import hash_file
from tunesmith.models.same_tokens import same_tokens
from tunesmith.tasks import Example
from tunesmith.tasks.losses import plain_loss
from tunesmith.training.intake import Intake
from tunesmith.training.processes import process_count
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.training.teacher import (
    IGNORED,
    Teacher,
    Watched,
    hidden_width,
    padded_states,
    unit_logits,
)
from tunesmith.types import Record

PROJECTION = "teacher_projection"
"""What the model that learns is called to hold while it learns: states of its width to those of the teacher's."""

_LARGEST_KEPT = 4096  # numbers of one answer: a vocabulary is more, and the teacher is then asked in every step
_TRIED_TEXTS = 50


@dataclass(frozen=True)
class TaughtTask:
    """A task that is learnt from a teacher, too. What is not said here is as the task itself has it."""

    inner: Any
    teacher: Teacher
    weight_of_teacher: float  # 0..1
    temperature: float
    weight_of_states: float  # 0 for none
    is_live: bool = False  # whether the teacher is asked in every step
    loss_options: tuple[str, ...] = ()  # recipe keys that bend the loss: none, softened answers are in their place

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # asked for while the object is still being made or copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    def before_training(self, examples: Sequence[Example], folder: Path, device: Any) -> None:
        """Ask the teacher about all rows that are learnt from, or find what it said before.

        Args:
            examples: All of them.
            folder: Where answers lie; several runs may share it.
            device: Where the teacher runs.
        """
        if self.is_live:
            self.teacher.model.to(device)
        else:
            self.teacher.learn(examples, folder, device)

    def after_training(self, model: nn.Module) -> None:
        """Take away what the model only held to learn."""
        if hasattr(model, PROJECTION):
            delattr(model, PROJECTION)

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad examples, with what the teacher says of them; rows that it was not asked about (to score) have labels."""
        batch: dict[str, torch.Tensor] = self.inner.batch(examples, tokenizer)
        lessons = None if self.is_live else self.teacher.lessons(examples)
        if lessons is None:
            return batch
        batch["teacher_logits"] = torch.cat([torch.tensor(lesson.logits_UL) for lesson in lessons])
        if self.teacher.layers:
            batch["teacher_states"] = padded_states(lessons)
        has_label = [example.record is None or example.record.target is not None for example in examples]
        if not all(has_label):
            batch["has_label"] = torch.tensor(has_label)
        return batch

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the loss of labels, teacher and states together, summed over the units of the batch: a scalar."""
        plain = {name: tensor for name, tensor in batch.items() if name not in _OF_TEACHER}
        if self.is_live:
            return self._live(model, plain)
        if "teacher_logits" not in batch:
            found: torch.Tensor = self.inner.loss(model, plain)
            return found
        watched = Watched(model, has_states=bool(self.teacher.layers))
        logits_NL, counts = unit_logits(self.inner, watched, plain)
        has_label_N = batch.get("has_label")
        if has_label_N is not None:
            has_label_N = has_label_N.repeat_interleave(torch.tensor(counts, device=has_label_N.device))
        total = self._answers(logits_NL, batch["teacher_logits"], _unit_labels(plain), has_label_N)
        if self.teacher.layers:
            apart_B = self._apart(model, watched.states, batch)
            total = total + self.weight_of_states * (apart_B * apart_B.new_tensor(counts)).sum()
        return total

    def _live(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits_NL, targets_N = self.inner.labelled_logits(model, batch)
        with torch.no_grad():
            teacher_NL, _ = self.teacher.task.labelled_logits(self.teacher.model, batch)
        return self._answers(logits_NL, teacher_NL, targets_N, None)

    def _answers(
        self, logits_NL: torch.Tensor, teacher_NL: torch.Tensor, labels: torch.Tensor, has_label_N: torch.Tensor | None
    ) -> torch.Tensor:
        """Mix the loss of the labels with that of the teacher's answers."""
        weight, is_binary = self.weight_of_teacher, labels.is_floating_point()
        soft_N = soft_losses(logits_NL, teacher_NL.float(), self.temperature, is_binary=is_binary)
        if has_label_N is None:
            return (1 - weight) * plain_loss(logits_NL, labels) + weight * soft_N.sum()
        total = soft_N[~has_label_N].sum() + weight * soft_N[has_label_N].sum()
        if has_label_N.any():
            total = total + (1 - weight) * plain_loss(logits_NL[has_label_N], labels[has_label_N])
        return total

    def _apart(
        self, model: nn.Module, states: Sequence[torch.Tensor], batch: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Give how far matched states point apart, 0..2, over all layers and tokens of each example (B)."""
        mine_BTKH = torch.stack(list(states[1:]), dim=2).float()
        projection = getattr(getattr(model, "module", model), PROJECTION, None)
        if projection is not None:
            mine_BTKH = projection(mine_BTKH)
        apart_BT = (1 - functional.cosine_similarity(mine_BTKH, batch["teacher_states"], dim=-1)).mean(-1)
        mask_BT = batch["attention_mask"].to(apart_BT.dtype)
        return (apart_BT * mask_BT).sum(1) / mask_BT.sum(1)


_OF_TEACHER = ("teacher_logits", "teacher_states", "has_label")


def _unit_labels(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give the labels of the units: of rows as they are, of tokens those that have one."""
    labels = batch["labels"]
    return labels[labels != IGNORED] if labels.dim() == 2 and not labels.is_floating_point() else labels


def soft_losses(
    logits_NL: torch.Tensor, teacher_NL: torch.Tensor, temperature: float, *, is_binary: bool
) -> torch.Tensor:
    """Give for each unit (N) how far its softened answer is from the teacher's, times the temperature squared.

    For one label this is the Kullback-Leibler divergence; where each label is a yes or no of its own, the mean of
    theirs over the labels.
    """
    mine, theirs = logits_NL / temperature, teacher_NL / temperature
    if is_binary:
        chance = theirs.sigmoid()
        apart_NL = functional.binary_cross_entropy_with_logits(mine, chance, reduction="none")
        apart_NL = apart_NL - functional.binary_cross_entropy_with_logits(theirs, chance, reduction="none")
        return temperature**2 * apart_NL.mean(1)
    kept = functional.kl_div(mine.log_softmax(1), theirs.log_softmax(1), reduction="none", log_target=True)
    return temperature**2 * kept.sum(1)


def matched_layers(blocks: int, teacher_blocks: int) -> tuple[int, ...]:
    """Give for each block the teacher's block (from 1) whose states it should have, evenly spread; the last the last.

    Source: the "uniform" map of Jiao et al. 2020, section 4.
    """
    return tuple(max(1, round((place + 1) * teacher_blocks / blocks)) for place in range(blocks))


@dataclass(frozen=True)
class Taught:
    """What a teacher adds to a run."""

    task: Any
    train: Sequence[Example]  # with the rows that have no label
    options: Mapping[str, Any]  # for the plan
    parent: str  # id of the teacher
    remarks: tuple[str, ...]


def taught(
    recipe: Recipe,
    intake: Intake,
    *,
    model: nn.Module,
    anatomy: Anatomy,
    tokenizer: Any,
    train: Sequence[Example],
    max_length: int,
) -> Taught | None:
    """Let a run learn from the teacher that its recipe names; None where it names none.

    Args:
        recipe: `teacher`, `teacher_weight`, `teacher_temperature`, `teacher_states`, `unlabelled`.
        intake: With the task settled.
        model: That learns, with the method applied; it is given a projection where widths differ.
        anatomy: Of the model.
        tokenizer: Of the model.
        train: The training rows.
        max_length: In tokens.

    Raises:
        PlanProblem: The teacher does another task, knows other labels, or cannot teach this one.
        BundleProblem: The teacher's run is missing or damaged.
    """
    if not recipe.teacher:
        return None
    bundle, task = load(recipe.teacher, engine=TORCH), intake.task
    _demand_fitting(recipe, intake, bundle)
    reads_same = same_tokens(bundle.tokenizer, tokenizer, _texts(intake))
    is_live = not hasattr(task, "logits")  # answers in words: a vocabulary for every token
    _demand_tokens(task, reads_same, is_live=is_live)
    layers, remarks = _layers(recipe, bundle, task, anatomy=anatomy, reads_same=reads_same, is_live=is_live)
    teacher = Teacher(bundle, reads_same_tokens=reads_same, layers=layers)
    given = {"tokenizer": tokenizer, "max_length": max_length, "is_live": is_live}
    more, left_out = _unlabelled(recipe, intake, bundle, **given)
    remarks += left_out
    everything = [*train, *more] if more else train
    if (needed := teacher.state_bytes(everything) / 2**20) > recipe.cache_mib:
        said = f"the teacher's states would take {needed:,.0f} MiB, and cache_mib is {recipe.cache_mib:,}: "
        remarks.append(said + "learning from its answers alone")
        teacher = Teacher(bundle, reads_same_tokens=reads_same)
    if teacher.layers:
        _add_projection(model, hidden_width(teacher.model), recipe.seed)
    options = {
        "teacher": bundle.id,
        "teacher_weight": recipe.teacher_weight,
        "teacher_temperature": recipe.teacher_temperature,
        "teacher_states": recipe.teacher_states if teacher.layers else 0.0,
        "teacher_layers": list(teacher.layers),
        "unlabelled": {"rows": len(more), "sha256": hash_file(Path(recipe.unlabelled))} if more else "",
    }
    wrapped = TaughtTask(
        task, teacher, recipe.teacher_weight, recipe.teacher_temperature, recipe.teacher_states, is_live
    )
    return Taught(wrapped, everything, options, bundle.id, tuple(remarks))


def why_no_teacher(task: Any) -> str | None:
    """Give the reason why a run of this task cannot teach; None when it can."""
    if hasattr(task, "inner"):
        return "its method asks the model in a way of its own"
    if not hasattr(task, "labelled_logits"):
        return f"task {task.name} has no answers over labels or words that could be softened"
    return None


def _texts(intake: Intake) -> list[str]:
    return [intake.task.text_of(record.fields) for record in intake.splits.train[:_TRIED_TEXTS]]


def _demand_fitting(recipe: Recipe, intake: Intake, bundle: Any) -> None:
    task = intake.task

    def refuse(what: str, do: str) -> PlanProblem:
        return PlanProblem(what, where=f"teacher: {recipe.teacher}", do=do)

    if process_count() > 1:
        raise refuse("a teacher is asked in one process, and this run has several", "run it in one process")
    if bundle.plan.task != task.name:
        what = f"the teacher's task is {bundle.plan.task}, and this run's is {task.name}"
        raise refuse(what, "give a teacher of the same task")
    if reason := why_no_teacher(bundle.task):
        raise refuse(reason, "leave the teacher out: the model then learns from the labels alone")
    if hasattr(task, "inner"):
        what = f"method '{recipe.method}' learns from a loss of its own, which a teacher has no place in"
        raise refuse(what, "use method full, or one that adds to it, such as lora")
    if tuple(bundle.labels) != tuple(intake.labels):
        odd = sorted(set(bundle.labels) ^ set(intake.labels))[:3]
        what = f"the teacher knows {len(bundle.labels)} labels and the training rows have {len(intake.labels)}"
        raise refuse(f"{what}; not in both: {', '.join(odd) or 'none, but their order differs'}", "use the same rows")


def _demand_tokens(task: Any, reads_same: bool, *, is_live: bool) -> None:
    by_token = is_live or task.pipeline == "token-classification"
    if by_token and not reads_same:
        raise PlanProblem(
            f"task {task.name} is answered token by token, and teacher and base model cut texts into other tokens",
            where="model",
            do="give a base model with the teacher's tokenizer; `tunesmith compress RUN --distill layers:3` makes one",
        )


def _layers(
    recipe: Recipe, bundle: Any, task: Any, *, anatomy: Anatomy, reads_same: bool, is_live: bool
) -> tuple[tuple[int, ...], list[str]]:
    """Give the teacher's layers whose states are matched, and what the person should know where there are none."""
    if not recipe.teacher_states:
        return (), []
    if bundle.ensemble is not None:
        return (), ["states are not learnt from: the teacher is an ensemble"]
    blocks = int(getattr(bundle.model.config, "num_hidden_layers", 0) or 0)
    reasons = {
        "the model reads other tokens than the teacher": not reads_same,
        "answers in words are compared as they are written": is_live,
        "texts are read apart": getattr(task, "encoder", "cross") == "bi",
        "the model has an encoder and a decoder": anatomy.is_encoder_decoder,
        "the teacher's blocks cannot be counted": not blocks,
        "frozen blocks are not run in every step": recipe.prefix_cache == "yes",
    }
    for reason, holds in reasons.items():
        if holds:
            return (), [f"states are not learnt from: {reason}"]
    return matched_layers(len(anatomy.blocks), blocks), []


def _add_projection(model: nn.Module, width: int, seed: int) -> None:
    mine = hidden_width(model)
    if mine == width:
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        setattr(model, PROJECTION, nn.Linear(mine, width, bias=False))


def _unlabelled(
    recipe: Recipe, intake: Intake, bundle: Any, *, tokenizer: Any, max_length: int, is_live: bool
) -> tuple[list[Example], list[str]]:
    """Give the rows without labels as examples, and what was left out of them."""
    if not recipe.unlabelled:
        return [], []
    if is_live:
        what = f"task {intake.task.name} is learnt from written answers, which unlabelled rows do not have"
        raise PlanProblem(what, where="unlabelled", do="leave unlabelled out")
    records, remarks = _read_unlabelled(recipe.unlabelled, intake, bundle)
    stand_in: Any = intake.labels[0] if intake.task.target_kind == "label" else ()
    asked = [dataclasses.replace(record, target=stand_in) for record in records]
    examples = intake.task.encode(asked, tokenizer, labels=intake.labels, max_length=max_length)
    return [dataclasses.replace(one, record=_bare(one.record)) for one in examples], remarks


def _read_unlabelled(path: str, intake: Intake, bundle: Bundle) -> tuple[list[Record], list[str]]:
    """Give the rows of a file that stand in no part of the labelled ones, and say what became of the others."""
    parts = {name: getattr(intake.splits, name) for name in ("train", "valid", "test")}
    rows = open_unlabelled(bundle, path, KnownTexts(intake.task, parts))
    records = list(rows)
    rows.demand_rows()
    if not records:
        raise DataProblem(
            f"{path} has {rows.counts['rows']:,} rows, and none of them is new",
            where=path,
            do="give rows whose texts stand in no part of the labelled data",
        )
    left_out = [f"{count:,} {what}" for what, count in rows.counts.items() if what not in {"rows", "used"}]
    return records, [f"unlabelled rows left out: {', '.join(left_out)}"] if left_out else []


def _bare(record: Record | None) -> Record | None:
    """Give the record of a row with a stand-in for a label as it is: without one."""
    return None if record is None else dataclasses.replace(record, target=None)


def without_prefix(recipe: Recipe) -> Recipe:
    """Give the recipe with all blocks run in every step where states are learnt from: `auto` is settled so."""
    is_open = bool(recipe.teacher) and recipe.prefix_cache == AUTO
    return dataclasses.replace(recipe, prefix_cache="no") if is_open else recipe

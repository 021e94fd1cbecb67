"""Go on from a finished run: its labels stay, its head grows where labels are new, and what it knew is held on to.

Letters: N rows, L labels, H width of what the output layer reads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.bundle.atomic import MANIFEST
from tunesmith.errors import BundleProblem, PlanProblem
from tunesmith.models.anatomy import Anatomy, output_layer
from tunesmith.models.find import weight_files
from tunesmith.tasks import Example, Task
from tunesmith.tasks.batching import fill, lengths_of
from tunesmith.training.consolidation import Consolidation
from tunesmith.training.intake import Intake
from tunesmith.training.learning import Batch, Beside
from tunesmith.training.recipe import Recipe
from tunesmith.types import Plan, Record

_SHOWN_ROWS = 64  # rows of a new label whose states start its row of the output layer
_SHOWN_OLD_ROWS = 4  # rows of an old label: they only tell where the middle of all states is


@dataclass(frozen=True)
class Parent:
    """The run that this one goes on from, or that it follows (a full retrain starts from the base model again)."""

    folder: Path
    id: str
    labels: tuple[str, ...]
    is_start: bool  # whether its weights are where this run starts


def find_parent(recipe: Recipe) -> Parent | None:
    """Give the run that the recipe's `parent` names, or None.

    Raises:
        BundleProblem: It is no finished run.
    """
    if not recipe.parent:
        return None
    folder = Path(recipe.parent).expanduser()
    if not (folder / MANIFEST).is_file() or not (folder / "bundle.json").is_file():
        raise BundleProblem(
            "the run to go on from is not there, or is not finished",
            where=str(folder),
            do="give a finished run: tunesmith update RUN",
        )
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    model = Path(recipe.model).expanduser()
    is_start = model.is_dir() and model.resolve() == folder.resolve()
    return Parent(folder, str(facts["id"]), tuple(facts["labels"]), is_start)


def carry_head(parent: Parent | None, model: nn.Module, anatomy: Anatomy, intake: Intake, tokenizer: Any) -> None:
    """Give the output layer the parent's rows, to the bit, and start a row for each new label.

    A new row points from the mean of all states to the mean of its label's states, is as long as the old rows are on
    average, and at the mean state gives what the old rows give on average. A row drawn at random would have to be found
    first, by steps that are large enough to move all other rows; one that is the plain mean of its label's states
    (Qi et al. 2018, section 3) would win everywhere, because the states of all texts have much in common.

    Args:
        parent: The run; nothing is done where the model does not start from it, or no label is new.
        model: As `build_model` gives it: with a fresh output layer where the number of labels has changed.
        anatomy: Of the model.
        intake: Rows, task and labels (the parent's first).
        tokenizer: Of the model.

    Raises:
        PlanProblem: The head of this task has no row of its own for each label, so that it cannot grow.
    """
    if parent is None or not parent.is_start or not intake.labels or intake.labels == parent.labels:
        return
    layer = output_layer(anatomy) if anatomy.head else None
    known, names = len(parent.labels), {id(one): name for name, one in model.named_modules()}
    if layer is None or layer.out_features != len(intake.labels):
        new = ", ".join(intake.labels[known : known + 3])
        raise PlanProblem(
            f"new labels ({new}) cannot be added to task {intake.task.name}: its head has no row of its own for each",
            where="--strategy",
            do="train anew with all rows: --strategy retrain; or leave the rows of new labels out",
        )
    old = _read_tensors(parent.folder, names[id(layer)])
    if old["weight"].shape != (known, layer.in_features):
        raise PlanProblem(
            f"the parent's output layer has the shape {tuple(old['weight'].shape)}, not ({known}, {layer.in_features})",
            where=str(parent.folder),
            do="train anew with all rows: --strategy retrain",
        )
    means_LH, mean_H = _means(model, layer, intake, tokenizer, known=parent.labels)
    with torch.no_grad():
        layer.weight[:known] = old["weight"]
        if layer.bias is not None:
            layer.bias[:known] = old["bias"]
        for place, label in enumerate(intake.labels[known:], known):
            _start_row(layer, place, means_LH[label] - mean_H, mean_H, known=known)


def _start_row(layer: nn.Linear, place: int, direction_H: torch.Tensor, mean_H: torch.Tensor, *, known: int) -> None:
    length = layer.weight[:known].norm(dim=1).mean()
    row_H = direction_H * (length / direction_H.norm().clamp_min(1e-8))
    layer.weight[place] = row_H
    if layer.bias is not None:
        usual = (layer.weight[:known] @ mean_H + layer.bias[:known]).mean()
        layer.bias[place] = usual - row_H @ mean_H


def _read_tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    found = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for part in ("weight", "bias"):
                if f"{name}.{part}" in file.keys():  # noqa: SIM118 - it is no mapping
                    found[part] = file.get_tensor(f"{name}.{part}").float()
    if "weight" not in found:
        raise BundleProblem(f"the run has no tensor '{name}.weight'", where=str(folder), do="use --strategy retrain")
    return found


def _means(
    model: nn.Module, layer: nn.Linear, intake: Intake, tokenizer: Any, *, known: Sequence[str]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Give the mean of what the output layer reads, for each label (H) and over these labels (H)."""
    task: Any = intake.task
    old = set(known)
    rows: dict[str, list[Record]] = {}
    for record in intake.splits.train:
        for label in task.labels_of(record.target):
            if len(some := rows.setdefault(label, [])) < (_SHOWN_OLD_ROWS if label in old else _SHOWN_ROWS):
                some.append(record)
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    means = {}
    try:
        for label, some in rows.items():
            seen.clear()
            longest = min(int(task.longest), int(getattr(model.config, "max_position_embeddings", None) or 512))
            examples = task.encode(some, tokenizer, labels=intake.labels, max_length=longest)
            task.answer(model, examples, tokenizer=tokenizer, labels=intake.labels, batch_tokens=4096)
            means[label] = torch.cat([states.flatten(0, -2) for states in seen]).mean(0)
    finally:
        hook.remove()
    return means, torch.stack(list(means.values())).mean(0)


def keep_knowing(recipe: Recipe, parent: Parent | None, intake: Intake) -> Beside | None:
    """Give what is learnt beside the task so that old answers stay: distillation, or weights held where they matter.

    Raises:
        PlanProblem: The task gives no logits to distil.
    """
    if parent is None or not parent.is_start:
        return None
    if recipe.distil:
        if not parent.labels or not hasattr(intake.task, "labelled_logits"):
            raise PlanProblem(
                f"task {intake.task.name} has no scores of labels to distil",
                where="distil",
                do="leave distil out: --strategy replay",
            )
        return Distillation(parent.folder, intake.task, len(parent.labels), recipe.distil, recipe.distil_temperature)
    return Consolidation(parent.folder, Path(recipe.data).parent, recipe.ewc) if recipe.ewc else None


def planned(recipe: Recipe, parent: Parent | None, plan: Plan) -> Plan:
    """Give the plan with its parent, and with what is learnt beside the task."""
    if parent is None:
        return plan
    names = ("distil", "distil_temperature", "ewc")
    options: Mapping[str, Any] = {**plan.options, **{name: getattr(recipe, name) for name in names}}
    return dataclasses.replace(plan, parent=parent.id, options=options)


@dataclass(frozen=True)
class Distillation:
    """Answer the old labels as the parent does: learning without forgetting.

    The loss is `weight` times temperature squared times the Kullback-Leibler divergence from the parent's answers to
    this model's, both over the parent's labels alone and softened by the temperature. For labels of yes and no it is
    the binary cross-entropy to the parent's probabilities. Source: Li & Hoiem 2016, section 3; they take the modified
    cross-entropy, whose gradient is the same but for the factor. Unlike theirs, the rows may be replayed old ones too.
    """

    folder: Path
    task: Task
    known: int  # labels of the parent: the first ones of this model
    weight: float
    temperature: float

    @functools.cached_property
    def _teacher(self) -> nn.Module:
        from tunesmith.models.build import build_model, read_config

        with torch.random.fork_rng(devices=[]):  # building seeds the generator, and a step's draws go on after it
            model = build_model(self.folder, self.task.model_class(read_config(self.folder)))
        return model.eval().requires_grad_(False)

    def __call__(self, model: nn.Module, batch: Batch, seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """Give the loss, summed over the rows of the batch; the mean over the passes where there are several."""
        task: Any = self.task
        old_NL, is_binary = self._parents(batch, next(model.parameters()).device)
        usable = [logits for logits in seen if logits.ndim == 2 and logits.shape[1] >= self.known]
        passes = usable or [task.labelled_logits(model, batch)[0]]  # a task may answer by more than its model's logits
        return sum(self._apart(one[:, : self.known].float(), old_NL, is_binary) for one in passes) / len(passes)

    @functools.cached_property
    def _said(self) -> dict[bytes, torch.Tensor]:
        """What the parent said of each row (known), by the row's tensors."""
        return {}

    def before_training(
        self, examples: Sequence[Example], tokenizer: Any, *, batch_tokens: int, device: torch.device
    ) -> None:
        """Ask the parent once about every row, always in the same batches: a resumed run learns from the same bits.

        Args:
            examples: All that is learnt from.
            tokenizer: Of the model.
            batch_tokens: That go through the parent at once.
            device: Where it runs.
        """
        for rows in fill(range(len(examples)), lengths_of(examples), batch_tokens):
            batch = self.task.batch([examples[row] for row in rows], tokenizer)
            if not _has_one_unit_a_row(batch):
                return  # these are asked in every step
            placed = {name: tensor.to(device) for name, tensor in batch.items()}
            self._said.update(zip(_row_keys(batch), self._ask(placed, device)[0], strict=True))

    def _parents(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, bool]:
        """Give the parent's logits (N, known) and whether labels are of yes and no: as it said, or ask it now."""
        if self._said and _has_one_unit_a_row(batch):
            said = [self._said.get(key) for key in _row_keys(batch)]
            known = [logits_L for logits_L in said if logits_L is not None]
            if len(known) == len(said):
                return torch.stack(known), batch["labels"].is_floating_point()
        return self._ask(batch, device)

    def _ask(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, bool]:
        task: Any = self.task
        with torch.no_grad():
            logits_NL, labels = task.labelled_logits(self._teacher.to(device), batch)
        return logits_NL[:, : self.known].float(), labels.is_floating_point()

    def _apart(self, now_NL: torch.Tensor, old_NL: torch.Tensor, is_binary: bool) -> Any:
        from torch.nn import functional

        if is_binary:
            loss = functional.binary_cross_entropy_with_logits(now_NL, old_NL.sigmoid(), reduction="sum")
            return self.weight * loss / self.known
        now_NL, old_NL = ((logits / self.temperature).log_softmax(1) for logits in (now_NL, old_NL))
        loss = functional.kl_div(now_NL, old_NL, log_target=True, reduction="sum")
        return self.weight * self.temperature**2 * loss


def _has_one_unit_a_row(batch: Batch) -> bool:
    """Whether each row has one answer: no tags of its words, and no several passes."""
    labels = batch.get("labels")
    if labels is None or not (labels.ndim == 1 or labels.is_floating_point()):
        return False
    return all(len(tensor) == len(labels) for tensor in batch.values())


def _row_keys(batch: Batch) -> list[bytes]:
    """Give for each row all that a model reads of it, without padding."""
    mask = batch.get("attention_mask")
    tensors = [tensor.cpu() for name, tensor in sorted(batch.items()) if name != "labels"]

    def key(row: int) -> bytes:
        parts = (
            tensor[row][mask[row].cpu() != 0] if mask is not None and tensor.shape == mask.shape else tensor[row]
            for tensor in tensors
        )
        return b"".join(part.numpy().tobytes() for part in parts)

    return [key(row) for row in range(len(batch["labels"]))]

"""Decide everything before work starts: every `auto` of the recipe gets its value here and nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import tunesmith
from tunesmith.data import fingerprint
from tunesmith.data.augment.entries import Entry, write_entries
from tunesmith.errors import PlanProblem, nearest_first
from tunesmith.methods import Method, is_trained
from tunesmith.models import matrix_units
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.base_in_bits import demand_bits
from tunesmith.models.find import Base
from tunesmith.tasks import Example, Task
from tunesmith.tasks.batching import cut_of, lengths_of, steps_per_epoch
from tunesmith.training.economy import choose_economy
from tunesmith.training.intake import Intake
from tunesmith.training.price import price_of_answering, price_of_training
from tunesmith.training.processes import process_count
from tunesmith.training.recipe import AUTO, Recipe
from tunesmith.training.regime import make_learning
from tunesmith.training.regime_options import default_rate, regime_options
from tunesmith.training.sharding import sharding_options
from tunesmith.types import Plan

_MOST_STEPS_BETWEEN_EVALUATIONS = 250
_PRICED_ANSWERS = 8  # rows that are answered to price a run that only answers
_TAKEN_OVER = (
    "weight_decay",
    "warmup_ratio",
    "max_grad_norm",
    "dropout",
    "attention_dropout",
    "patience",
    "checkpoint_seconds",
    "baseline_rows",
)


def choose_device(wanted: str) -> str:
    """Give the device to train on: the one asked for, else the best there is.

    Raises:
        PlanProblem: The device asked for is not there.
    """
    there = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]
    if wanted == AUTO:
        return next(name for name in ("cuda", "mps", "cpu") if name in there)
    if wanted not in there:  # one of several GPUs is chosen by CUDA_VISIBLE_DEVICES, for every library at once
        raise PlanProblem(
            f"device '{wanted}' is not here", where="device", do=f"use one of: {nearest_first(wanted, there)}"
        )
    return wanted


def choose_precision(wanted: str, device: str, width: int = 0) -> str:
    """Give no, bf16 or fp16; bf16 where the device has units for it and the model is large enough for it to pay.

    Args:
        wanted: As asked for, or auto.
        device: Trains.
        width: Of the model's states; 0 where it is not known.

    Raises:
        PlanProblem: Not a precision, or one that the device does not have.
    """
    if wanted == AUTO:
        if device.startswith("cuda"):
            return "bf16" if torch.cuda.is_bf16_supported() else "no"
        return "bf16" if device == "cpu" and matrix_units.pays(width) else "no"
    if wanted not in {"no", "bf16", "fp16"}:
        raise PlanProblem(f"mixed_precision is '{wanted}'", where="mixed_precision", do="use one of: no, bf16, fp16")
    if wanted == "fp16" and not device.startswith("cuda"):
        raise PlanProblem(
            f"fp16 training is not supported on {device}", where="mixed_precision", do="use no or bf16, or a CUDA GPU"
        )
    return wanted


def choose_max_length(wanted: Any, lengths: Sequence[int], limit: int, longest: int = 256) -> int:
    """Give the number of tokens at which texts are cut: as asked, else what 99.5% of the texts need, at most `longest`.

    Raises:
        PlanProblem: More than the base model can read.
    """
    if wanted == AUTO:
        needed = int(np.percentile(lengths, 99.5, method="higher"))
        return min(limit, longest, max(16, -(-needed // 8) * 8))
    if wanted > limit:
        raise PlanProblem(
            f"max_length is {wanted}; this base model reads at most {limit} tokens",
            where="max_length",
            do=f"choose {limit} or less",
        )
    return int(wanted)


def choose_batch_size(wanted: Any, rows: int) -> int:
    """Give the rows of a step: as asked, else 16 for small files (more updates) and 32 for large."""
    return int(wanted) if wanted != AUTO else (16 if rows < 1000 else 32)


def choose_batch_tokens(wanted: Any, device: str) -> int:
    """Give the tokens that pass through the model at once: as asked, else 2,048 on a CPU and 4,096 elsewhere.

    On two cores 2,048 are as fast as 4,096 and take half the memory: see docs/notebook.md.
    """
    return int(wanted) if wanted != AUTO else (2048 if device == "cpu" else 4096)


def choose_epochs(wanted: Any, rows: int, batch_size: int, labels: int) -> float:
    """Give the most passes: as asked, else enough for 200 updates and 5 more for each label, within 3 .. 30.

    Early stopping ends many runs before. Set by eye on SST-2 and BANKING77 with 2,000 rows: see docs/notebook.md.
    """
    if wanted != AUTO:
        return float(wanted)
    return float(min(30, max(3, math.ceil((200 + 5 * labels) / steps_per_epoch(rows, batch_size)))))


def make_plan(
    recipe: Recipe,
    intake: Intake,
    base: Base,
    *,
    method: Method,
    of_method: Mapping[str, Any],
    anatomy: Anatomy,
    model: nn.Module,
    train: Sequence[Example],
    tokenizer: Any,
    max_length: int,
) -> Plan:
    """Resolve every open key of the recipe and estimate what the run will cost.

    Args:
        recipe: What was asked for.
        intake: Checked and split records.
        base: The base model, found and hashed.
        method: Decides the learning rate unless the recipe does; one that learns nothing makes a plan of no steps.
        of_method: The method's own options, with nothing left open.
        anatomy: Of `model`.
        model: With the method applied; one step is timed on it and leaves no trace.
        train: The training examples, cut to `max_length`.
        tokenizer: Of the base model.
        max_length: As chosen by `choose_max_length`.

    Raises:
        PlanProblem: A key does not fit the task, the model or the machine.
    """
    rows, task = len(train), intake.task
    if recipe.precision_wanted is not None and not task.has_confidence:
        what = f"task {task.name} cannot say how sure it is, so that it cannot abstain"
        raise PlanProblem(what, where="abstain_at", do="leave abstain_at out")
    recipe = _with_own_defaults(recipe, method, of_method, rows=rows, labels=len(intake.labels))
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.mixed_precision, device, anatomy.hidden)
    batch_size = choose_batch_size(recipe.batch_size, rows)
    per_step = batch_size * recipe.gradient_accumulation_steps
    epochs = choose_epochs(recipe.epochs, rows, per_step, len(intake.labels))
    each = steps_per_epoch(rows, per_step)
    learns = is_trained(method)
    steps = max(1, math.ceil(epochs * each)) if learns else 0
    if recipe.max_steps != AUTO and steps > recipe.max_steps:
        steps, epochs = recipe.max_steps, recipe.max_steps / each
    options: dict[str, Any] = {
        "epochs": epochs if learns else 0.0,
        "batch_size": batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "batch_tokens": choose_batch_tokens(recipe.batch_tokens, device),
        "learning_rate": default_rate(recipe, method, anatomy, model)
        if recipe.learning_rate == AUTO
        else recipe.learning_rate,
        "max_length": max_length,
        "metric": _metric(recipe.metric, task),
        "select_by": task.selects_by if recipe.metric == AUTO else recipe.metric,
        "head_learning_rate_factor": _head_factor(recipe, method) if task.has_fresh_head else 1.0,
        "eval_steps": choose_eval_steps(method, each, steps) if recipe.eval_steps == AUTO else recipe.eval_steps,
        "abstain_precision": recipe.precision_wanted,
    }
    for name in _TAKEN_OVER:
        options[name] = getattr(recipe, name)
    for name in task.options:
        options[name] = getattr(task, name)
    options |= of_method
    if entries := intake.inspection.augmented:  # with files by name: what they hold shows in the copies
        options["augment"] = write_entries([Entry(each.kind, each.settings) for each in entries])
    options |= regime_options(
        recipe,
        task,
        method,
        model=model,
        anatomy=anatomy,
        train=train,
        tokenizer=tokenizer,
        labels=intake.labels,
    )
    if learns:
        lengths = lengths_of(train)
        options |= choose_economy(recipe, model, anatomy, lengths=lengths, epochs=epochs)
        options |= sharding_options(recipe, method, model)
        options |= _bits_options(recipe, model, anatomy, device)
        learning = make_learning(task, options, model)
        seconds, memory_mib = price_of_training(
            task,
            model,
            train,
            options=options,
            anatomy=anatomy,
            tokenizer=tokenizer,
            learning=learning,
            computing=matrix_units.in_bf16 if device == "cpu" and precision == "bf16" else contextlib.nullcontext,
        )
        seconds /= process_count()  # who share each step; all of them have timed it at once
    else:
        settings = {"tokenizer": tokenizer, "labels": intake.labels, "batch_tokens": options["batch_tokens"]}
        row_seconds, memory_mib = price_of_answering(task, model, train, settings)
        seconds = row_seconds * (len(intake.splits.valid) + len(intake.splits.test))
    return Plan(
        task=task.name,
        method=recipe.method,
        base=recipe.model,
        base_sha256=base.sha256,
        data={
            "files": intake.files,
            "roles": dict(intake.inspection.roles),
            "fingerprint": intake.splits.fingerprint,
            "train": len(intake.splits.train),
            "examples": rows,  # more than the rows where long ones are read in windows
            **_augmented(intake),
            "valid": len(intake.splits.valid),
            "test": len(intake.splits.test),
            "cut": cut_of(train),
        },
        labels=intake.labels,
        options=options,
        seed=recipe.seed,
        device=device,
        threads=torch.get_num_threads(),
        precision=precision,
        steps=steps,
        expected_seconds=seconds,
        expected_memory_mib=memory_mib,
        versions=versions(),
    )


def _augmented(intake: Intake) -> dict[str, Any]:
    """Give the plan's account of the copies of training rows; nothing where there are none."""
    if not intake.inspection.augmented:
        return {}
    kinds: dict[str, int] = {}
    for each in intake.inspection.augmented:
        kinds[each.kind] = kinds.get(each.kind, 0) + each.rows
    return {"augmented": {"rows": len(intake.made), "kinds": kinds, "fingerprint": fingerprint(intake.made)}}


def method_options(recipe: Recipe, method: Method) -> dict[str, Any]:
    """Give the recipe keys that the method listens to; `merge` is resolved to yes or no.

    Raises:
        PlanProblem: The method cannot do what `merge` asks for.
    """
    found = {name: getattr(recipe, name) for name in getattr(method, "OPTIONS", ())}
    can_merge = hasattr(method, "merge")
    wanted = {"True": "yes", "False": "no"}.get(recipe.merge, recipe.merge)  # YAML takes a bare yes for a truth value
    if wanted not in {AUTO, "yes", "no"}:
        raise PlanProblem(f"merge is '{wanted}'", where="merge", do="use one of: auto, yes, no")
    if "merge" not in found:
        if wanted == "no":
            raise PlanProblem(
                f"method '{recipe.method}' changes the model's own weights: there is nothing apart to keep",
                where="merge",
                do="leave merge out, or choose another method; `tunesmith methods` lists them",
            )
        return found
    if wanted == "yes" and not can_merge:
        raise PlanProblem(
            f"what method '{recipe.method}' learns cannot be made part of the weights",
            where="merge",
            do="leave merge out: the run folder then holds what was learnt, and names its base model",
        )
    return {**found, "merge": ("yes" if can_merge else "no") if wanted == AUTO else wanted}


def _with_own_defaults(recipe: Recipe, method: Method, options: Mapping[str, Any], *, rows: int, labels: int) -> Recipe:
    """Give the recipe with the method's own batch size and epochs where it leaves them open."""
    own = getattr(method, "defaults", None)
    found = {} if own is None else own(rows, labels, options)
    return dataclasses.replace(recipe, **{name: found[name] for name in found if getattr(recipe, name) == AUTO})


def _bits_options(recipe: Recipe, model: nn.Module, anatomy: Anatomy, device: str) -> dict[str, Any]:
    """Give what the plan keeps of `base_bits`: nothing where the base stays as it is."""
    demand_bits(recipe.base_bits, model, anatomy, method=recipe.method, device=device)
    if recipe.base_bits and recipe.sharding != "none":
        what = "a base in few bits is whole in each process, and sharding would part it"
        raise PlanProblem(what, where="base_bits", do="leave base_bits or --sharding out")
    return {"base_bits": recipe.base_bits, "prefix_blocks": 0} if recipe.base_bits else {}


def choose_eval_steps(method: Method, each: int, steps: int) -> int:
    """Give the steps between evaluations: as many as the method asks for, else an epoch, within a bound."""
    evaluations = getattr(method, "EVALUATIONS", None)
    return min(each, _MOST_STEPS_BETWEEN_EVALUATIONS) if evaluations is None else max(1, math.ceil(steps / evaluations))


def _head_factor(recipe: Recipe, method: Method) -> float:
    """Give how many times faster the fresh head learns: as asked, else what suits the method's own rate."""
    if recipe.head_learning_rate_factor != AUTO:
        return float(recipe.head_learning_rate_factor)
    return float(getattr(method, "HEAD_FACTOR", 10.0))


def versions() -> dict[str, str]:
    """Give the versions of what decides the numbers."""
    import tokenizers
    import transformers

    libraries = {"tunesmith": tunesmith, "torch": torch, "transformers": transformers, "tokenizers": tokenizers}
    return {name: str(library.__version__) for name, library in libraries.items()} | {"numpy": np.__version__}


def _metric(wanted: str, task: Task) -> str:
    if wanted == AUTO:
        return task.main
    if wanted not in task.metrics:
        raise PlanProblem(
            f"no metric '{wanted}' for {task.name}",
            where="metric",
            do=f"use one of: {nearest_first(wanted, task.metrics)}",
        )
    return wanted

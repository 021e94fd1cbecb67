"""Make a run ready: from a recipe, or from the folder of one that was broken off."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.bundle import unfinished
from tunesmith.bundle.atomic import MANIFEST
from tunesmith.errors import BundleProblem, PlanProblem
from tunesmith.methods import Known, dealt_by, find_method, learnt_task, own_task, resolve_options
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import build_model, build_tokenizer, longest_input, read_config
from tunesmith.models.find import Base, find_base
from tunesmith.models.freed_memory import give_back_memory
from tunesmith.tasks import Task
from tunesmith.tasks.shown_rows import with_rows
from tunesmith.training import folder as run_folder
from tunesmith.training.augmentation.copies import copied, copy_remarks, demand_learner
from tunesmith.training.auto_method import settle_method
from tunesmith.training.checkpoint import newest_whole
from tunesmith.training.encoded import Encoder
from tunesmith.training.free_cores import thread_count
from tunesmith.training.going_on import carry_head, find_parent, keep_knowing, planned
from tunesmith.training.intake import Intake, take_in
from tunesmith.training.job import Job, finished
from tunesmith.training.memo import Forgetful, Memo, reading
from tunesmith.training.plan import choose_device, make_plan, method_options
from tunesmith.training.processes import demand_alone, demand_gpus, process_count
from tunesmith.training.recipe import AUTO, Recipe, make_recipe, read_recipe
from tunesmith.training.regime_options import regime_remarks
from tunesmith.training.stopwatch import Stopwatch
from tunesmith.training.teaching import taught, without_prefix
from tunesmith.types import Plan, from_json


def prepare(
    recipe: Recipe,
    *,
    memo: Memo | None = None,
    encoded: Path | None = None,
    rows: Intake | None = None,
    copies: Path | None = None,
) -> Job:
    """Read, check, split, find the base model, and decide the plan; nothing is written yet.

    Args:
        recipe: What was asked for.
        memo: What earlier runs of this process read and built; given by whoever makes many runs of the same rows.
        encoded: A folder where encoded rows are looked for, and kept once the run starts; several runs may share it.
        rows: The rows, where they have been read and others were put among them or taken out.
        copies: Where an earlier start of this run has kept the copies that augmentation made of its rows.

    Raises:
        DataProblem, PlanProblem, ModelProblem, MissingExtra: As their names say, each with what to do.
    """
    if recipe.unlabelled and not recipe.teacher:  # `training.train.ready` makes such a run
        what = "rows without labels are learnt from by a run of its own, which trains twice"
        raise PlanProblem(what, where="unlabelled", do="use tunesmith train, or let a run say: --set teacher=RUN")
    demand_gpus(choose_device(recipe.device))
    memo, watch, recipe = memo or Forgetful(), Stopwatch(), without_prefix(recipe)
    with watch("reading the data"):
        intake = rows or memo.recall(("rows", reading(recipe)), lambda: take_in(recipe))
    with watch("reading the base model"):
        base = memo.recall(("base", recipe.model), lambda: find_base(recipe.model))
        recipe, intake = settle_method(recipe, intake, base)
        tokenizer = build_tokenizer(base.folder)
        method, plain_task = find_method(recipe.method), intake.task
        demand_learner(recipe, method)
        intake, options = _asked(recipe, intake, base, tokenizer)
        model = _built(recipe, intake, base, memo)
        anatomy = find_anatomy(model, has_fresh_head=intake.task.has_fresh_head)
        parent = find_parent(recipe)
        carry_head(parent, model, anatomy, intake, tokenizer)
        if reason := method.why_not(intake.task.name, anatomy):
            what = f"method '{recipe.method}' cannot serve here: {reason}"
            raise PlanProblem(what, where="method", do="use method full")
        model = method.apply(model, anatomy, options)
    with watch("augmenting"):
        intake, said = _augmented(recipe, intake, plain_task, base=base, tokenizer=tokenizer, memo=memo, copies=copies)
    with watch("encoding"):
        learnt, limit = intake.learnt, longest_input(model.config, tokenizer)
        encoder = Encoder(intake.task, tokenizer, base.sha256, intake.labels, limit, recipe.max_length)
        read_with = (learnt.fingerprint, intake.labels, base.sha256, intake.task, limit, recipe.max_length)
        encoding = memo.recall(("examples", *read_with), lambda: encoder.encode(learnt, encoded))
        tokenizer.model_max_length = encoding.max_length
        model.config.pad_token_id = tokenizer.pad_token_id
        intake = dataclasses.replace(intake, task=encoding.task)
        examples = encoding.parts
        settings = {"model": model, "anatomy": anatomy, "tokenizer": tokenizer, "max_length": encoding.max_length}
        if lessons := taught(recipe, intake, train=examples["train"], **settings):
            intake, examples = dataclasses.replace(intake, task=lessons.task), {**examples, "train": lessons.train}
    threads = torch.get_num_threads()
    taken, fewer = thread_count(recipe.threads)
    torch.set_num_threads(taken)  # the price is for these
    with watch("pricing a step"):
        plan = make_plan(
            recipe,
            intake,
            base,
            method=method,
            of_method=options,
            anatomy=anatomy,
            model=model,
            train=examples["train"],
            tokenizer=tokenizer,
            max_length=encoding.max_length,
        )
    torch.set_num_threads(threads)
    if lessons:
        plan = dataclasses.replace(plan, options={**plan.options, **lessons.options}, parent=lessons.parent)
    plan = planned(recipe, parent, plan)
    give_back_memory()
    job = Job(recipe, plan, intake, base, model, anatomy, tokenizer, examples, encoding=encoding, watch=watch)
    job.encoded_folder = encoded
    job.beside = keep_knowing(recipe, parent, intake)
    job.remarks += [fewer] if fewer and plan.device == "cpu" else []
    job.remarks += [*said, *encoding.task.remarks(encoding.parts["train"])]
    job.remarks += regime_remarks(plan, model, anatomy) if plan.steps else []
    job.remarks += lessons.remarks if lessons else ()
    if bits := plan.options.get("base_bits"):
        job.remarks.append(f"the base is held in {bits} bits while training; it is measured and kept as it was")
    if process_count() > 1:
        job.remarks.append(f"{process_count()} processes share each step; CPU threads of each: {plan.threads}")
    return job


def _asked(recipe: Recipe, intake: Intake, base: Base, tokenizer: Any) -> tuple[Intake, dict[str, Any]]:
    """Give the rows and the task as the method asks them, and its options with nothing left open."""
    method = find_method(recipe.method)
    asked, files = method_options(recipe, method), tuple(intake.files)
    splits, dealt = dealt_by(method, intake.splits, asked, task=intake.task.name, seed=recipe.seed, files=files)
    load_base = functools.partial(build_model, base.folder)
    known = Known(intake.task, intake.labels, splits.train, read_config(base.folder), tokenizer, load_base)
    options = resolve_options(method, dealt, known)
    task = learnt_task(method, with_rows(own_task(recipe.method, intake.task, options), splits.train), options)
    if hasattr(task, "looking_ahead") or hasattr(task, "epoch_steps"):
        demand_alone(
            f"method '{recipe.method}' compares the rows of a step; of several processes each sees only a part of them",
            "run it in one process: it is made for few rows",
        )
    return dataclasses.replace(intake, splits=splits, task=task), options


def _augmented(
    recipe: Recipe, intake: Intake, task: Task, *, base: Base, tokenizer: Any, memo: Memo, copies: Path | None
) -> tuple[Intake, list[str]]:
    """Give the intake with the copies of training rows that the recipe asks for, and what to say of them."""
    if not recipe.augment:
        return intake, []
    made_of = (intake.splits.fingerprint, recipe.augment, recipe.seed, base.sha256, task.name)
    settings: dict[str, Any] = {"base": base, "tokenizer": tokenizer, "device": choose_device(recipe.device)}
    made = memo.recall(("copies", *made_of), lambda: copied(recipe, intake, task, kept=copies, **settings))
    said = copy_remarks(made, intake.splits.train, getattr(task, "augmented_fields", ()))
    inspection = dataclasses.replace(intake.inspection, augmented=made.account)
    return dataclasses.replace(intake, made=made.rows, inspection=inspection), said


def _built(recipe: Recipe, intake: Intake, base: Base, memo: Memo) -> nn.Module:
    """Give the base model with the task's head."""
    model_class = intake.task.model_class(read_config(base.folder))
    entries = {**intake.task.model_config(intake.labels), **_dropouts(recipe)}
    built_of = (base.sha256, model_class, recipe.seed, json.dumps(entries, sort_keys=True, default=repr))
    build = functools.partial(build_model, base.folder, model_class, seed=recipe.seed, **entries)
    return memo.copy(("model", *built_of), build)


def _dropouts(recipe: Recipe) -> dict[str, float | None]:
    """Give the dropouts of the model while it learns; None is what the base model has."""
    dropout = None if recipe.dropout == AUTO else float(recipe.dropout)
    of_attention = dropout if recipe.attention_dropout == AUTO else float(recipe.attention_dropout)
    return {"dropout": dropout, "attention_dropout": of_attention}


def prepare_resume(path: str | Path, *, memo: Memo | None = None) -> Job:
    """Make ready to go on with an unfinished run, from the newest checkpoint whose hashes hold.

    Args:
        path: The run folder.
        memo: As for `prepare`.

    Raises:
        BundleProblem: There is no run, it is finished, or its data, base model or recipe have changed since.
    """
    folder = run_folder.old_folder(path)
    if (folder / MANIFEST).is_file():
        raise finished(folder)
    recipe = make_recipe(read_recipe(folder / "recipe.yaml"), where=str(folder / "recipe.yaml"))
    kept = read_plan(folder)
    if recipe.threads == AUTO:
        recipe = dataclasses.replace(recipe, threads=kept.threads)
    job = prepare(recipe, memo=memo, encoded=folder / unfinished.ENCODED, copies=folder / unfinished.COPIES)
    job.remarks += demand_same(kept, job.plan, folder)
    job.plan, job.folder, job.is_resumed = kept, folder, True
    job.resumed_from, passed = newest_whole(folder / unfinished.CHECKPOINTS)
    job.remarks += [f"{sentence}; going back to an older one" for sentence in passed]
    if job.resumed_from is None:
        job.remarks.append("there is no checkpoint to go on from: starting at step 0")
    else:
        job.remarks.append(f"going on from step {job.resumed_from.step} of {job.plan.steps}")
    return job


def read_plan(folder: Path) -> Plan:
    """Give the plan that a run folder keeps.

    Raises:
        BundleProblem: It cannot be read.
    """
    try:
        plan: Plan = from_json(Plan, json.loads((folder / "plan.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleProblem(
            "the plan of this run cannot be read, or comes from another version",
            where=str(folder / "plan.json"),
            do=f"train anew: tunesmith train {folder / 'recipe.yaml'}",
        ) from error
    return plan


def demand_same(kept: Plan, now: Plan, folder: Path) -> list[str]:
    """Compare the plan on disk with the one made anew; other library versions are a remark, all else an error.

    Raises:
        BundleProblem: Something that shapes the weights has changed.
    """
    before, after = kept.essence, now.essence
    before.pop("versions"), after.pop("versions")
    changed = sorted(name for name in before if before[name] != after.get(name))
    if changed:
        details = {"data": "the data file", "base_sha256": "the base model", "threads": "the number of threads"}
        listed = ", ".join(details.get(name, name) for name in changed)
        raise BundleProblem(
            f"since this run began these have changed: {listed}",
            where=str(folder),
            do="put back what was changed and resume, or train anew: tunesmith train " + str(folder / "recipe.yaml"),
        )
    other = [
        f"{name} {kept.versions.get(name)} -> {version}"
        for name, version in now.versions.items()
        if kept.versions.get(name) != version
    ]
    return (
        [f"library versions have changed ({', '.join(other)}); the weights may differ in their last bits"]
        if other
        else []
    )

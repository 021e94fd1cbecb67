"""What is decided before several tasks are trained together, and what is to be said of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from tunesmith.data.normalise import text_key
from tunesmith.errors import PlanProblem
from tunesmith.methods import find_method
from tunesmith.metrics import NO_SHARE
from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.job import Job
from tunesmith.training.multi_task.mixture import shares
from tunesmith.training.multi_task.shared_body import SCORE
from tunesmith.training.multi_task.tasks_file import POWERS, TasksFile
from tunesmith.training.plan import choose_batch_size, choose_eval_steps
from tunesmith.training.recipe import AUTO
from tunesmith.types import Plan

_SHARED_OPTIONS = ("epochs", "batch_size", "gradient_accumulation_steps", "batch_tokens", "learning_rate",
                   "head_learning_rate_factor", "eval_steps")  # fmt: skip
"""Entries of the shared plan that hold for the plan of each task too."""


def selects_by(plan: Plan) -> str:
    """Give the metric that chooses the best weights of a task."""
    return str(plan.options["select_by"])


def demand_headed(name: str, job: Job) -> None:
    """Refuse tasks that cannot share the body of an encoder under a fresh head."""
    task, anatomy = job.intake.task, job.anatomy
    reason = ""
    if not task.has_fresh_head:
        reason = f"task {task.name} answers by the head that the base came with, in words"
    elif anatomy.is_encoder_decoder:
        reason = "the base model has an encoder and a decoder, and heads of one kind alone are shared"
    elif selects_by(job.plan) in NO_SHARE:
        reason = f"it is chosen by {selects_by(job.plan)}, which cannot be averaged with the shares of other tasks"
    if reason:
        do = "train it by itself: tunesmith train"
        raise PlanProblem(f"task '{name}' cannot share a body: {reason}", where=f"tasks: {name}", do=do)


def make_shared_plan(file: TasksFile, jobs: Mapping[str, Job]) -> Plan:
    """Give the plan of the shared training: the first task's as far as the body goes, the rows of all."""
    first = next(iter(jobs.values()))
    plans = {name: job.plan for name, job in jobs.items()}
    options = dict(first.plan.options)
    rows = sum(len(job.examples["train"]) for job in jobs.values())
    recipe = first.recipe
    options["batch_size"] = choose_batch_size(recipe.batch_size, rows)
    each = steps_per_epoch(rows, options["batch_size"] * int(options["gradient_accumulation_steps"]))
    epochs = max(float(plan.options["epochs"]) for plan in plans.values()) if recipe.epochs == AUTO else recipe.epochs
    steps = max(1, round(float(epochs) * each))
    if recipe.max_steps != AUTO:
        steps = min(steps, int(recipe.max_steps))
    options |= {"epochs": steps / each, "select_by": SCORE, "metric": SCORE, "sampling": file.sampling}
    usual = choose_eval_steps(find_method(recipe.method), each, steps)
    options["eval_steps"] = usual if recipe.eval_steps == AUTO else recipe.eval_steps
    options |= {"prefix_blocks": 0, "compact_embeddings": False}
    options["tasks"] = {name: {"task": plan.task, "essence": _hash(plan)} for name, plan in plans.items()}
    seconds = [plan.expected_seconds / max(1, plan.steps) for plan in plans.values()]
    parts = shares([len(job.examples["train"]) for job in jobs.values()], POWERS[file.sampling])
    prints = "/".join(str(plan.data["fingerprint"]) for plan in plans.values())
    data = {
        "files": {f"{name}.{part}": one for name, plan in plans.items() for part, one in plan.data["files"].items()},
        "fingerprint": hashlib.sha256(prints.encode()).hexdigest(),
        **{part: sum(int(plan.data[part]) for plan in plans.values()) for part in ("train", "valid", "test")},
    }
    return dataclasses.replace(
        first.plan,
        task="several",
        data=data,
        labels=(),
        options=options,
        steps=steps,
        expected_seconds=steps * sum(part * one for part, one in zip(parts, seconds, strict=True)),
        expected_memory_mib=max(plan.expected_memory_mib for plan in plans.values()),
    )


def plan_of(name: str, own: Plan, shared: Plan, file: TasksFile) -> Plan:
    """Give the plan of one task as it is trained here: a plan of its own id, which says with whom."""
    together = {"plan": shared.id, "name": name, "with": [one for one in file.recipes if one != name]}
    options = {**own.options, **{key: shared.options[key] for key in _SHARED_OPTIONS}}
    options |= {"prefix_blocks": 0, "compact_embeddings": False}
    options |= {"together": together, "sampling": file.sampling}
    return dataclasses.replace(own, options=options, steps=shared.steps)


def _hash(plan: Plan) -> str:
    text = json.dumps(plan.essence, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def seen_elsewhere(jobs: Mapping[str, Job]) -> list[str]:
    """Say how many test rows of a task have a text that another task learns from, whatever its label there."""
    trained = {
        name: {text_key(job.intake.task.text_of(record.fields)) for record in job.intake.splits.train}
        for name, job in jobs.items()
    }
    said = []
    for name, job in jobs.items():
        keys = [text_key(job.intake.task.text_of(record.fields)) for record in job.intake.splits.test]
        counts = {other: sum(key in trained[other] for key in keys) for other in trained if other != name}
        said += [
            f"{count:,} of {len(keys):,} test rows of {name} have texts that {other} learns from, with labels of its "
            "own; to be strict, give both tasks test files with the same texts"
            for other, count in counts.items()
            if count
        ]
    return said

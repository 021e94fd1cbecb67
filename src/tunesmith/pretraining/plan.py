"""Decide a pretraining run before it starts: every `auto` of the recipe gets its value here and nowhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch
from torch import nn

from tunesmith.errors import DataProblem, PlanProblem
from tunesmith.models.find import Base
from tunesmith.pretraining.objective import LanguageObjective, draw
from tunesmith.pretraining.options import PretrainRecipe
from tunesmith.pretraining.packing import Blocks
from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.plan import choose_device, choose_precision, versions
from tunesmith.training.recipe import AUTO
from tunesmith.types import Plan

_STEP_TOKENS = ((2_000_000, 1024), (20_000_000, 2048), (math.inf, 4096))  # tokens of the corpus up to -> of a step
_TOKENS = 8_000_000  # that a run reads when no budget is given, if the corpus is neither tiny nor large
_MOST_EPOCHS = 40  # of a tiny corpus; more is learning by heart
_LEAST_BLOCKS = 16  # in the corpus, before shorter blocks are taken
_EVALUATIONS = 10
_MOST_EVAL_STEPS = 1000
_TAKEN_OVER = (
    *("objective", "size", "init", "mask_share", "span_length", "gradient_accumulation_steps", "batch_tokens"),
    *("weight_decay", "warmup_ratio", "max_grad_norm", "patience", "checkpoint_seconds", "valid_share"),
)


def choose_max_length(recipe: PretrainRecipe, tokens: int, limit: int | None) -> int:
    """Give the tokens of a block: as asked, else 128 (clm 256), halved (to 32) while the corpus has too few blocks.

    Args:
        recipe: What was asked for.
        tokens: Of the training part.
        limit: The most that the model reads; None for a fresh one.

    Raises:
        PlanProblem: More than the model reads.
    """
    if recipe.max_length != AUTO:
        if limit is not None and recipe.max_length > limit:
            what = f"max_length is {recipe.max_length}; this model reads at most {limit} tokens"
            raise PlanProblem(what, where="max_length", do=f"choose {limit} or less")
        return int(recipe.max_length)
    length = 256 if recipe.objective == "clm" else 128
    length = length if limit is None else min(length, limit)
    while length > 32 and tokens < _LEAST_BLOCKS * length:
        length //= 2
    return length


def choose_batch_size(recipe: PretrainRecipe, blocks: int, length: int) -> int:
    """Give the blocks of a step: as asked, else 1024 to 4096 tokens, and fewer where the corpus gives too few steps.

    A small budget is better spent on many small steps: tiny mlm on wikitext2_small_en reached the same perplexity (480)
    after 0.28 million tokens in steps of 1024 as after 1.12 million in steps of 4096.
    """
    if recipe.batch_size != AUTO:
        return int(recipe.batch_size)
    wanted = next(step for most, step in _STEP_TOKENS if blocks * length <= most)
    return max(1, min(wanted // length, blocks // 8))


def choose_learning_rate(recipe: PretrainRecipe, hidden: int) -> float:
    """Give the peak rate: it falls with the width; a trained model is changed gently.

    From scratch 0.256 / width: 2e-3 at 128, 1e-3 at 256. The published BERT and GPT-2 rates (1e-4 to 6e-4 at 768) are
    on the same line. Going on: 5e-5 at 768, as Gururangan et al. 2020 adapt to a domain, more where narrower.
    """
    if recipe.learning_rate != AUTO:
        return float(recipe.learning_rate)
    return min(2e-4, 5e-5 * 768 / hidden) if recipe.model else min(4e-3, 0.256 / hidden)


def choose_steps(recipe: PretrainRecipe, each: int, *, step_seconds: float, step_tokens: int) -> int:
    """Give the optimiser steps: of the budget given, else for 8 million tokens, within one pass and forty.

    Args:
        recipe: What was asked for.
        each: Steps of one pass.
        step_seconds: Measured, of one step.
        step_tokens: Of one step.
    """
    if recipe.steps != AUTO:
        return int(recipe.steps)
    if recipe.epochs != AUTO:
        return max(1, math.ceil(float(recipe.epochs) * each))
    if recipe.seconds != AUTO:
        return max(1, int(recipe.seconds / step_seconds))
    return min(max(each, math.ceil(_TOKENS / step_tokens)), _MOST_EPOCHS * each)


def demand_blocks(train: Blocks, valid: Blocks, where: str) -> None:
    """Refuse a corpus that is too small to fill blocks.

    Raises:
        DataProblem: Says how many tokens there are.
    """
    for name, blocks, least in (("train", train, 2), ("validation", valid, 1)):
        if len(blocks) < least:
            raise DataProblem(
                f"the corpus is too small: its {name} part has {len(blocks.stream.ids):,} tokens, "
                f"and {least * blocks.frame.body:,} are needed",
                where=where,
                do="give more text, a smaller --max-length, or another part: --valid FILE or --set valid_share=0.2",
            )


def make_plan(
    recipe: PretrainRecipe,
    objective: LanguageObjective,
    model: Any,
    *,
    train: Blocks,
    valid: Blocks,
    base: Base | None,
    facts: Mapping[str, Any],
    vocabulary: Mapping[str, Any],
) -> Plan:
    """Resolve every open key and estimate what the run will cost.

    Args:
        recipe: What was asked for.
        objective: What is learnt.
        model: One step is timed on it and leaves no trace.
        train: Blocks to learn from.
        valid: Blocks to measure on.
        base: The model that is gone on with; None for a fresh one.
        facts: About the corpus; becomes the plan's `data`.
        vocabulary: What became of the tokenizer's keys; becomes part of the plan's `options`.
    """
    batch_size = choose_batch_size(recipe, len(train), objective.frame.length)
    per_step = batch_size * recipe.gradient_accumulation_steps
    each = steps_per_epoch(len(train), per_step)
    step_seconds = time_step(objective, model, train, per_step, recipe.batch_tokens)
    step_tokens = per_step * objective.frame.length
    steps = choose_steps(recipe, each, step_seconds=step_seconds, step_tokens=step_tokens)
    device = choose_device(recipe.device)
    options = {name: getattr(recipe, name) for name in _TAKEN_OVER} | dict(vocabulary)
    options |= {
        "batch_size": batch_size,
        "epochs": steps / each,
        "learning_rate": choose_learning_rate(recipe, model.config.hidden_size),
        "head_learning_rate_factor": 1.0,
        "dropout": recipe.dropout if recipe.dropout != AUTO else None if recipe.model else 0.0,
        "eval_steps": min(_MOST_EVAL_STEPS, math.ceil(steps / _EVALUATIONS))
        if recipe.eval_steps == AUTO
        else recipe.eval_steps,
        "metric": "perplexity",
        "select_by": "perplexity",
    }
    free = sum(parameter.numel() for parameter in model.parameters())
    return Plan(
        task=f"pretrain-{recipe.objective}",
        method="full",
        base=recipe.model or f"fresh {recipe.size}",
        base_sha256="" if base is None else base.sha256,
        data=facts,
        labels=(),
        options=options,
        seed=recipe.seed,
        device=device,
        threads=torch.get_num_threads(),
        precision=choose_precision(recipe.mixed_precision, device, model.config.hidden_size),
        steps=steps,
        expected_seconds=step_seconds * steps * 1.1,  # evaluations are the tenth
        expected_memory_mib=psutil.Process().memory_info().rss / 2**20 + 12 * free / 2**20,
        versions=versions(),
    )


def time_step(objective: LanguageObjective, model: nn.Module, train: Blocks, rows: int, batch_tokens: int) -> float:
    """Give the seconds of one optimiser step of `rows` blocks on this machine's CPU, by trying; no trace is left.

    On a GPU this is an upper bound, and the progress line corrects it from the first steps on.
    """
    part = min(rows, len(train), max(1, batch_tokens // train.frame.length))
    kept = torch.get_rng_state()
    model.train()
    seconds = math.inf
    for _ in range(3):  # the first pass also allocates and picks kernels
        start = time.perf_counter()
        batch = draw(objective, train[:part])
        (objective.loss(model, batch) / max(1.0, objective.weight(batch))).backward()
        seconds = min(seconds, time.perf_counter() - start)
    model.zero_grad(set_to_none=True)
    model.eval()
    torch.set_rng_state(kept)
    update = 1e-9 * sum(parameter.numel() for parameter in model.parameters())  # AdamW and the norm of the gradient
    return float(seconds * rows / part + update)

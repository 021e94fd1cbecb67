"""Take channels and heads out of a run's model, little by little, and let what is left recover each time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import Bundle, load
from tunesmith.compression.candidate import Workshop, longest_read
from tunesmith.compression.importance import importance
from tunesmith.engines import TORCH
from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import Anatomy, find_anatomy, linear_layers
from tunesmith.models.build import quiet
from tunesmith.models.narrow import HEADS, WIDTH, Units, find_units, kept_count, narrow, why_no_heads

ROWS_RANKED = 512
"""Training rows that importance is found on, evenly spaced."""

_LARGEST_SHARE = 0.9  # of one kind of unit: what is left then hardly computes anything
_RECOVERY_EPOCHS = 1.0  # after each round but the last
LAST_EPOCHS = 3.0
"""Passes after the last round, unless the person says otherwise; early stopping ends them before."""


def prune(shop: Workshop, source: Bundle, share: float, rounds: int) -> Bundle:
    """Make a run whose blocks have lost a share of their matrices.

    Args:
        shop: What to work with.
        source: The run whose model is pruned: the parent, or what was distilled from it.
        share: Of the numbers in the blocks' matrices (0..1).
        rounds: In how many steps they go.

    Raises:
        PlanProblem: So much cannot leave this model.
        ModelProblem: Its parts cannot be told apart.
    """
    model = copy.deepcopy(source.model)
    anatomy = find_anatomy(model)
    units = _demanded(model, anatomy, source)
    shares = shares_of(model, anatomy, units, share)
    counts = {one.kind: one.count for one in units}
    examples = _some_rows(shop.parent, source)
    for number in range(1, rounds + 1):
        done = {kind: part * number / rounds for kind, part in shares.items()}
        left = {kind: kept_count(count, done[kind], kind=kind) for kind, count in counts.items() if kind in done}
        shop.say(f"pruning, round {number} of {rounds}: {said(counts, left)}")
        _take_out(model.eval(), source, examples, left)
        start = shop.folder / f"pruned-{number}"
        save_start(model, source.tokenizer, start)
        is_last = number == rounds
        epochs = LAST_EPOCHS if is_last else _RECOVERY_EPOCHS
        out = shop.folder / ("pruned" if is_last else f"recovering-{number}")
        origin = source.name if source is shop.parent else source.plan.base
        what = f"{origin}, pruned to {said(counts, left)}"
        job = shop.job(start, what, epochs=epochs, **longest_read(shop.parent), out=str(out))
        if is_last:
            shop.show(job, job.run(shop.stop_signal))
            break
        shop.show(job, job.learn(shop.stop_signal))
        model = job.model.to("cpu")
        if finish := getattr(job.intake.task, "after_training", None):
            finish(model)
    return load(out, engine=TORCH)


def _demanded(model: nn.Module, anatomy: Anatomy, source: Bundle) -> list[Units]:
    found = find_units(model, anatomy)
    if not found:
        raise PlanProblem(
            f"the feed-forward parts of {type(model).__name__} cannot be told apart, so that none can be made narrower",
            where=str(source.path),
            do="distil it instead: --distill layers:3, or --distill FOLDER",
        )
    return found


def shares_of(model: nn.Module, anatomy: Anatomy, units: Sequence[Units], share: float) -> dict[str, float]:
    """Give the share of each kind of unit that leaves, so that `share` of the numbers in the blocks' matrices does.

    Heads and channels leave in like shares; where heads have to stay, channels make up for them.

    Raises:
        PlanProblem: That is more than can leave; says how much can.
    """
    whole = sum(layer.weight.numel() for layer in linear_layers(model, anatomy).values())
    prunable = sum(one.weights for one in units)
    wanted = share * whole / prunable
    if wanted > _LARGEST_SHARE:
        most = int(100 * _LARGEST_SHARE * prunable / whole) / 100
        raise PlanProblem(
            f"{100 * share:g}% of the blocks' weights cannot leave: channels and heads that may go are "
            f"{100 * prunable / whole:.0f}% of them",
            where="prune",
            do=f"prune {most:g} at most, or take whole blocks out too: --distill layers:3",
        )
    return dict.fromkeys((one.kind for one in units), wanted)


def said(counts: dict[str, int], left: dict[str, int]) -> str:
    """Give what is left of each kind in words."""
    words = {WIDTH: "feed-forward channels", HEADS: "groups of heads"}
    return " and ".join(f"{left[kind]:,} of {counts[kind]:,} {words[kind]}" for kind in counts)


def remarks_of(model: nn.Module) -> list[str]:
    """Say what pruning leaves alone in this model, and why."""
    units = find_units(model, find_anatomy(model))
    return [] if any(one.kind == HEADS for one in units) else [why_no_heads(model)]


def _some_rows(parent: Bundle, source: Bundle) -> list[Any]:
    records = part_rows(parent, "train")
    step = max(1, len(records) // ROWS_RANKED)
    return source.encode(records[::step][:ROWS_RANKED])


def _take_out(model: nn.Module, source: Bundle, examples: Sequence[Any], left: dict[str, int]) -> None:
    """Rank the units that are there now, and keep the best of each block."""
    units = find_units(model, find_anatomy(model))
    found = importance(model, units, examples, task=source.task, tokenizer=source.tokenizer)
    chosen: list[tuple[Units, torch.Tensor]] = []
    for one, scores_U in zip(units, found, strict=True):
        chosen.append((one, scores_U.topk(min(one.count, left[one.kind])).indices.sort().values))
    narrow(model, chosen)


def save_start(model: Any, tokenizer: Any, folder: Any) -> None:
    """Write a model as a base model that a run can start from."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

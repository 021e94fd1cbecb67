"""What a run need not compute: the rows of the vocabulary that it never sees, and blocks that never change.

`spared` holds a model to both while it trains. What the plan says decides, so that a resumed run goes the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.errors import PlanProblem
from tunesmith.models import compact_embeddings
from tunesmith.models.anatomy import Anatomy
from tunesmith.models.compact_embeddings import compacted, ids_in_use
from tunesmith.models.prefix_cache import FrozenPrefix, States, fingerprint, frozen_blocks
from tunesmith.training.augmentation.mixup import mixes_embeddings
from tunesmith.training.material import Material
from tunesmith.training.recipe import AUTO, Recipe

_MOST_EXAMPLES = 100_000  # with more, nearly the whole vocabulary is in use, and finding that out costs a pass
_AT_ONCE = 256  # examples in a batch that is only looked at
_FLOAT_BYTES = 4


def choose_economy(
    recipe: Recipe, model: nn.Module, anatomy: Anatomy, *, lengths: Sequence[int], epochs: float
) -> dict[str, Any]:
    """Decide what this run spares: `prefix_blocks` (0 for none), `prefix_bytes` at most, and `compact_embeddings`.

    Args:
        recipe: `prefix_cache` (auto, yes, no) and `cache_mib`.
        model: With the method applied.
        anatomy: Of the model.
        lengths: Tokens of each training example.
        epochs: Passes over them.

    Raises:
        PlanProblem: The cache was asked for, and cannot be.
    """
    blocks, reason = frozen_blocks(anatomy), ""
    needed = sum(lengths) * anatomy.hidden * _FLOAT_BYTES
    if blocks == 0:
        reason = f"method {recipe.method} changes the model from its first block, or below"
    elif recipe.adversarial != "none" or recipe.unfreeze != "none" or mixes_embeddings(recipe):
        reason = "adversarial training, gradual unfreezing and mixed embeddings work on the lowest part of the model"
    elif needed > recipe.cache_mib * 2**20:
        reason = f"the states would take {needed / 2**20:,.0f} MiB, and cache_mib is {recipe.cache_mib:,}"
    elif epochs <= 1 and recipe.prefix_cache == AUTO:
        reason = "every row is seen once"
    if recipe.prefix_cache not in {AUTO, "yes", "no"}:
        what = f"prefix_cache is '{recipe.prefix_cache}'"
        raise PlanProblem(what, where="prefix_cache", do="use one of: auto, yes, no")
    if reason and recipe.prefix_cache == "yes":
        raise PlanProblem(f"there is nothing to keep: {reason}", where="prefix_cache", do="leave prefix_cache out")
    is_free = not recipe.ewc  # which holds every row of the table where it was
    can_compact = (
        is_free and compact_embeddings.why_not(model, recipe.optimizer) is None and len(lengths) <= _MOST_EXAMPLES
    )
    return {
        "prefix_blocks": 0 if reason or recipe.prefix_cache == "no" else blocks,
        "cache_mib": recipe.cache_mib,
        "compact_embeddings": can_compact,
    }


@contextlib.contextmanager
def spared(
    options: Mapping[str, Any],
    material: Material,
    folder: Path,
    *,
    alone: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[None]:
    """Hold the model to what `choose_economy` decided; afterwards it is whole again, with what it has learnt.

    Args:
        options: The plan's.
        material: The model, on its device, and all examples that the loop will put through it. The model is changed in
            place, and back.
        folder: Where the states of frozen blocks lie; several runs may share it.
        alone: Lets one process of a run go first, and the others after it.
    """
    with contextlib.ExitStack() as stack:
        if options.get("compact_embeddings"):
            stack.enter_context(compacted(material.model, _ids(material)))
        if options.get("prefix_blocks"):
            with alone():
                stack.enter_context(_prefix(options, material, folder))
        yield


def _prefix(options: Mapping[str, Any], material: Material, folder: Path) -> FrozenPrefix:
    """Give the model's frozen blocks with their states known: from the folder, or by running them once."""
    assert material.anatomy is not None
    blocks, parts = int(options["prefix_blocks"]), (material.train, material.valid)
    name = fingerprint(material.anatomy, blocks, (example.tokens for part in parts for example in part))
    states = States(folder / f"{name}.f32", material.anatomy.hidden, float(options["cache_mib"]) * 2**20)
    prefix = FrozenPrefix(material.anatomy, blocks, states)

    def run() -> None:
        material.model.eval()
        for part in parts:
            material.task.evaluate(
                material.model,
                part,
                tokenizer=material.tokenizer,
                labels=material.labels,
                batch_tokens=int(options["batch_tokens"]),
            )

    if not states.is_whole:
        with material.watch("frozen blocks"), prefix:
            prefix.remember(run)
    return prefix


def _ids(material: Material) -> torch.Tensor:
    """Give every token id of the examples, as the task puts them into batches."""
    starts = [(part, start) for part in (material.train, material.valid) for start in range(0, len(part), _AT_ONCE)]
    return ids_in_use(material.task.batch(part[start : start + _AT_ONCE], material.tokenizer) for part, start in starts)

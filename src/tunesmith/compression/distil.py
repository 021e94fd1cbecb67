"""Let a smaller model learn what a run answers: a base model of its own, or some of the run's own blocks."""

from __future__ import annotations

import copy
import re
from pathlib import Path

from tunesmith.bundle.load import Bundle, load
from tunesmith.compression.candidate import Workshop, longest_read
from tunesmith.compression.prune import save_start
from tunesmith.engines import TORCH
from tunesmith.errors import PlanProblem
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.narrow import keep_blocks

_LAYERS = re.compile(r"layers:(\d+)")


def blocks_asked(student: str) -> int | None:
    """Give the number of blocks of `layers:N`; None where the student is a base model."""
    found = _LAYERS.fullmatch(student)
    if found is None and student.startswith("layers"):
        raise PlanProblem(f"the student is '{student}'", where="distill", do="write layers:3, or a base model")
    return None if found is None else int(found[1])


def spread_blocks(count: int, wanted: int) -> list[int]:
    """Give the places (from 0) of `wanted` of `count` blocks, evenly spread, the first and the last among them.

    One block alone is the first. Sanh et al. 2019 take every second one; this is as even and also keeps the last block,
    whose states the head reads.
    """
    if wanted == 1:
        return [0]
    return [round(place * (count - 1) / (wanted - 1)) for place in range(wanted)]


def distil(shop: Workshop, student: str) -> Bundle:
    """Make a run of a smaller model that has learnt from the parent.

    Args:
        shop: What to work with.
        student: `layers:N`, or a base model: a folder, a name or a hub id.

    Raises:
        PlanProblem: The parent has no more blocks than that, or cannot teach this base model.
    """
    out, wanted = shop.folder / "distilled", blocks_asked(student)
    if wanted is None:
        base = str(Path(student).expanduser().absolute()) if Path(student).expanduser().is_dir() else student
        job = shop.job(base, student, out=str(out))
    else:
        start, what = _shortened(shop, wanted)
        job = shop.job(start, what, **longest_read(shop.parent), out=str(out))
    shop.say(f"distilling into {job.plan.base}")
    shop.show(job, job.run(shop.stop_signal))
    return load(out, engine=TORCH)


def _shortened(shop: Workshop, wanted: int) -> tuple[Path, str]:
    """Write a base model of some of the parent's blocks; give its folder, and what it is in words."""
    model = copy.deepcopy(shop.parent.model)
    anatomy = find_anatomy(model)
    count = len(anatomy.blocks)
    if not 0 < wanted < count:
        raise PlanProblem(
            f"the student is to have {wanted} blocks, and the run has {count}",
            where="distill",
            do=f"choose layers:1 to layers:{count - 1}" if count > 1 else "give a smaller base model",
        )
    keep_blocks(model, anatomy, spread_blocks(count, wanted))
    start = shop.folder / "student"
    save_start(model, shop.parent.tokenizer, start)
    return start, f"{shop.parent.name}, {wanted} of {count} blocks"

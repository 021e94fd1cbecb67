"""How every contestant of `answering` is asked: some texts one by one, then all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import entry


def ask(
    job: dict[str, Any],
    single: Callable[[str], str] | None,
    bulk: Callable[[Sequence[str]], list[str]],
) -> dict[str, Any]:
    """Time both ways, after a few texts to warm up; give the time of an answer, answers per second, and the answers."""
    texts = job["texts"]
    found: dict[str, Any] = {}
    clock = entry.Clock()
    if single is not None:
        some = texts[: int(job["singles"])]
        for text in some[:5]:
            single(text)
        clock.restart()
        for text in some:
            single(text)
        taken = clock.taken()
        found["single_cpu_seconds"] = taken["timed_cpu_seconds"] / len(some)
        found["single_wall_seconds"] = taken["timed_wall_seconds"] / len(some)
    bulk(texts[:64])
    clock.restart()
    found["answers"] = bulk(texts)
    taken = clock.taken()
    found["bulk_per_cpu_second"] = len(texts) / taken["timed_cpu_seconds"]
    found["bulk_per_second"] = len(texts) / taken["timed_wall_seconds"]
    return found

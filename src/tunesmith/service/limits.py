"""How much one request may ask, and how often one key may ask."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.service.answering import Input
from tunesmith.service.problems import HttpProblem
from tunesmith.service.settings import Settings

_MOST_BUCKETS = 10_000  # keys whose bucket is remembered; one that is forgotten was full


@dataclass
class _Bucket:
    tokens: float
    at: float  # seconds, when `tokens` was counted


class RateLimit:
    """A token bucket for each key: `per_second` on average, `burst` at once.

    Args:
        per_second: Requests; 0 switches the limit off.
        burst: Requests that a key which was silent may send at once.
        clock: Gives seconds.
    """

    def __init__(self, per_second: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, max(1.0, burst), clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Take one token.

        Raises:
            HttpProblem: 429, with the seconds after which there is one.
        """
        if self._per_second <= 0:
            return
        now = self._clock()
        bucket = self._buckets.setdefault(key, _Bucket(self._burst, now))
        self._buckets.move_to_end(key)
        while len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.tokens < 1:
            raise HttpProblem(
                429,
                "rate_limited",
                f"this key may send {self._per_second:g} requests a second",
                do="send fewer, with several inputs in each",
                retry_after=(1 - bucket.tokens) / self._per_second,
            )
        bucket.tokens -= 1


def demand_few(inputs: Sequence[Input], settings: Settings) -> None:
    """Refuse more inputs, or longer ones, than a request may hold.

    Raises:
        HttpProblem: 413, with the limit.
    """
    if len(inputs) > settings.max_inputs:
        raise HttpProblem(
            413,
            "too_many_inputs",
            f"{len(inputs)} inputs; a request may hold {settings.max_inputs}",
            do="send several requests",
            where="inputs",
        )
    for place, given in enumerate(inputs):
        length = characters(given)
        if length > settings.max_characters:
            raise HttpProblem(
                413,
                "input_too_long",
                f"this input has {length:,} characters; one may have {settings.max_characters:,}",
                do="send a shorter text, or its parts",
                where=f"inputs[{place}]",
            )


def characters(given: Any) -> int:
    """Count the characters of all texts in an input, keys included."""
    total, waiting = 0, [given]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, Sequence):
            total += len(item)
            waiting.extend(item)
    return total

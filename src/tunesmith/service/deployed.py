"""One version of a model in the workers, how it has been doing, and which version answers whom."""

from __future__ import annotations

import collections
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.service.answering import ServedModel
from tunesmith.service.pool_settings import CanaryRules, Served

_TIMES = 1000  # of the latest requests that are kept for the 99th percentile
_LEAST_ERRORS = 2  # one failure among few requests takes no canary back


@dataclass(eq=False)
class Deployed:
    """One bundle under one name, loaded or being loaded."""

    key: str  # of the workers; never used twice
    name: str
    run: Path
    version: int = 0  # in the registry
    facts: Mapping[str, Any] = field(default_factory=dict)  # as the worker gave them; empty while it loads
    in_flight: int = 0  # requests
    requests: int = 0  # answered or failed
    faults: int = 0  # of the service's or the model's making
    seconds: collections.deque[float] = field(default_factory=lambda: collections.deque(maxlen=_TIMES))
    compared: int = 0  # as a shadow: inputs whose answers were compared with the live version's
    agreed: int = 0  # and were the same

    @property
    def bundle(self) -> str:
        """Id of the bundle."""
        return str(self.facts.get("bundle", ""))

    def note(self, seconds: float, *, is_fault: bool) -> None:
        """Count one request that has come to its end."""
        self.requests += 1
        self.faults += is_fault
        if not is_fault:
            self.seconds.append(seconds)

    def percentile(self, share: float) -> float:
        """Give the time (seconds) that this share (0..1) of the latest requests kept to; 0 where there are none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(eq=False)
class Slot:
    """One served name."""

    served: Served
    live: Deployed | None = None
    canary: Deployed | None = None
    canary_share: float = 0.0  # 0..1
    shadow: Deployed | None = None
    state: Literal["loading", "ready", "failed"] = "loading"
    reason: str = ""  # why it failed, or why the newest change was not made
    stamp: str = ""  # of the registry's pointer when it was last obeyed
    looks_left: int = -1  # at the registry, before what could not be loaded is tried again; below 0: nothing is

    @property
    def name(self) -> str:
        """Under which it is asked."""
        return self.served.name

    @property
    def deployed(self) -> tuple[Deployed, ...]:
        """All that is loaded for it."""
        return tuple(one for one in (self.live, self.canary, self.shadow) if one is not None)

    def choose(self, sticky: str) -> Deployed | None:
        """Give the version that answers: whoever asks with the same word gets the same one while a canary runs."""
        if self.canary is None or self.live is None:
            return self.live
        place = position(f"{self.name}/{self.canary.version}", sticky)
        return self.canary if place < self.canary_share else self.live

    def as_served(self) -> ServedModel:
        """Give it as the HTTP side sees it."""
        live = self.live
        facts: Mapping[str, Any] = live.facts if live is not None else {}
        return ServedModel(
            name=self.name,
            task=str(facts.get("task", "")),
            labels=tuple(facts.get("labels", ())),
            bundle=str(facts.get("bundle", "")),
            version=live.version if live is not None else 0,
            run=live.run if live is not None else (self.served.run or Path()),
            state=self.state,
            reason=self.reason,
            engine=str(facts.get("engine", "torch")),
            base=str(facts.get("base", "")),
            can_stream=bool(facts.get("can_stream", False)),
            is_causal=bool(facts.get("is_causal", False)),
            inputs=tuple(facts.get("inputs", ("text",))),
        )


def position(version: str, sticky: str) -> float:
    """Give where a word stands between 0 and 1, for a version: a canary that gets more keeps those whom it had."""
    if not sticky:
        return random.random()
    content = hashlib.sha256(f"{version}/{sticky}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(content[:8], "big") / 2**64


def judge(canary: Deployed, live: Deployed, rules: CanaryRules) -> str:
    """Give the reason why a canary has to be taken back; empty where it may stay."""
    if canary.requests >= rules.least_requests and canary.faults >= _LEAST_ERRORS:
        share = canary.faults / canary.requests
        if share > rules.most_errors:
            return f"{canary.faults} of {canary.requests} requests failed"
    if min(len(canary.seconds), len(live.seconds)) >= rules.least_timed:
        slow, usual = canary.percentile(0.99), live.percentile(0.99)
        if slow > rules.slower * usual:
            return f"its 99th percentile is {1000 * slow:.0f} ms, the live version's {1000 * usual:.0f} ms"
    return ""


def compare(live: Sequence[Any], shadow: Sequence[Any]) -> int:
    """Give how many of two versions' answers to the same inputs are the same."""
    return sum(mine == other for mine, other in zip(live, shadow, strict=True))

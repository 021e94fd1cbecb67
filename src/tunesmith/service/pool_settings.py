"""What the side that runs models is told: which names it serves from where, and how it batches, waits and gives up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import PlanProblem
from tunesmith.types import from_json, to_json


@dataclass(frozen=True)
class Stub:
    """Stands for a model in load and fault tests: it takes time, and can be told to fail."""

    seconds: float  # for each batch of `rows`
    rows: int = 16
    fails_on: str = ""  # raises where an input holds this word
    crashes_on: str = ""  # ends its process
    hangs_on: str = ""  # never returns
    value: str = "stub"  # what it answers
    writes: int = 0  # words that a stream writes, one every `seconds`; 0: it cannot stream

    @classmethod
    def read(cls, text: str) -> Stub:
        """Read `20ms`, or `20ms rows=1 fails_on=bad crashes_on=poison hangs_on=sleep value=yes writes=50`.

        Raises:
            PlanProblem: It cannot be read.
        """
        first, *rest = text.split()
        time = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", first)
        entries: dict[str, Any] = dict(item.partition("=")[::2] for item in rest)
        if time is None or set(entries) - set(cls.__dataclass_fields__):
            raise PlanProblem(
                f"a stub is described as '{text}'", where="--stub", do="write e.g. --stub 20ms, or '20ms rows=16'"
            )
        for name in ("rows", "writes"):
            if name in entries:
                entries[name] = int(entries[name])
        return cls(float(time[1]) / (1000 if time[2] == "ms" else 1), **entries)


@dataclass(frozen=True)
class Served:
    """A name, and where its model comes from: a run folder, a registry that is followed, or a stub."""

    name: str
    run: Path | None = None
    registry: Path | None = None  # folder; the model's name there is `name`
    stub: Stub | None = None


@dataclass(frozen=True)
class Limits:
    """How rows wait and go together."""

    batch_tokens: int = 4096  # most tokens in a batch, padding included; estimated before, exact in the worker
    batch_rows: int = 16
    wait_seconds: float = 0.005  # that a row waits for others while a worker is free
    queue_rows: int = 512  # rows that wait, beyond which requests are refused
    standing_batches: float = 2.0  # a queue that stands may hold this many batches for each worker; 0: `queue_rows`
    burst_seconds: float = 0.5  # a queue that formed less than this ago may hold `queue_rows`


@dataclass(frozen=True)
class CanaryRules:
    """When a canary is taken back."""

    most_errors: float = 0.01  # share of its requests
    least_requests: int = 50  # before the share of errors counts
    slower: float = 2.0  # times the live version's 99th percentile
    least_timed: int = 200  # requests of each before times are compared


@dataclass(frozen=True)
class PoolSettings:
    """How the pool works."""

    workers: int = 1
    threads: int = 0  # of one worker; 0: all cores but one, shared out among the workers
    engine: str = "auto"  # what answers: torch, onnx, openvino, or as exported
    device: str = "auto"  # for torch: cpu, cuda, or what is there
    limits: Limits = field(default_factory=Limits)
    streams: int = 2  # answers that one worker writes piece by piece at once
    hang_seconds: float = 20.0  # of a batch, or for a stream's next piece, after which a worker is replaced; below
    # the time that a request has, so that what was batched with the culprit can be asked again
    load_seconds: float = 600.0
    recycle_requests: int = 0  # batches after which a worker is replaced; 0: never
    recycle_mib: int = 0  # memory above which it is replaced; 0: never
    follow_seconds: float = 1.0  # how often the registries are asked
    canary: CanaryRules = field(default_factory=CanaryRules)
    kind: Literal["processes", "threads"] = "processes"  # threads: in this process, for tests and other supervisors
    verify: bool = True  # whether the files' hashes are compared when a model is loaded


def as_message(noun: Stub) -> Mapping[str, Any]:
    """Give a stub as what is sent to a worker."""
    found: Mapping[str, Any] = to_json(noun)
    return found


def stub_of(message: Mapping[str, Any]) -> Stub:
    """Give back what `as_message` made."""
    found: Stub = from_json(Stub, message)
    return found

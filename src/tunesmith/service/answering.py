"""What the HTTP side asks of the side that runs models. The one seam inside the service.

`service/app` and its routes know only this; `service/pool` keeps it with worker processes. Tests give the routes an
answering of their own, and the Ray application gives one that runs in the replica.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from tunesmith.types import Prediction

Input = str | Mapping[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """One name that can be asked."""

    name: str
    task: str
    labels: tuple[str, ...]
    bundle: str  # id of the live bundle
    version: int  # in the registry; 0 where it was named by folder
    run: Path
    state: Literal["loading", "ready", "failed"]
    reason: str = ""  # why it failed
    engine: str = "torch"
    base: str = ""  # sha256 of the base model that several adapters share; empty where the model is whole
    can_stream: bool = False  # it answers in words, piece by piece
    is_causal: bool = False  # it can be asked by the OpenAI routes
    inputs: tuple[str, ...] = ("text",)  # the roles an input has


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    predictions: tuple[Prediction, ...]  # in the order of the inputs
    bundle: str  # id of the bundle that answered; a canary's may differ from the live one
    version: int
    observed: tuple[Mapping[str, Any], ...] = ()  # for each input: tokens, unknown_tokens, perhaps an embedding
    rows_in_batch: int = 1
    waited_seconds: float = 0.0  # in the queue


@dataclass(frozen=True)
class Load:
    """How busy it is, now and so far; what /metrics and the autoscaler read."""

    waiting_rows: int
    running_rows: int
    in_flight_requests: int
    capacity_rows: int  # waiting rows beyond which requests are refused
    workers: int
    workers_ready: int
    restarts: int  # workers that died or hung, and were replaced
    batches: Mapping[int, int] = field(default_factory=dict)  # rows in a batch -> how often


class Answering(Protocol):
    """Runs the served models."""

    async def start(self) -> None:
        """Begin to load; returns before the models are ready."""

    async def stop(self, *, seconds: float) -> None:
        """Take nothing new, finish what was accepted within `seconds`, then end the workers."""

    def models(self) -> Mapping[str, ServedModel]:
        """Give what is served, by name."""

    def load_now(self) -> Load:
        """Give how busy it is."""

    def busy_for(self, let_in: int = 0) -> float:
        """Give after how many seconds asking is worth it; 0 where a request would be let in now. Must cost nothing.

        Args:
            let_in: Requests that were let in and have no answer yet, whether or not they have come as far as here.
        """

    async def answer(
        self, name: str, inputs: Sequence[Input], *, options: Mapping[str, Any], seconds: float, sticky: str = ""
    ) -> Answer:
        """Answer one request's inputs, all or none.

        Args:
            name: Of a served model.
            inputs: As `Bundle.predict` takes them.
            options: Of the task, for this request alone.
            seconds: After which it gives up.
            sticky: Whoever asks with the same word is answered by the same version while a canary runs.

        Raises:
            NoSuchModel, NotReady, Busy, TooSlow, WorkerLost, BadInput: See `service/refusals`.
            asyncio.CancelledError: The client left; rows that wait are taken out of the queue.
        """

    def stream(
        self, name: str, given: Input, *, options: Mapping[str, Any], seconds: float, sticky: str = ""
    ) -> AsyncIterator[str]:
        """Yield an answer in words piece by piece. Raises as `answer` does; closing it stops the writing."""

    async def load(self, name: str, run: Path) -> ServedModel:
        """Serve one more run, or another one under a name that is there: the old one answers until the new one can."""

    async def unload(self, name: str) -> None:
        """Stop serving a name; what it was asked before is still answered."""

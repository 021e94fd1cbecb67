"""A model in the process that runs it: opened, asked, and let go. All that a worker knows of bundles is here."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.errors import BundleProblem, DataProblem, PlanProblem
from tunesmith.service.pool_settings import Stub, stub_of
from tunesmith.types import to_json

if TYPE_CHECKING:
    from tunesmith.bundle.load import Bundle
    from tunesmith.models.shared_weights import SharedWeights
    from tunesmith.types import Record

_LEAST_ECHO = 6  # characters of an input that must not come back in an error


class Loaded(Protocol):
    """What a worker asks."""

    def facts(self) -> dict[str, Any]:
        """Give what the service says of it, see `ServedModel`."""

    def probe(self) -> None:
        """Answer something, so that whoever asks next finds it warm; raises what is wrong with it."""

    def answer(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Give for each input its prediction and what was observed, or `bad`: why it cannot be used."""

    def stream(self, given: Any, options: Mapping[str, Any]) -> Iterator[str]:
        """Yield the answer to one input piece by piece; raises DataProblem or PlanProblem where it cannot be used."""


def open_model(message: Mapping[str, Any], weights: SharedWeights | None) -> Loaded:
    """Open what a message asks for.

    Args:
        message: `run` (folder) with `engine`, `threads`, `device` and `verify`; or `stub`.
        weights: What other models here hold; None shares nothing.

    Raises:
        TunesmithError: It is missing, unfinished, damaged, or does not fit.
    """
    if message.get("stub"):
        return LoadedStub(stub_of(message["stub"]))
    return LoadedBundle(message, weights)


class LoadedBundle:
    """A run that answers."""

    def __init__(self, message: Mapping[str, Any], weights: SharedWeights | None) -> None:
        from tunesmith.bundle.load import load

        self.bundle: Bundle = load(
            message["run"],
            verify=bool(message.get("verify", True)),
            engine=str(message.get("engine") or "auto"),
            threads=message.get("threads") or None,
        )
        model = self.bundle.model
        delta = self.bundle.facts.get("delta") or {}
        self._is_delta = bool(delta) and not delta["merged"]
        self._base = str(delta.get("base_sha256", "")) if self._is_delta else ""
        if self.bundle.exported is None:
            self._demand_own_weights(model)
            place_model(model, str(message.get("device") or "auto"))
            model.requires_grad_(False)
            if weights is not None:
                weights.share(model)

    def _demand_own_weights(self, model: Any) -> None:
        drawn = [] if self._is_delta else list(getattr(model, "drawn", ()))
        if drawn:  # Transformers draws what does not fit anew, and would answer with that
            raise BundleProblem(
                f"the weights do not fit this run's configuration: {', '.join(drawn[:3])}",
                where=str(self.bundle.path),
                do="restore the run folder from a copy, or train again",
            )

    def facts(self) -> dict[str, Any]:
        """Give what the service says of it."""
        bundle, task = self.bundle, self.bundle.task
        can_stream = hasattr(task, "stream") and bundle.exported is None
        is_causal = can_stream and not bool(getattr(bundle.model.config, "is_encoder_decoder", False))
        return {
            "task": task.name,
            "labels": list(bundle.labels),
            "bundle": bundle.id,
            "engine": "torch" if bundle.exported is None else bundle.exported.engine,
            "base": self._base,
            "can_stream": can_stream,
            "is_causal": is_causal,
            "inputs": list(task.forms[0].inputs),
            "remark": bundle.remark,
        }

    def probe(self) -> None:
        """Answer a made-up input.

        Raises:
            BundleProblem: The answer has numbers that are not finite.
        """
        record = self._made_up()
        if record is None:
            return
        options = {"max_new_tokens": 2} if "max_new_tokens" in self.bundle.task.options else {}
        answers = self.bundle.answer([record], **options)
        for prediction in self.bundle.decoded(answers, 0.0):
            numbers = [prediction.confidence, *prediction.alternatives.values()]
            if any(number is not None and not math.isfinite(number) for number in numbers):
                raise BundleProblem(
                    "it answers with numbers that are not finite", where=str(self.bundle.path), do="train again"
                )

    def _made_up(self) -> Record | None:
        """Give an input of the task's form; None where none of ours fits it."""
        roles = list(self.bundle.task.forms[0].inputs)
        fitting: tuple[Any, ...] = ("one", ["one", "two"], [{"role": "user", "content": "one"}])
        for values in itertools.product(fitting, repeat=min(len(roles), 3)):
            given = dict(zip(roles, itertools.chain(values, itertools.repeat("one")), strict=False))
            try:
                return self.bundle.record(given)
            except (DataProblem, TypeError):
                continue
        return None

    def answer(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Answer inputs; one that cannot be used has its reason in place of an answer, and does not stop the others."""
        found: list[dict[str, Any]] = [{} for _ in inputs]
        records, places = [], []
        for place, given in enumerate(inputs):
            try:
                self._demand_known(options)
                records.append(self.bundle.record(given, place + 1))
                places.append(place)
            except (DataProblem, PlanProblem, TypeError) as error:
                found[place] = {"bad": bad_input(error, given)}
        if not records:
            return found
        start = time.perf_counter()
        try:
            examples = self.bundle.encode(records, **options)
            answers = self.bundle.answer_encoded(examples, **options)
        except PlanProblem as error:  # an option with a value that this model cannot take
            return [each or {"bad": bad_input(error, "")} for each in found]
        predictions = self.bundle.decoded(answers, (time.perf_counter() - start) / len(records))
        observed = self._observed(examples, len(records))
        for place, prediction, seen in zip(places, predictions, observed, strict=True):
            found[place] = {"prediction": to_json(prediction), "observed": seen}
        return found

    def _demand_known(self, options: Mapping[str, Any]) -> None:
        known = self.bundle.task.options
        if strange := [name for name in options if name not in known]:
            raise PlanProblem(
                f"this model has no option of that name among {len(strange)} given",
                where="options",
                do=f"its options are: {', '.join(known) or 'none'}",
            )

    def _observed(self, examples: Sequence[Any], count: int) -> list[dict[str, Any]]:
        """Give for each record how many tokens it has, and how many of them the vocabulary lacks."""
        from tunesmith.tasks.base import windows

        unknown = getattr(self.bundle.tokenizer, "unk_token_id", None)
        groups = list(windows(examples))
        if len(groups) != count:  # a task that asks the model several times for one record
            return [{} for _ in range(count)]
        found = []
        for group in groups:
            ids = [token for place in group for token in examples[place].tokens]
            seen = {"tokens": len(ids)}
            found.append(seen if unknown is None else {**seen, "unknown_tokens": ids.count(unknown)})
        return found

    def stream(self, given: Any, options: Mapping[str, Any]) -> Iterator[str]:
        """Yield an answer in words piece by piece."""
        self._demand_known(options)
        yield from self.bundle.stream(given, **options)


class LoadedStub:
    """What stands for a model; see `Stub`."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub

    def facts(self) -> dict[str, Any]:
        """Give what the service says of it."""
        can_stream = self.stub.writes > 0
        return {
            "task": "text-generation" if can_stream else "text-classification",
            "labels": [] if can_stream else [self.stub.value],
            "bundle": f"stub-{self.stub.value}",
            "engine": "stub",
            "base": "",
            "can_stream": can_stream,
            "is_causal": can_stream,
            "inputs": ["text"],
            "remark": "",
        }

    def probe(self) -> None:
        """Do nothing."""

    def answer(self, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take the time that it takes, or fail as it was told to."""
        stub = self.stub
        texts = [str(given if isinstance(given, str) else given.get("text", "")) for given in inputs]
        self._fail(" ".join(texts))
        time.sleep(stub.seconds * math.ceil(len(texts) / stub.rows))
        return [self._answered(text) for text in texts]

    def _fail(self, text: str) -> None:
        stub = self.stub
        if stub.crashes_on and stub.crashes_on in text:
            os._exit(139)  # as a segmentation fault ends it
        if stub.hangs_on and stub.hangs_on in text:
            time.sleep(10**6)
        if stub.fails_on and stub.fails_on in text:
            raise RuntimeError("the stub was told to fail")

    def _answered(self, text: str) -> dict[str, Any]:
        prediction = {
            "id": os.urandom(16).hex(),
            "value": self.stub.value,
            "confidence": 1.0,
            "alternatives": {self.stub.value: 1.0},
            "seconds": self.stub.seconds,
            "bundle": f"stub-{self.stub.value}",
        }
        return {"prediction": prediction, "observed": {"tokens": len(text.split()), "unknown_tokens": 0}}

    def stream(self, given: Any, options: Mapping[str, Any]) -> Iterator[str]:
        """Write words."""
        self._fail(str(given))
        for number in range(self.stub.writes):
            time.sleep(self.stub.seconds)
            yield f"{self.stub.value}{number} "


def place_model(model: Any, device: str) -> None:
    """Put a torch module where it is to run: `auto` is the first GPU where there is one."""
    import torch

    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if wanted != "cpu":
        model.to(wanted)


def bad_input(error: Exception, given: Any) -> dict[str, str]:
    """Say what is wrong with an input without repeating any of it."""
    if isinstance(error, TypeError):
        return {"what": "an input is a text, or an object with the task's fields", "do": "see GET /v1/models"}
    what, do = str(getattr(error, "what", "it cannot be read")), str(getattr(error, "do", ""))
    if any(_echoes(part, what) for part in _texts(given)):
        what = "this input cannot be read as what the task asks for"
    return {"what": what, "do": do}


def _echoes(part: str, what: str) -> bool:
    """Whether a stretch of an input stands in a message."""
    return len(part) >= _LEAST_ECHO and any(
        part[start : start + _LEAST_ECHO] in what for start in range(min(len(part), 300) - _LEAST_ECHO + 1)
    )


def _texts(given: Any) -> Iterator[str]:
    waiting = [given]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item.strip()
        elif isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            waiting += item
        elif item is not None:
            yield str(item)

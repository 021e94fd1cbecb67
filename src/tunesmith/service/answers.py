"""From a request to answers and back, for every route that asks a model: limits, asking, keeping, watching."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from tunesmith.data.feedback import Answered
from tunesmith.service.answering import Answer, Input, ServedModel
from tunesmith.service.keys import Caller
from tunesmith.service.limits import demand_few
from tunesmith.service.parts import Parts
from tunesmith.service.problems import HttpProblem
from tunesmith.service.watching import Heard, Seen
from tunesmith.types import Prediction, to_json


@dataclass(frozen=True)
class Asked:
    """One request to one model."""

    model: ServedModel
    inputs: Sequence[Input]
    options: Mapping[str, Any]
    caller: Caller
    subject: str = ""


def parts_of(request: Request) -> Parts:
    """Give the parts of the service that a request came to."""
    found: Parts = request.app.state.parts
    return found


async def ask(parts: Parts, asked: Asked, request: Request) -> Answer:
    """Answer inputs, keep the answers, and show them to the monitor.

    Raises:
        HttpProblem: A limit is passed.
        Refusal: See `service/refusals`.
    """
    settings, model = parts.settings, asked.model
    _demand_allowed(parts, asked)
    try:
        answer = await parts.answering.answer(
            model.name, asked.inputs, options=asked.options, seconds=settings.timeout_seconds, sticky=asked.subject
        )
    except Exception as error:
        if parts.watcher is not None:
            parts.watcher.hear(Heard(model.name, model.bundle, code=str(getattr(error, "code", "internal"))))
        raise
    told = request.scope["state"]["told"]
    told |= {
        "model": model.name,
        "version": answer.version,
        "rows": len(asked.inputs),
        "batch_rows": answer.rows_in_batch,
    }
    parts.meters.predictions.labels(model.name, str(answer.version)).inc(len(answer.predictions))
    parts.meters.waited.labels(model.name).observe(answer.waited_seconds)
    after(parts, asked, answer)
    return answer


def after(parts: Parts, asked: Asked, answer: Answer) -> None:
    """Keep what was answered and show it to the monitor: both off the request path."""
    if parts.keeper is not None:
        now = time.time()
        parts.keeper.keep(
            [
                Answered(
                    prediction=prediction.id,
                    model=asked.model.name,
                    bundle=answer.bundle,
                    fields=fields_of(given, asked.model),
                    value=prediction.value,
                    confidence=prediction.confidence,
                    at=now,
                    subject=asked.subject,
                    tenant=asked.caller.tenant,
                )
                for given, prediction in zip(asked.inputs, answer.predictions, strict=True)
            ]
        )
    if parts.watcher is not None:
        observed = answer.observed or ({},) * len(answer.predictions)
        parts.watcher.show(
            [
                Seen(asked.model.name, answer.bundle, answer.version, given, prediction, seen)
                for given, prediction, seen in zip(asked.inputs, answer.predictions, observed, strict=False)
            ]
        )


async def pieces(parts: Parts, asked: Asked) -> AsyncIterator[str]:
    """Begin an answer that comes piece by piece; returns when the first piece is there, so that refusals have a status.

    Raises:
        HttpProblem: The model cannot, or a limit is passed.
        Refusal: See `service/refusals`.
    """
    if not asked.model.can_stream:
        raise HttpProblem(
            422,
            "cannot_stream",
            "this model answers at once",
            do="ask without stream, or another model",
            where="stream",
        )
    if len(asked.inputs) != 1:
        raise HttpProblem(422, "one_input", "a stream answers one input", do="send one", where="inputs")
    _demand_allowed(parts, asked)
    coming = parts.answering.stream(
        asked.model.name,
        asked.inputs[0],
        options=asked.options,
        seconds=parts.settings.stream_seconds,
        sticky=asked.subject,
    )
    try:
        first = await anext(coming)
    except StopAsyncIteration:
        first = ""

    async def rest() -> AsyncIterator[str]:
        try:
            yield first
            async for piece in coming:
                yield piece
        finally:
            if close := getattr(coming, "aclose", None):
                await close()

    return rest()


def finished(parts: Parts, asked: Asked, text: str, seconds: float) -> Answer:
    """Give what was streamed as an answer, kept and shown like any other."""
    model = asked.model
    prediction = Prediction(uuid.uuid4().hex, text, None, {}, seconds, model.bundle)
    answer = Answer((prediction,), model.bundle, model.version)
    parts.meters.predictions.labels(model.name, str(model.version)).inc()
    after(parts, asked, answer)
    return answer


def shown(prediction: Prediction, alternatives: int = 5) -> dict[str, Any]:
    """Give one answer as clients read it."""
    best = list(prediction.alternatives.items())[:alternatives]
    return {
        "id": prediction.id,
        "value": to_json(prediction.value),
        "confidence": prediction.confidence,
        "alternatives": dict(best),
        "seconds": round(prediction.seconds, 6),
    }


def fields_of(given: Input, model: ServedModel) -> dict[str, Any]:
    """Give an input by role."""
    return {model.inputs[0] if model.inputs else "text": given} if isinstance(given, str) else dict(given)


def json_response(content: Any, status: int = 200) -> Response:
    """Give content as JSON; a number that is not finite, which JSON has no word for, is null."""
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _demand_allowed(parts: Parts, asked: Asked) -> None:
    demand_few(asked.inputs, parts.settings)
    most = parts.settings.max_new_tokens
    if int(asked.options.get("max_new_tokens", 0)) > most:
        raise HttpProblem(
            422,
            "too_many_tokens",
            f"an answer may be asked for {most} tokens",
            do="ask for fewer",
            where="options.max_new_tokens",
            param="max_tokens",
        )
    needed = asked.model.inputs
    for place, given in enumerate(asked.inputs):
        if isinstance(given, str) and len(needed) > 1:
            raise HttpProblem(
                422,
                "bad_input",
                f"this model reads {', '.join(needed)}: a text alone is not enough",
                do="send an object with these fields",
                where=f"inputs[{place}]",
            )

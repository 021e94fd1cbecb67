"""Ask a model: POST /v1/models/{name}:predict, at once or piece by piece."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response

from tunesmith.service.access import MayPredict
from tunesmith.service.answers import Asked, ask, finished, json_response, parts_of, pieces, shown
from tunesmith.service.events import EVENTS, event, event_stream
from tunesmith.service.examples import PREDICT
from tunesmith.service.parts import Parts
from tunesmith.service.problems import problem_of, unforeseen
from tunesmith.service.schemas import PredictReply, PredictRequest

_OPENAPI = {"requestBody": {"content": {"application/json": {"examples": PREDICT}}}}


def add_routes(app: FastAPI) -> None:
    """Add the route."""

    @app.post(
        "/v1/models/{name:model}:predict",
        tags=["predict"],
        summary="Answer inputs",
        response_model=PredictReply,
        responses={200: {"content": EVENTS, "description": "Answers, or with stream: true their pieces."}},
        openapi_extra=_OPENAPI,
    )
    async def predict(name: str, body: PredictRequest, request: Request, caller: MayPredict) -> Response:
        """Answer one input or many. With `stream`, pieces come as events and the last event, `done`, is the answer."""
        parts = parts_of(request)
        inputs = body.inputs if isinstance(body.inputs, list) else [body.inputs]
        options = body.options.model_dump(exclude_none=True) if body.options else {}
        asked = Asked(parts.ready_model(name), inputs, options, caller, body.subject)
        if body.stream:
            started = time.perf_counter()
            return event_stream(_events(parts, asked, await pieces(parts, asked), started, request))
        answer = await ask(parts, asked, request)
        return json_response(
            {
                "predictions": [shown(prediction, body.alternatives) for prediction in answer.predictions],
                "model": name,
                "version": answer.version,
                "bundle": answer.bundle,
            }
        )


async def _events(
    parts: Parts, asked: Asked, coming: AsyncIterator[str], started: float, request: Request
) -> AsyncIterator[bytes]:
    """Give the pieces, then the whole; a failure on the way is an event `error`, because the status was sent before."""
    told: list[str] = []
    try:
        async for piece in coming:
            told.append(piece)
            yield event({"piece": piece})
    except Exception as error:
        yield event(_failure(parts, error, request), "error")
        return
    seconds = time.perf_counter() - started
    answer = finished(parts, asked, "".join(told), seconds)
    request.scope["state"]["told"] |= {"model": asked.model.name, "version": answer.version, "rows": 1}
    whole = {"model": asked.model.name, "version": answer.version, "bundle": answer.bundle}
    yield event({"predictions": [shown(answer.predictions[0])], **whole}, "done")


def _failure(parts: Parts, error: Exception, request: Request) -> dict[str, Any]:
    request_id = request.scope["state"]["request_id"]
    problem = problem_of(error)
    if problem is None:
        parts.log.fault(error, request_id=request_id)
        problem = unforeseen()
    return problem.content(request_id=request_id, path=request.scope["path"])

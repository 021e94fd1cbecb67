"""What is served: GET /v1/models, in the shape that OpenAI's clients read, with more beside it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response

from tunesmith.service.access import AnyKey, MayAdmin
from tunesmith.service.answering import ServedModel
from tunesmith.service.answers import json_response, parts_of
from tunesmith.service.keys import Caller
from tunesmith.service.problems import HttpProblem
from tunesmith.service.schemas import ModelList, ModelShape


def add_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/v1/models", tags=["models"], summary="List the models", response_model=ModelList)
    async def list_models(request: Request, caller: AnyKey) -> Response:
        """Give every served model with its task, labels, fields and state."""
        models = parts_of(request).answering.models().values()
        return json_response({"object": "list", "data": [shape(model, caller) for model in models]})

    @app.get("/v1/models/{name:model}", tags=["models"], summary="Describe a model", response_model=ModelShape)
    async def get_model(name: str, request: Request, caller: AnyKey) -> Response:
        """Give one served model."""
        return json_response(shape(parts_of(request).model(name), caller))

    @app.get(
        "/v1/models/{name:model}/monitor",
        tags=["models"],
        summary="What the monitor sees",
        response_model=dict[str, Any],
    )
    async def monitor(name: str, request: Request, _: MayAdmin) -> Response:
        """Give counts, drift scores, accuracy on feedback and alerts of the live version."""
        parts = parts_of(request)
        model = parts.model(name)
        report = parts.watcher.report(model.name) if parts.watcher is not None else None
        if report is None:
            raise HttpProblem(404, "not_watched", "nothing was asked of this model yet, or it is not watched")
        return json_response(report)


def shape(model: ServedModel, caller: Caller) -> dict[str, Any]:
    """Give a model as clients read it; why it failed names folders, and is for admins."""
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "tunesmith",
        "task": model.task,
        "labels": list(model.labels),
        "inputs": list(model.inputs),
        "bundle": model.bundle,
        "version": model.version,
        "state": model.state,
        "reason": model.reason if caller.may("admin") else "",
        "engine": model.engine,
        "base": model.base,
        "can_stream": model.can_stream,
        "is_causal": model.is_causal,
    }

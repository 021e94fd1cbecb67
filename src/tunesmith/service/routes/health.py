"""Whether it lives, whether it should be sent requests, what is here. The first two need no key: probes have none."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from tunesmith.service.access import AnyKey, NoKey
from tunesmith.service.answers import json_response, parts_of
from tunesmith.service.meters import CONTENT_TYPE
from tunesmith.service.parts import Parts
from tunesmith.service.schemas import Status


def add_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/livez", tags=["health"], summary="Whether it lives", response_model=Status)
    async def livez(_: NoKey) -> Response:
        """Answer as long as the process can."""
        return json_response({"status": "alive"})

    @app.get(
        "/readyz",
        tags=["health"],
        summary="Whether to send requests",
        response_model=Status,
        responses={503: {"model": Status, "description": "Not now."}},
    )
    async def readyz(request: Request, _: NoKey) -> Response:
        """Answer 200 when the models answer, 503 while they load and when the service is about to end."""
        status = readiness(parts_of(request))
        return json_response({"status": status}, 200 if status == "ready" else 503)

    @app.get("/metrics", tags=["health"], summary="Metrics for Prometheus", response_class=Response)
    async def metrics(request: Request, _: AnyKey) -> Response:
        """Give counts, times and states in Prometheus' text format."""
        return Response(parts_of(request).meters.text(), headers={"content-type": CONTENT_TYPE})

    @app.get("/", tags=["health"], summary="What is here", response_model=dict[str, str])
    async def index(_: AnyKey) -> Response:
        """Name the paths to begin with."""
        return json_response({"models": "/v1/models", "openapi": "/openapi.json", "metrics": "/metrics"})

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(_: AnyKey) -> Response:
        """Give the OpenAPI document."""
        return json_response(app.openapi())


def readiness(parts: Parts) -> str:
    """Give ready, or why not: draining, loading, or failed where no model can answer."""
    if parts.is_draining:
        return "draining"
    states = [model.state for model in parts.answering.models().values()]
    if not parts.has_started:
        if "loading" in states:
            return "loading"
        parts.has_started = True
    if states and "ready" not in states:
        return "loading" if "loading" in states else "failed"
    return "ready" if parts.answering.load_now().workers_ready else "loading"

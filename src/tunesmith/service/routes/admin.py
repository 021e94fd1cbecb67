"""Change what is served: load, unload, reload, promote, roll back, canary, shadow, drain. For keys with the role admin.

Folders are never named by path: a run is named by its folder's name in the one folder that the operator opened for
this, or by its version in the registry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response

from tunesmith.bundle.names import check_name
from tunesmith.errors import RegistryProblem, TunesmithError
from tunesmith.service.access import MayAdmin
from tunesmith.service.answers import json_response, parts_of
from tunesmith.service.parts import Parts
from tunesmith.service.problems import HttpProblem
from tunesmith.service.routes.health import readiness
from tunesmith.service.routes.models import shape
from tunesmith.service.schemas import (
    CanaryRequest,
    DrainRequest,
    LoadRequest,
    ModelShape,
    Status,
    Traffic,
    VersionRequest,
)

Found = TypeVar("Found")


def add_routes(app: FastAPI) -> None:
    """Add the routes."""
    _add_loading(app)
    _add_registry(app)

    @app.post("/v1/admin/drain", tags=["admin"], summary="Ask for no more requests", response_model=Status)
    async def drain(body: DrainRequest, request: Request, _: MayAdmin) -> Response:
        """Let /readyz say 503, so that load balancers send nothing more; what comes is answered all the same."""
        parts = parts_of(request)
        parts.is_draining = body.draining
        return json_response({"status": readiness(parts)})


def _add_loading(app: FastAPI) -> None:
    @app.post("/v1/admin/models", tags=["admin"], summary="Serve one more model", response_model=ModelShape)
    async def load_model(body: LoadRequest, request: Request, caller: MayAdmin) -> Response:
        """Load a run under a name; a name that is there goes on answering with the old run until the new one can."""
        parts = parts_of(request)
        try:
            check_name(body.name)
        except RegistryProblem as problem:
            what = "a model cannot have this name"
            raise HttpProblem(422, "bad_name", what, do=problem.do, where="name") from problem
        run = await _in_thread(lambda: _find_run(parts, body))
        with _told():
            model = await parts.answering.load(body.name, run)
        return json_response(shape(model, caller))

    @app.post("/v1/admin/models/{name:model}:reload", tags=["admin"], summary="Load anew", response_model=ModelShape)
    async def reload_model(name: str, request: Request, caller: MayAdmin) -> Response:
        """Load the run of a served model again, e.g. after an export; the old one answers until the new one can."""
        parts = parts_of(request)
        with _told():
            model = await parts.answering.load(name, parts.model(name).run)
        return json_response(shape(model, caller))

    @app.delete("/v1/admin/models/{name:model}", tags=["admin"], summary="Stop serving", response_model=Status)
    async def unload_model(name: str, request: Request, _: MayAdmin) -> Response:
        """Stop serving a model; what it was asked before is still answered."""
        parts = parts_of(request)
        await parts.answering.unload(parts.model(name).name)
        return json_response({"status": "unloaded"})


def _add_registry(app: FastAPI) -> None:
    @app.get("/v1/admin/models/{name:model}/traffic", tags=["admin"], summary="Who answers", response_model=Traffic)
    async def traffic(name: str, request: Request, _: MayAdmin) -> Response:
        """Tell which versions answer under a name."""
        return await _traffic(parts_of(request), name)

    @app.post("/v1/admin/models/{name:model}:promote", tags=["admin"], summary="Promote", response_model=Traffic)
    async def promote(name: str, body: VersionRequest, request: Request, _: MayAdmin) -> Response:
        """Make a version the live one, if it did not fail its gate. The service follows within seconds."""
        return await _changed(parts_of(request), name, lambda registry: registry.promote(name, body.version))

    @app.post("/v1/admin/models/{name:model}:rollback", tags=["admin"], summary="Roll back", response_model=Traffic)
    async def rollback(name: str, request: Request, _: MayAdmin) -> Response:
        """Make the version live again that was live before; canary and shadow end."""
        return await _changed(parts_of(request), name, lambda registry: registry.rollback(name))

    @app.post("/v1/admin/models/{name:model}:canary", tags=["admin"], summary="Set a canary", response_model=Traffic)
    async def canary(name: str, body: CanaryRequest, request: Request, _: MayAdmin) -> Response:
        """Let a version answer a share of the requests."""
        parts = parts_of(request)
        return await _changed(parts, name, lambda registry: registry.set_canary(name, body.version, body.share))

    @app.post("/v1/admin/models/{name:model}:shadow", tags=["admin"], summary="Set a shadow", response_model=Traffic)
    async def shadow(name: str, body: VersionRequest, request: Request, _: MayAdmin) -> Response:
        """Let a version be asked beside the live one; its answers are only counted."""
        return await _changed(parts_of(request), name, lambda registry: registry.set_shadow(name, body.version))

    @app.post("/v1/admin/models/{name:model}:clear", tags=["admin"], summary="End the trial", response_model=Traffic)
    async def clear(name: str, request: Request, _: MayAdmin) -> Response:
        """End canary and shadow."""
        return await _changed(parts_of(request), name, lambda registry: registry.clear(name))


async def _changed(parts: Parts, name: str, change: Callable[[Any], Any]) -> Response:
    await _in_thread(lambda: _known(parts, name))
    await _in_thread(lambda: change(parts.registry))
    return await _traffic(parts, name)


async def _traffic(parts: Parts, name: str) -> Response:
    def read() -> Any:
        _known(parts, name)
        return parts.registry.traffic(name)

    found = await _in_thread(read)
    numbers = {who: getattr(getattr(found, who), "number", None) for who in ("live", "canary", "shadow")}
    return json_response({"model": name, **numbers, "canary_share": found.canary_share})


def _known(parts: Parts, name: str) -> None:
    if name not in parts.registry.names():
        raise HttpProblem(404, "no_such_model", "no model of this name is registered", do="tunesmith registry list")


def _find_run(parts: Parts, body: LoadRequest) -> Path:
    """Give the run folder that is meant.

    Raises:
        HttpProblem: Both or neither are named, or there is no such run.
    """
    if bool(body.run) == bool(body.version):
        raise HttpProblem(422, "bad_request", "name a run or a version", do="send run, or version", where="body")
    if body.version:
        _known(parts, body.name)
        return parts.registry.version(body.name, body.version).run
    folder = parts.settings.runs_folder
    if folder is None:
        raise HttpProblem(403, "no_runs", "this service loads no runs by name", do="start it with --runs-folder FOLDER")
    # The name is looked for among those that are there; it is never joined to a path.
    found = (
        next((place for place in sorted(folder.iterdir()) if place.name == body.run), None) if folder.is_dir() else None
    )
    if found is None or found.is_symlink() or not (found / "manifest.json").is_file():
        raise HttpProblem(
            404, "no_such_run", "there is no finished run of this name", do="name a run folder", where="run"
        )
    return found


@contextmanager
def _told() -> Iterator[None]:
    """Tell admins what is wrong: they may know of folders."""
    try:
        yield
    except RegistryProblem as problem:
        raise HttpProblem(409, "registry", problem.what, do=problem.do) from problem
    except TunesmithError as problem:
        raise HttpProblem(409, "cannot_load", problem.what, do=problem.do) from problem


async def _in_thread(do: Callable[[], Found]) -> Found:
    with _told():
        return await asyncio.to_thread(do)

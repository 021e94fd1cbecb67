"""The app: guard, routes, errors, start and end. Any ASGI server may run it; ours is in `listen`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException

from tunesmith import __version__
from tunesmith.bundle.registry import Registry
from tunesmith.data.feedback import open_store
from tunesmith.data.mask import Masker
from tunesmith.errors import TunesmithError
from tunesmith.service import openai_schemas, schemas
from tunesmith.service.access import Access, demand_roles
from tunesmith.service.answering import Answering
from tunesmith.service.guard import Guard
from tunesmith.service.keeping import Keeper
from tunesmith.service.keys import Keys
from tunesmith.service.limits import RateLimit
from tunesmith.service.logs import Log
from tunesmith.service.meters import Meters
from tunesmith.service.openapi import describe
from tunesmith.service.parts import Parts
from tunesmith.service.problems import OPENAI_PATHS, HttpProblem, known_places, problem_of, unforeseen
from tunesmith.service.routes import admin, feedback, health, models, openai, predict
from tunesmith.service.settings import Settings
from tunesmith.service.watching import Watcher

_ROUTES = (health, models, predict, openai, feedback, admin)
_CARE_SECONDS = 3600.0  # between looks at what is too old and whether a backup is due
_MOST_ISSUES = 5


class _ModelName(StringConvertor):
    """A model's name in a path: it ends before a colon, so that `:predict` is no part of it."""

    regex = "[^/:]+"


register_url_convertor("model", _ModelName())


class _CheckedRequest(Request):
    """A request whose JSON the guard has read already."""

    async def json(self) -> Any:
        """Give it."""
        return self.scope["state"]["json"]


class _CheckedRoute(APIRoute):
    """A route that reads a body once."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Give the handler, with our kind of request."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            found: Response = await handle(_CheckedRequest(request.scope, request.receive))
            return found

        return checked


def make_app(answering: Answering, settings: Settings, *, log: Log | None = None) -> Guard:
    """Give the ASGI app.

    Args:
        answering: Runs the models; started and stopped by the app's lifespan.
        settings: How the service behaves.
        log: Where lines go; else as the settings say.

    Raises:
        StoreProblem: The feedback store cannot be opened, e.g. because it is damaged.
        PlanProblem: A setting is wrong.
    """
    parts = make_parts(answering, settings, log or Log(settings.log))
    app = FastAPI(
        title="Tunesmith",
        version=__version__,
        description="Ask tuned models, and tell them what was right.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(parts),
        redirect_slashes=False,
    )
    app.state.parts = parts
    app.router.route_class = _CheckedRoute
    for room in _ROUTES:
        room.add_routes(app)
    demand_roles(app.routes)
    for kind in (HttpProblem, TunesmithError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    app.openapi = functools.partial(describe, app, app.openapi, needs_keys=settings.needs_keys)  # type: ignore[method-assign]
    return Guard(app, parts)


def make_parts(answering: Answering, settings: Settings, log: Log) -> Parts:
    """Put together what the routes work with."""
    meters = Meters(answering)
    keeper = None
    if settings.keep:
        settings.registry.mkdir(parents=True, exist_ok=True)
        store = open_store(settings.store_url, quota_per_day=settings.feedback_per_day or None)
        keeper = Keeper(
            store,
            Masker(key=settings.mask_key.read_bytes() if settings.mask_key else None),
            log,
            on_dropped=meters.dropped.labels("kept").inc,
            labels=lambda name: answering.models()[name].labels if name in answering.models() else (),
        )
    registry = Registry(settings.registry)
    watcher = None
    if settings.watch:
        watcher = Watcher(settings, answering, registry, log, on_dropped=meters.dropped.labels("watched").inc)
        meters.add_source(watcher.collect)
    return Parts(
        settings=settings,
        answering=answering,
        access=Access(settings, Keys(settings.registry)),
        rates=RateLimit(settings.rate_per_second, settings.rate_burst),
        log=log,
        meters=meters,
        registry=registry,
        keeper=keeper,
        watcher=watcher,
    )


def _lifespan(parts: Parts) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def live(_: FastAPI) -> AsyncIterator[None]:
        await parts.answering.start()
        caring = asyncio.ensure_future(_care(parts, parts.keeper)) if parts.keeper else None
        try:
            yield
        finally:
            parts.is_draining = True
            if caring is not None:
                caring.cancel()
            await parts.answering.stop(seconds=parts.settings.drain_seconds)
            if parts.watcher is not None:
                await asyncio.to_thread(parts.watcher.close)
            if parts.keeper is not None:
                await asyncio.to_thread(parts.keeper.close)

    return live


async def _care(parts: Parts, keeper: Keeper) -> None:
    """Every hour: delete what is older than the retention, and make a backup if one is due."""
    settings = parts.settings
    while True:
        try:
            if settings.retention_days:
                gone = await keeper.purge(settings.retention_days * 86_400)
                erased = await keeper.erase_deleted(parts.registry)
                failed = sum(bool(each.problem) for each in erased)
                parts.log.write(
                    "purged", answers=gone.answers, feedback=gone.feedback, runs=len(erased), not_reached=failed
                )
            if settings.backup_hours and settings.backups is not None:
                made = await keeper.back_up(settings.backups, every_seconds=settings.backup_hours * 3600)
                if made is not None:
                    parts.log.write("backed_up", file=made.name)
        except TunesmithError as problem:
            parts.log.write("care_failed", kind=type(problem).__name__, what=problem.what)
        await asyncio.sleep(_CARE_SECONDS)


async def _refuse(request: Request, error: Exception) -> Response:
    """Give the one body that every refusal has."""
    state = request.scope["state"]
    problem = problem_of(error)
    if isinstance(error, RequestValidationError):
        problem = _invalid(error, request.scope["path"])
    elif isinstance(error, HTTPException):
        problem = _usual(error)
    if problem is None:  # raised again by the framework: the guard tells the log where it came from
        problem = unforeseen()
    state["code"] = problem.code
    body = problem.body(request_id=state["request_id"], path=request.scope["path"])
    return Response(body, problem.status, media_type="application/json", headers=problem.headers)


def _usual(error: HTTPException) -> HttpProblem:
    """Say what the framework refuses: no such path, no such method, a body that is no form."""
    known = {
        404: ("not_found", "there is nothing at this path", "see GET /openapi.json"),
        405: ("wrong_method", "this path does not take this method", "see the header Allow"),
    }
    code, what, do = known.get(
        error.status_code, ("bad_request", "the request cannot be read", "see GET /openapi.json")
    )
    return HttpProblem(
        error.status_code,
        code,
        what,
        do=do,
        allow=(error.headers or {}).get("allow", "") or (error.headers or {}).get("Allow", ""),
    )


def _invalid(error: RequestValidationError, path: str) -> HttpProblem:
    """Say which entries are wrong and how, without what stood there."""
    issues = error.errors()
    told, first = [], ""
    for issue in issues[:_MOST_ISSUES]:
        place = known_places(tuple(issue["loc"][1:]), _NAMES) if issue["loc"] else ""
        first = first or place
        told.append(f"{place or 'body'}: {_MEANINGS.get(issue['type'], issue['msg'])}")
    more = f"; and {len(issues) - _MOST_ISSUES} more" if len(issues) > _MOST_ISSUES else ""
    is_openai = path in OPENAI_PATHS
    return HttpProblem(
        400 if is_openai else 422,
        "invalid_request",
        "; ".join(dict.fromkeys(told)) + more,
        do="see GET /openapi.json",
        where=first,
        param=first.partition(".")[0].partition("[")[0],
    )


_MEANINGS = {"extra_forbidden": "there is no such entry, or it cannot be used here"}


def _entry_names() -> frozenset[str]:
    """Give every entry that a request may have: words of ours, which an error may repeat."""
    names = {"body", "query", "path", "most", "name", "subject", "str", "text"}
    for room in (schemas, openai_schemas):
        for thing in vars(room).values():
            names |= set(getattr(thing, "model_fields", ()))
    return frozenset(names)


_NAMES = _entry_names()

"""Say what was right: POST /v1/feedback, the rows worth labelling, and the deletion of one person's rows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response

from tunesmith.data.feedback.worth import worth_labelling
from tunesmith.service.access import MayAdmin, MayFeedback
from tunesmith.service.answers import json_response, parts_of
from tunesmith.service.examples import FEEDBACK
from tunesmith.service.keeping import Said
from tunesmith.service.problems import HttpProblem
from tunesmith.service.schemas import DeletionReply, FeedbackReply, FeedbackRequest, RowsToLabel, Subject
from tunesmith.service.watching import Heard
from tunesmith.types import to_json

_OPENAPI = {"requestBody": {"content": {"application/json": {"examples": FEEDBACK}}}}


def add_routes(app: FastAPI) -> None:
    """Add the routes."""

    @app.post(
        "/v1/feedback",
        tags=["feedback"],
        summary="Say whether an answer was right",
        response_model=FeedbackReply,
        status_code=201,
        openapi_extra=_OPENAPI,
    )
    async def give_feedback(body: FeedbackRequest, request: Request, caller: MayFeedback) -> Response:
        """Keep what a person says of an answer. It is on the disk when this answers 201."""
        parts = parts_of(request)
        keeper = parts.demand_keeper()
        if body.is_correct is None and body.corrected is None and not body.comment:
            raise HttpProblem(
                422, "empty_feedback", "this says nothing of the answer", do="send is_correct, corrected or comment"
            )
        said = Said(body.prediction, body.is_correct, body.corrected, body.comment, body.subject)
        kept, confidence = await keeper.add(said, by=caller.name, tenant=caller.tenant, sees_all=caller.may("admin"))
        parts.meters.feedback.labels(kept.model).inc()
        request.scope["state"]["told"] |= {"model": kept.model}
        is_correct = _opinion(body, kept.answered)
        if parts.watcher is not None and is_correct is not None:
            parts.watcher.hear(Heard(kept.model, kept.bundle, is_correct, confidence))
        return json_response({"feedback": kept.id, "prediction": kept.prediction, "model": kept.model}, 201)

    @app.get(
        "/v1/models/{name:model}/rows-to-label",
        tags=["feedback"],
        summary="Rows worth labelling",
        response_model=RowsToLabel,
    )
    async def rows_to_label(
        name: str,
        request: Request,
        caller: MayFeedback,
        most: Annotated[int, Query(ge=1, le=200)] = 20,
    ) -> Response:
        """Give answered rows that nobody has said anything of: unsure ones, unlike each other; each text once."""
        parts = parts_of(request)
        model = parts.model(name)
        rows = await parts.demand_keeper().unlabelled(name)
        mine = [row for row in rows if row.tenant == caller.tenant or caller.may("admin")]
        chosen = worth_labelling(mine, most)
        shown = [
            {name: to_json(getattr(row, name)) for name in ("prediction", "fields", "value", "confidence", "at")}
            for row in chosen
        ]
        return json_response({"model": name, "labels": list(model.labels), "rows": shown})

    @app.delete(
        "/v1/subjects/{subject}", tags=["feedback"], summary="Delete a person's rows", response_model=DeletionReply
    )
    async def delete_subject(
        subject: Annotated[Subject, Path(min_length=1)], request: Request, _: MayAdmin
    ) -> Response:
        """Remove every row of one person from the store, its bytes and its backups, and from what bundles keep."""
        parts = parts_of(request)
        gone, erased = await parts.demand_keeper().delete_subject(subject, parts.registry)
        names = ("answers", "feedback", "bundles", "backups", "is_overwritten", "remark")
        changed = [each for each in erased if each.rows]
        versions = [{"model": each.name, "version": each.number, "rows": each.rows} for each in changed if each.name]
        found = {**{name: to_json(getattr(gone, name)) for name in names}, "versions": versions}
        not_reached = sum(bool(each.problem) for each in erased)
        return json_response({**found, "other_runs": len(changed) - len(versions), "not_reached": not_reached})


def _opinion(body: FeedbackRequest, answered: Any) -> bool | None:
    """Whether the answer was right, as far as the feedback says so."""
    if body.is_correct is not None:
        return body.is_correct
    return None if body.corrected is None else bool(body.corrected == answered)

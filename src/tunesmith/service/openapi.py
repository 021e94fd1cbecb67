"""The OpenAPI document: what the routes say of themselves, and what holds for all of them: refusals and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from tunesmith.service.access import OPEN_PATHS
from tunesmith.service.schemas import ErrorReply

REFUSALS = {
    400: "The request cannot be read, or asks for what is not supported.",
    401: "It needs a key.",
    403: "The key may not do this, or the web page may not ask.",
    404: "There is no such thing.",
    405: "The path does not take this method.",
    408: "The request did not arrive in time.",
    409: "The registry or the model refuses this.",
    413: "The body, the inputs or one of them are too large.",
    415: "The body is no plain JSON.",
    421: "The service is not known under the name in Host.",
    422: "An entry is missing, wrong, or not allowed.",
    429: "Too many requests; Retry-After says when to ask again.",
    431: "The headers are too large.",
    500: "A fault of the service.",
    503: "Not now; Retry-After says when to ask again.",
    504: "No answer in the time allowed.",
}
"""Statuses that any route may answer with; the body is always `ErrorReply`."""


def describe(app: FastAPI, plain: Callable[[], dict[str, Any]], *, needs_keys: bool) -> dict[str, Any]:
    """Give the document, made once.

    Args:
        app: Whose routes are described.
        plain: Makes the document without what holds for all routes.
        needs_keys: Whether requests carry a key.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = plain()
    parts = document.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schema = ErrorReply.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    schemas["ErrorReply"] = schema
    for unused in ("HTTPValidationError", "ValidationError"):  # the framework's own form of 422, which is not sent
        schemas.pop(unused, None)
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}}}
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    if needs_keys:
        document["security"] = [{"key": []}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            told = operation["responses"]
            told.pop("422", None)
            for status, meaning in REFUSALS.items():
                told.setdefault(str(status), {"description": meaning, "content": refusal})
            if path in OPEN_PATHS:
                operation["security"] = []
    app.openapi_schema = document
    return document

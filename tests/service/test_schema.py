"""The service keeps to its own OpenAPI document, whatever is sent: no 500, no answer that the document does not know.

Requests are drawn by schemathesis from the document, valid ones and wrong ones, for each operation.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import os
import sys
from collections import Counter
from typing import Any

import hypothesis
import pytest
import schemathesis
from answerings import Service, StubAnswering
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
QUICK = 5  # examples of each operation and mode
MANY = int(os.environ.get("TUNESMITH_FUZZ", "120"))  # of the slow tests: 2,600 make 100,000 requests of both modes
SERVED = ["reviews", "stories", "helpdesk", "pairs"]


class Unchanging(StubAnswering):
    """Serves the same models whatever admins do, so that every example meets the same service."""

    async def load(self, name: str, run: Any) -> Any:
        return dataclasses.replace(self.served["reviews"], name=name)

    async def unload(self, name: str) -> None:
        return None


def schema_of(service: Service) -> Any:
    """Give the schema; where it asks for a model's name it names those that are served, else all would be 404."""
    document = copy.deepcopy(service.app.app.openapi())
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "name":
                    parameter["schema"] = {"type": "string", "enum": SERVED}
    for name in ("ChatRequest", "CompletionRequest"):
        document["components"]["schemas"][name]["properties"]["model"] = {"type": "string", "enum": SERVED}
    service.app.app.openapi_schema = document
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    schema.config.update(base_url="http://127.0.0.1")
    return schema


def fuzz(service: Service, mode: GenerationMode, examples: int) -> Counter[int]:
    """Send examples of every operation; give how many had which status."""
    statuses: Counter[int] = Counter()
    for result in schema_of(service).get_all_operations():
        operation = result.ok()
        strategy = operation.as_strategy(generation_mode=mode)

        @hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=strategy)
        def send(case: Any) -> None:
            response = case.call()
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        try:
            send()
        except hypothesis.errors.Unsatisfiable:
            continue  # nothing about this operation can be wrong, e.g. GET / without parameters
    return statuses


@pytest.fixture
def service(tmp_path):
    found = Service(tmp_path, Unchanging(), watch=False, runs_folder=tmp_path, hosts=("testserver",))
    yield found
    if found.parts.keeper is not None:
        asyncio.run(asyncio.to_thread(found.parts.keeper.close))


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.name.lower())
def test_the_service_keeps_to_its_document(service, mode):
    statuses = fuzz(service, mode, QUICK)
    assert statuses.total() >= 60
    assert not [status for status in statuses if status >= 500]
    assert statuses[200] > 0 or mode == GenerationMode.NEGATIVE


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.name.lower())
def test_the_service_keeps_to_its_document_for_many_requests(service, mode, capsys):
    statuses = fuzz(service, mode, MANY)
    with capsys.disabled():
        sys.stdout.write(f"\n{statuses.total()} requests, {mode.name.lower()}: {dict(sorted(statuses.items()))}\n")
    assert not [status for status in statuses if status >= 500]

"""What the service answers when all is well, and what it says when it is not."""

from __future__ import annotations

import asyncio
import json
import math
import re

import pytest
from answerings import BUNDLE, HELPDESK, Service, StubAnswering, is_refused, run

from tunesmith.errors import StoreProblem
from tunesmith.service.answers import json_response
from tunesmith.service.refusals import BadInput, Busy, ModelFault, NotReady, TooSlow, WorkerLost


def with_service(tmp_path, do, answering=None, **settings):
    async def ask():
        async with Service(tmp_path, answering, **{"watch": False, "keep": False, **settings}) as service:
            return await do(service)

    return run(ask())


def test_one_input_or_many_are_answered_in_order(tmp_path):
    async def ask(service):
        one = (await service.predict("a")).json()
        many = (await service.predict(["a", {"text": "b"}, "c"], alternatives=1)).json()
        return one, many

    one, many = with_service(tmp_path, ask)
    assert (one["model"], one["version"], one["bundle"]) == ("reviews", 1, BUNDLE)
    (answer,) = one["predictions"]
    assert answer.pop("alternatives") == {"bad": 0.5, "good": 0.5}
    assert answer == {"id": f"{1:032x}", "value": "bad", "confidence": 0.9, "seconds": 0.001}
    assert [each["id"] for each in many["predictions"]] == [f"{number:032x}" for number in (2, 3, 4)]
    assert many["predictions"][0]["alternatives"] == {"bad": 0.5}


def test_options_go_to_the_model(tmp_path):
    async def ask(service):
        await service.predict("a b", model="stories", options={"max_new_tokens": 5, "do_sample": True, "draw": 3})
        return service.answering.asked

    assert with_service(tmp_path, ask) == [
        ("stories", ["a b"], {"max_new_tokens": 5, "do_sample": True, "draw": 3}),
    ]


def test_a_stream_sends_pieces_and_then_the_answer(tmp_path):
    async def ask(service):
        async with service.client.stream(
            "POST", "/v1/models/stories:predict", json={"inputs": ["one two"], "stream": True}
        ) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            return [line async for line in response.aiter_lines() if line]

    lines = with_service(tmp_path, ask, keep=True)
    assert lines[:2] == ['data: {"piece": "two "}', 'data: {"piece": "one "}']
    assert lines[2] == "event: done"
    assert json.loads(lines[3][6:])["predictions"][0]["value"] == "two one "


def test_a_refusal_before_the_first_piece_has_its_status(tmp_path):
    answering = StubAnswering()
    answering.refusal = Busy("too many wait", do="ask later", retry_after=2.5)

    async def ask(service):
        return await service.predict("a", model="stories", stream=True)

    response = with_service(tmp_path, ask, answering)
    assert is_refused(response, 429)
    assert response.headers["retry-after"] == "3"


def test_a_failure_in_the_middle_of_a_stream_is_an_event(tmp_path):
    class Breaking(StubAnswering):
        async def stream(self, name, given, *, options, seconds, sticky=""):
            yield "one "
            raise WorkerLost("the worker died", do="ask again")

    async def ask(service):
        native = await service.predict("a", model="stories", stream=True)
        chat = {"model": "helpdesk", "messages": [{"role": "user", "content": "a"}], "stream": True}
        return native.text, (await service.client.post("/v1/chat/completions", json=chat)).text

    native, chat = with_service(tmp_path, ask, Breaking())
    assert "event: error\ndata: " in native
    assert '"code": "worker_lost"' in native
    assert "event: done" not in native
    assert '"code": "worker_lost"' in chat
    assert "[DONE]" not in chat


REFUSALS = [
    (NotReady("it loads", retry_after=1.0), 503, True),
    (Busy("full", retry_after=2.0), 429, True),
    (TooSlow("no answer"), 504, True),
    (WorkerLost("it died"), 503, True),
    (BadInput("no text", where="inputs[0]"), 422, False),
    (ModelFault("it failed"), 500, False),
]


@pytest.mark.parametrize(("refusal", "status", "can_retry"), REFUSALS, ids=lambda each: getattr(each, "code", ""))
def test_each_refusal_has_its_status_and_says_whether_to_ask_again(tmp_path, refusal, status, can_retry):
    answering = StubAnswering()
    answering.refusal = refusal

    async def ask(service):
        return await service.predict("a")

    response = with_service(tmp_path, ask, answering)
    assert is_refused(response, status)
    error = response.json()["error"]
    assert (error["code"], error["message"], error["where"]) == (refusal.code, refusal.what, refusal.where)
    assert ("retry-after" in response.headers) is can_retry
    assert error["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/models/reviews:predict", "/v1/chat/completions"])
def test_a_full_queue_refuses_before_the_body_is_even_read_as_json(tmp_path, path):
    answering = StubAnswering()
    answering.busy_seconds = 1.2

    async def ask(service):
        refused = await service.client.post(path, content=b"{", headers={"content-type": "application/json"})
        listed = await service.client.get("/v1/models")
        return refused, listed.status_code

    response, others = with_service(tmp_path, ask, answering)
    assert (response.status_code, others) == (429, 200)
    assert response.json()["error"]["code"] == "busy"
    assert response.headers["retry-after"] == "2"
    assert not answering.asked


def test_a_fault_of_ours_says_nothing_and_the_log_says_where(tmp_path):
    answering = StubAnswering()
    answering.refusal = RuntimeError("the secret text")

    async def ask(service):
        return await service.predict("a"), service.log()

    response, log = with_service(tmp_path, ask, answering)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in response.text + log
    fault = next(json.loads(line) for line in log.splitlines() if '"fault"' in line)
    assert fault["kind"] == "RuntimeError"
    assert any("answerings.py" in place for place in fault["places"])


def test_limits_on_inputs_and_tokens_are_told(tmp_path):
    async def ask(service):
        return [
            await service.predict(["a"] * 5),
            await service.predict("a" * 50),
            await service.predict("a", model="stories", options={"max_new_tokens": 90}),
            await service.predict("a", model="reviews", stream=True),
            await service.predict(["a", "b"], model="stories", stream=True),
            await service.predict("a", model="pairs"),
        ]

    responses = with_service(tmp_path, ask, max_inputs=4, max_characters=40, max_new_tokens=80)
    codes = [(each.status_code, each.json()["error"]["code"]) for each in responses]
    assert codes == [
        *((413, "too_many_inputs"), (413, "input_too_long"), (422, "too_many_tokens"), (422, "cannot_stream")),
        *((422, "one_input"), (422, "bad_input")),
    ]


def test_health_follows_the_models(tmp_path):
    import dataclasses

    answering = StubAnswering()
    loading = {name: dataclasses.replace(model, state="loading") for name, model in answering.served.items()}

    async def ask(service):
        async def ready():
            response = await service.client.get("/readyz")
            return response.status_code, response.json()["status"]

        found = [(await service.client.get("/livez")).status_code]
        ready_models, answering.served = answering.served, loading
        found.append(await ready())
        answering.served = {**ready_models, "broken": dataclasses.replace(HELPDESK, name="broken", state="failed")}
        found.append(await ready())
        answering.served = {**ready_models, "new": dataclasses.replace(HELPDESK, name="new", state="loading")}
        found.append(await ready())
        answering.served = {"broken": dataclasses.replace(HELPDESK, name="broken", state="failed")}
        found.append(await ready())
        answering.served = ready_models
        await service.client.post("/v1/admin/drain", json={})
        found.append(await ready())
        assert (await service.predict("a")).headers["connection"] == "close"
        await service.client.post("/v1/admin/drain", json={"draining": False})
        found.append(await ready())
        return found

    assert with_service(tmp_path, ask, answering) == [
        200, (503, "loading"), (200, "ready"), (200, "ready"), (503, "failed"), (503, "draining"), (200, "ready")
    ]  # fmt: skip


def test_models_are_listed_as_openai_lists_them_with_more(tmp_path):
    async def ask(service):
        listed = (await service.client.get("/v1/models")).json()
        one = (await service.client.get("/v1/models/helpdesk")).json()
        return listed, one

    listed, one = with_service(tmp_path, ask)
    assert listed["object"] == "list"
    assert [each["id"] for each in listed["data"]] == ["reviews", "stories", "helpdesk", "pairs"]
    assert one in listed["data"]
    assert (one["object"], one["task"], one["is_causal"], one["inputs"]) == ("model", "dialogue", True, ["question"])


def test_metrics_are_what_prometheus_reads(tmp_path):
    from prometheus_client.parser import text_string_to_metric_families

    async def ask(service):
        await service.predict(["a", "b"])
        await service.client.get("/nowhere")
        return (await service.client.get("/metrics")).text

    text = with_service(tmp_path, ask, watch=True, keep=True)
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    predict = (("method", "POST"), ("route", "/v1/models/{name}:predict"), ("status", "200"))
    assert found["tunesmith_requests_total", *predict] == 1
    assert found["tunesmith_predictions_total", ("model", "reviews"), ("version", "1")] == 2
    assert found["tunesmith_refusals_total", ("code", "not_found")] == 1
    assert found["tunesmith_in_flight_requests",] == 3
    assert found["tunesmith_waiting_rows",] == 1
    assert found["tunesmith_worker_restarts_total",] == 1
    assert found["tunesmith_batch_rows_bucket", ("le", "1")] == 5
    assert found["tunesmith_batch_rows_bucket", ("le", "16")] == 7
    assert found["tunesmith_batch_rows_count",] == 7
    assert found["tunesmith_model_ready", ("model", "pairs"), ("version", "0")] == 1
    assert found["tunesmith_http_in_flight",] == 1


def test_the_monitor_sees_what_is_answered_and_what_is_said_of_it(tmp_path):
    async def ask(service):
        answered = (await service.predict(["good text", "other text"])).json()["predictions"]
        await service.client.post("/v1/feedback", json={"prediction": answered[0]["id"], "is_correct": False})
        service.answering.refusal = TooSlow("no answer")
        await service.predict("a")
        assert service.parts.watcher.flush(10)
        return (await service.client.get("/v1/models/reviews/monitor")).json()

    report = with_service(tmp_path, ask, watch=True, keep=True)
    assert report["numbers"]["rows_total"] == 2
    assert report["numbers"]["feedback_total"] == 1
    assert report["failures"] == {"timeout": 1}


def test_feedback_is_on_the_disk_when_it_is_acknowledged(tmp_path):
    import sqlite3

    async def ask(service):
        name = (await service.predict("a", subject="s-1")).json()["predictions"][0]["id"]
        body = {"prediction": name, "is_correct": False, "corrected": "good", "comment": "because"}
        response = await service.client.post("/v1/feedback", json=body)
        assert response.status_code == 201
        with sqlite3.connect(tmp_path / "registry" / "feedback.sqlite") as database:
            row = database.execute("SELECT prediction, model, corrected, comment, subject FROM feedback").fetchone()
        assert row == (name, "reviews", '"good"', "because", "s-1")
        return response.json()

    assert with_service(tmp_path, ask, keep=True)["model"] == "reviews"


def test_feedback_that_says_nothing_or_of_nothing_is_refused(tmp_path):
    async def ask(service):
        name = (await service.predict("a")).json()["predictions"][0]["id"]
        post = service.client.post
        return [
            await post("/v1/feedback", json={"prediction": name}),
            await post("/v1/feedback", json={"prediction": "0" * 32, "is_correct": True}),
            await post("/v1/feedback", json={"prediction": name, "is_correct": "yes"}),
        ]

    responses = with_service(tmp_path, ask, keep=True)
    assert [(each.status_code, each.json()["error"]["code"]) for each in responses] == [
        (422, "empty_feedback"), (404, "no_such_prediction"), (422, "invalid_request")
    ]  # fmt: skip


def test_where_nothing_is_kept_feedback_says_so(tmp_path):
    async def ask(service):
        assert (await service.predict("a")).status_code == 200
        return await service.client.post("/v1/feedback", json={"prediction": "0" * 32, "is_correct": True})

    assert is_refused(with_service(tmp_path, ask), 404)
    assert not (tmp_path / "registry" / "feedback.sqlite").exists()


def test_a_store_that_fails_refuses_feedback_and_predicts_on(tmp_path, monkeypatch):
    def fail(*_):
        raise StoreProblem("the disk is full", kind="full")

    async def ask(service):
        name = (await service.predict("a")).json()["predictions"][0]["id"]
        store = service.parts.keeper._store
        monkeypatch.setattr(type(store), "add", fail)
        monkeypatch.setattr(type(store), "answered", fail)
        refused = await service.client.post("/v1/feedback", json={"prediction": name, "is_correct": True})
        answered = await service.predict(["b", "c"])
        service.parts.keeper._queue.flush(10)
        return refused, answered, (await service.client.get("/metrics")).text, service.log()

    refused, answered, metrics, log = with_service(tmp_path, ask, keep=True)
    assert is_refused(refused, 503)
    assert refused.json()["error"]["code"] == "store_unavailable"
    assert "retry-after" in refused.headers
    assert answered.status_code == 200
    assert re.search(r'tunesmith_dropped_total{what="kept"} [23].0', metrics)
    assert '"event": "not_kept"' in log


def test_the_rows_of_one_person_are_deleted_even_while_they_wait(tmp_path):
    async def ask(service):
        await service.predict(["theirs"], subject="person-1")
        await service.predict(["others"], subject="person-2")
        gone = (await service.client.delete("/v1/subjects/person-1")).json()
        rows = (await service.client.get("/v1/models/reviews/rows-to-label")).json()["rows"]
        return gone, rows

    gone, rows = with_service(tmp_path, ask, keep=True)
    assert (gone["answers"], gone["feedback"]) == (1, 0)
    assert [row["fields"] for row in rows] == [{"text": "others"}]
    assert b"theirs" not in (tmp_path / "registry" / "feedback.sqlite").read_bytes()


def test_the_store_is_backed_up_while_the_service_runs(tmp_path):
    async def ask(service):
        for _ in range(200):
            if found := list((tmp_path / "registry" / "backups").glob("feedback-*.sqlite")):
                return found
            await asyncio.sleep(0.02)
        return []

    assert len(with_service(tmp_path, ask, keep=True, backup_hours=24.0)) == 1
    with_service(tmp_path, ask, keep=True, backup_hours=24.0)
    assert len(list((tmp_path / "registry" / "backups").iterdir())) == 1, "none is due for a day"


@pytest.mark.parametrize("subject", ["%1C", "%20", "%0A%09"])
def test_a_subject_of_white_space_is_nobody(tmp_path, subject):
    async def ask(service):
        return await service.client.delete(f"/v1/subjects/{subject}")

    assert is_refused(with_service(tmp_path, ask, keep=True), 422)


def test_rows_to_label_are_those_nobody_spoke_of(tmp_path):
    async def ask(service):
        answered = (await service.predict(["a first text", "a second one", "a first text"])).json()["predictions"]
        await service.client.post("/v1/feedback", json={"prediction": answered[1]["id"], "is_correct": True})
        return (await service.client.get("/v1/models/reviews/rows-to-label?most=5")).json()

    found = with_service(tmp_path, ask, keep=True)
    assert found["labels"] == ["bad", "good"]
    assert [row["fields"]["text"] for row in found["rows"]] == ["a first text"]


def test_an_admin_loads_reloads_and_unloads(tmp_path):
    run_folder = tmp_path / "runs" / "second"
    run_folder.mkdir(parents=True)
    (run_folder / "manifest.json").write_text("{}", encoding="utf-8")

    async def ask(service):
        post = service.client.post
        assert (await post("/v1/admin/models", json={"name": "more", "run": "second"})).json()["id"] == "more"
        assert (await service.predict("a", model="more")).status_code == 200
        assert (await post("/v1/admin/models/more:reload")).status_code == 200
        assert service.answering.served["more"].run == run_folder
        assert (await service.client.delete("/v1/admin/models/more")).json() == {"status": "unloaded"}
        return [
            await service.predict("a", model="more"),
            await post("/v1/admin/models", json={"name": "more", "run": "third"}),
            await post("/v1/admin/models", json={"name": "more"}),
            await post("/v1/admin/models", json={"name": "more", "version": 3}),
            await post("/v1/admin/models/reviews:promote", json={"version": 1}),
        ]

    responses = with_service(tmp_path, ask, runs_folder=tmp_path / "runs")
    codes = [(each.status_code, each.json()["error"]["code"]) for each in responses]
    assert codes == [
        *((404, "no_such_model"), (404, "no_such_run"), (422, "bad_request"), (404, "no_such_model")),
        (404, "no_such_model"),
    ]


def test_a_client_that_leaves_ends_the_work(tmp_path):
    answering = StubAnswering()
    answering.waits = 30.0

    async def ask(service):
        asking = asyncio.ensure_future(service.predict("a"))
        while not answering.asked:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    with_service(tmp_path, ask, answering)
    assert answering.cancelled == 1


def test_numbers_that_are_not_finite_become_null():
    content = json_response({"a": [1.5, math.nan, (math.inf,)], "b": {"c": -math.inf}}).body
    assert json.loads(content) == {"a": [1.5, None, [None]], "b": {"c": None}}


def test_the_document_has_an_example_for_each_task_and_one_form_of_refusal(tmp_path):
    from tunesmith.tasks import TASKS

    async def ask(service):
        return (await service.client.get("/openapi.json")).json()

    document = with_service(tmp_path, ask, keys="no")
    predict = document["paths"]["/v1/models/{name}:predict"]["post"]
    assert set(predict["requestBody"]["content"]["application/json"]["examples"]) == set(TASKS)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert {"401", "422", "429", "500"} <= set(operation["responses"])


def test_the_examples_of_the_document_fit_their_tasks(tmp_path):
    from tunesmith.data.layout import Cells
    from tunesmith.service.examples import PREDICT
    from tunesmith.service.schemas import PredictRequest
    from tunesmith.tasks import find_task

    for name, example in PREDICT.items():
        body = PredictRequest.model_validate(example["value"])
        task = find_task(name)
        role = next(iter(task.forms[0].inputs))
        for given in body.inputs:
            task.read_input(Cells({role: given} if isinstance(given, str) else given))


@pytest.mark.parametrize(("state", "message"), [("loading", "is being loaded"), ("failed", "could not be loaded")])
def test_a_model_that_is_not_ready_says_so_on_every_route(tmp_path, state, message):
    import dataclasses

    waiting = dataclasses.replace(HELPDESK, task="", can_stream=False, is_causal=False, state=state, reason="/a/path")

    async def ask(service):
        body = {"model": "helpdesk", "messages": [{"role": "user", "content": "a"}]}
        return [
            await service.predict("a", model="helpdesk"),
            await service.predict("a", model="helpdesk", stream=True),
            await service.client.post("/v1/chat/completions", json=body),
            await service.client.post("/v1/chat/completions", json={**body, "stream": True}),
        ]

    for response in with_service(tmp_path, ask, StubAnswering(waiting)):
        assert is_refused(response, 503)
        error = response.json()["error"]
        assert error["code"] == "not_ready"
        assert message in error["message"]
        assert "/a/path" not in response.text
        assert "retry-after" in response.headers

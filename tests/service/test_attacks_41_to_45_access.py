"""Attacks on access: every route and method without a key, with the wrong role, with another tenant's ids."""

from __future__ import annotations

import hmac
import json
import time

import pytest
from answerings import JSON, Service, ask_raw, is_refused, run

from tunesmith.service import keys as keys_file
from tunesmith.service.access import ANY, NONE, OPEN_PATHS, demand_roles, needs, role_of
from tunesmith.service.keys import Keys

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
OTHERS = (
    *("/docs", "/redoc", "/docs/oauth2-redirect", "/openapi.json", "/metrics", "/", "//", "/v1", "/static/x"),
    *("/livez/", "/livez/../metrics"),
)


def routes_of(service: Service):
    return list(service.app.app.routes)


def filled(route) -> str:
    return route.path_format.replace("{name}", "reviews").replace("{subject}", "s")


def with_key(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {text}".encode()), JSON]


def test_attack_41_nothing_is_answered_without_a_key_but_whether_it_lives(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, keys="yes", watch=False) as service:
            paths = {
                route.path_format.replace("{name}", "reviews").replace("{subject}", "s") for route in routes_of(service)
            }
            paths |= set(service.app.app.openapi()["paths"]) | set(OTHERS)
            assert len(paths) > 20
            for path in sorted(paths - OPEN_PATHS):
                for method in METHODS:
                    for headers in ([], [JSON], [(b"authorization", b"Bearer ")], [(b"authorization", b"Basic eDp5")]):
                        body = b'{"inputs": ["x"]}' if JSON in headers else b""
                        response = await ask_raw(service.app, method, path, headers=headers, body=body)
                        assert (response.status, response.code) == (401, "no_key"), (method, path)
                        assert response.headers["www-authenticate"] == "Bearer"
            for path in OPEN_PATHS:
                assert (await ask_raw(service.app, "GET", path)).status == 200
            assert service.answering.asked == []

    run(attack())


def test_attack_41_web_sockets_are_closed(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            sent = []

            async def receive():
                return {"type": "websocket.connect"}

            async def send(message):
                sent.append(message)

            await service.app({"type": "websocket", "path": "/v1/models", "headers": []}, receive, send)
            assert sent == [{"type": "websocket.close", "code": 1008}]

    run(attack())


def test_attack_41_a_route_that_names_no_role_stops_the_service(tmp_path):
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="the route /forgotten names no role"):
        demand_roles(app.routes)

    opened = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @opened.get("/open", dependencies=[needs(NONE)])
    async def is_open() -> None: ...

    with pytest.raises(RuntimeError, match="the route /open names no role"):
        demand_roles(opened.routes)
    mounted = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    mounted.mount("/inner", FastAPI())
    with pytest.raises(RuntimeError, match="/inner names no role"):
        demand_roles(mounted.routes)


def test_attack_42_each_route_takes_only_its_role(tmp_path):
    keys = Keys(tmp_path / "registry")
    texts = {role: keys.add(role, [role])[1] for role in ("predict", "feedback", "admin")}

    async def attack() -> None:
        async with Service(tmp_path, keys="yes", watch=False) as service:
            counts = {"admin": 0, "predict": 0, "feedback": 0}
            for route in routes_of(service):
                wanted = role_of(route)
                if wanted in (ANY, NONE):
                    continue
                counts[wanted] += 1
                path = filled(route)
                for role, text in texts.items():
                    for method in route.methods:
                        response = await ask_raw(service.app, method, path, headers=with_key(text), body=b"{}")
                        is_let_in = role in (wanted, "admin")
                        assert (response.status != 403) is is_let_in, (role, method, path, response.body)
                        if not is_let_in:
                            assert response.code == "wrong_role"
            assert counts["admin"] >= 8
            assert counts["predict"] == 3
            assert counts["feedback"] == 2

    run(attack())


def test_attack_42_admin_routes_hide_on_the_public_port(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, port=8080, admin_port=9090, watch=False) as service:
            response = await service.client.post("/v1/admin/drain", json={"draining": True})
            assert is_refused(response, 404)
            assert is_refused(await service.client.delete("/v1/subjects/x"), 404)
            response = await service.client.post("http://127.0.0.1:9090/v1/admin/drain", json={"draining": True})
            assert response.status_code == 200

    run(attack())


def test_attack_43_another_tenants_predictions_are_not_there(tmp_path):
    keys = Keys(tmp_path / "registry")
    roles = ["predict", "feedback"]
    _, mine = keys.add("mine", roles)
    _, colleague = keys.add("colleague", roles, tenant="mine")
    _, stranger = keys.add("stranger", roles)
    _, boss = keys.add("boss", ["admin"])

    async def attack() -> None:
        async with Service(tmp_path, keys="yes", watch=False) as service:

            def asked(key):
                return {"Authorization": f"Bearer {key}"}

            for is_flushed in (False, True):  # while it waits to be written, and afterwards
                answered = await service.predict("the text", headers=asked(mine))
                if is_flushed:
                    assert service.parts.keeper._queue.flush(5)
                body = {"prediction": answered.json()["predictions"][0]["id"], "is_correct": False}
                response = await service.client.post("/v1/feedback", json=body, headers=asked(stranger))
                assert is_refused(response, 404)
                unknown = await service.client.post(
                    "/v1/feedback", json={**body, "prediction": "f" * 32}, headers=asked(stranger)
                )
                told, other = response.json()["error"], unknown.json()["error"]
                assert {**told, "request_id": ""} == {**other, "request_id": ""}, "nobody learns that it is there"
                rows = await service.client.get("/v1/models/reviews/rows-to-label", headers=asked(stranger))
                assert rows.json()["rows"] == []
                rows = await service.client.get("/v1/models/reviews/rows-to-label", headers=asked(colleague))
                assert len(rows.json()["rows"]) == 1
                response = await service.client.post("/v1/feedback", json=body, headers=asked(colleague))
                assert response.status_code == 201
            answered = await service.predict("the text", headers=asked(mine))
            body = {"prediction": answered.json()["predictions"][0]["id"], "is_correct": False}
            assert (await service.client.post("/v1/feedback", json=body, headers=asked(boss))).status_code == 201

    run(attack())


def test_attack_44_every_key_is_compared_once_in_constant_time(tmp_path, monkeypatch):
    keys = Keys(tmp_path)
    _, good = keys.add("good", ["predict"])
    _, revoked = keys.add("revoked", ["predict"])
    keys.revoke("revoked")
    compared = []

    def compare(first, second):
        compared.append((first, second))
        return hmac.compare_digest(first, second)

    class Hmac:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys_file, "hmac", Hmac)
    cases = [good, good[:-2] + "xx", revoked, "tsk_ffffffff_" + "a" * 43, "", "nonsense", "tsk_" + "a" * 9999]
    found = [keys.find(text) is not None for text in cases]
    assert found == [True] + [False] * 6
    assert len(compared) == len(cases)
    assert {len(each) for pair in compared for each in pair} == {64}, "hashes of one length, never the keys"


def test_attack_45_a_key_in_the_url_is_refused_and_never_logged(tmp_path):
    _, text = Keys(tmp_path / "registry").add("shop", ["predict"])

    async def attack() -> None:
        async with Service(tmp_path, keys="yes", watch=False) as service:
            for target in (f"/v1/models?key={text}", f"/v1/models?api_key={text}", f"/{text}", f"/v1/models/{text}"):
                response = await ask_raw(service.app, "GET", target)
                assert (response.status, response.code) == (400, "key_in_url")
                assert text.encode() not in response.body
            assert (await service.predict("x", headers={"Authorization": f"Bearer {text}"})).status_code == 200
            assert (await service.predict("x", headers={"X-API-Key": text})).status_code == 200
            wrong = await service.predict("x", headers={"Authorization": f"Bearer {text[:-1]}_"})
            assert is_refused(wrong, 401)
            both = {"Authorization": f"Bearer {text}", "X-API-Key": text}
            assert is_refused(await service.predict("x", headers=both), 400)
            metrics = await service.client.get("/metrics", headers={"X-API-Key": text})
            for place in (service.log(), metrics.text):
                assert text.split("_", 2)[2][:12] not in place
            assert '"key": "' + text.split("_")[1] in service.log(), "the id of the key is there"

    run(attack())


def test_attack_45_no_option_takes_a_key_so_no_process_list_shows_one():
    import argparse

    from tunesmith.cli import keys, serve

    for command in (keys, serve):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        flags = {flag for action in parser._actions for flag in action.option_strings}
        assert not flags & {"--key", "--api-key", "--secret", "--token"}


def test_a_revoked_key_ends_while_the_service_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(keys_file, "_LOOK_SECONDS", 0.0)
    keys = Keys(tmp_path / "registry")
    _, text = keys.add("shop", ["predict"])

    async def attack() -> None:
        async with Service(tmp_path, keys="yes", watch=False) as service:
            headers = {"Authorization": f"Bearer {text}"}
            assert (await service.predict("x", headers=headers)).status_code == 200
            keys.revoke("shop")
            assert is_refused(await service.predict("x", headers=headers), 401)
            _, again = keys.add("shop", ["predict"], expires_at=time.time() + 0.3)
            headers = {"Authorization": f"Bearer {again}"}
            assert (await service.predict("x", headers=headers)).status_code == 200
            time.sleep(0.35)
            assert is_refused(await service.predict("x", headers=headers), 401)

    run(attack())


def test_a_key_that_asks_too_often_waits(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, rate_per_second=0.001, rate_burst=3, watch=False) as service:
            statuses = [(await service.predict("x")).status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
            refused = await service.predict("x")
            assert int(refused.headers["retry-after"]) > 100
            assert refused.json()["error"]["code"] == "rate_limited"
            assert (await service.client.get("/livez")).status_code == 200
            assert json.loads(service.log().splitlines()[-1])["code"] == "rate_limited"

    run(attack())

"""Attacks through a browser or by what texts say: foreign names and pages, scripts in texts, URLs, queries."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess

import pytest
from answerings import JSON, Service, ask_raw, is_refused, run

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"
HOSTS = [
    *(
        "evil.example",
        "evil.example:8080",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "LOCALHOST.evil.example",
    ),
    *("127.0.0.1@evil.example", "evil.example#127.0.0.1", "evil.example\\@127.0.0.1", "", "a b", "[::1", "127.1.evil"),
]
ORIGINS = [
    *("https://evil.example", "http://evil.example:8080", "null", "file://", "http://127.0.0.1.evil.example", ""),
    *("http://localhost:3000", "http://127.0.0.1:9999", "chrome-extension://x", "http://[::1"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_attack_46_a_foreign_host_is_refused_on_every_path(tmp_path, host):
    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            for path in ("/livez", "/readyz", "/v1/models", "/metrics", "/"):
                response = await ask_raw(service.app, "GET", path, headers=[(b"host", host.encode())])
                assert is_refused(response, 400, 421), (path, response)
            twice = [(b"host", b"127.0.0.1"), (b"host", host.encode())]
            assert is_refused(await ask_raw(service.app, "GET", "/v1/models", headers=twice), 400)

    run(attack())


def test_attack_46_own_names_and_addresses_are_let_in(tmp_path):
    hosts = [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1:1",
        "10.1.2.3:8080",
        "[::1]:8080",
        socket.gethostname(),
        "api.example.com",
    ]

    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False, hosts=("api.example.com",)) as service:
            for host in hosts:
                response = await ask_raw(service.app, "GET", "/livez", headers=[(b"host", host.encode())])
                assert response.status == 200, host

    run(attack())


@pytest.mark.parametrize("origin", ORIGINS)
def test_attack_47_a_foreign_page_is_refused_whatever_it_does(tmp_path, origin):
    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            for method, path in (
                *(("POST", "/v1/models/reviews:predict"), ("DELETE", "/v1/subjects/x"), ("GET", "/v1/models")),
                *(("POST", "/v1/admin/drain"), ("OPTIONS", "/v1/models/reviews:predict")),
            ):
                headers = [(b"origin", origin.encode()), (b"cookie", b"session=1"), JSON]
                response = await ask_raw(service.app, method, path, headers=headers, body=b'{"inputs": ["x"]}')
                assert is_refused(response, 403), (method, path, response)
                assert not {name for name in response.headers if name.startswith("access-control")}
            assert service.answering.asked == []
            assert not service.parts.is_draining

    run(attack())


@pytest.mark.parametrize(
    "kind", [b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"text/plain", b"", b"text/json"]
)
def test_attack_47_forms_are_no_requests(tmp_path, kind):
    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            for method, path in (
                ("POST", "/v1/models/reviews:predict"),
                ("POST", "/v1/admin/drain"),
                ("DELETE", "/v1/subjects/x"),
            ):
                headers = [(b"content-type", kind)] if kind else []
                response = await ask_raw(service.app, method, path, headers=headers, body=b'{"draining": true}')
                assert is_refused(response, 415), (method, path)
            assert not service.parts.is_draining

    run(attack())


def test_an_allowed_page_may_ask_and_read(tmp_path):
    async def ask() -> None:
        page = "https://desk.example.com"
        async with Service(tmp_path, watch=False, keep=False, origins=(page,), keys="yes") as service:
            preflight = [(b"origin", page.encode()), (b"access-control-request-method", b"POST")]
            response = await ask_raw(service.app, "OPTIONS", "/v1/models/reviews:predict", headers=preflight)
            assert (response.status, response.headers["access-control-allow-origin"]) == (204, page)
            assert "authorization" in response.headers["access-control-allow-headers"]
            response = await service.predict("x", headers={"Origin": page})
            assert response.status_code == 401, "a page that may ask still needs a key"
            assert response.headers["access-control-allow-origin"] == page
            own = await service.client.get("/livez", headers={"Origin": "http://127.0.0.1:8080"})
            assert own.status_code == 200

    run(ask())


def test_attack_48_scripts_in_texts_are_data_everywhere(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            answered = await service.predict(SCRIPT, model="stories", subject=SCRIPT)
            body = {"prediction": answered.json()["predictions"][0]["id"], "corrected": SCRIPT, "comment": SCRIPT}
            responses = [
                answered,
                await service.client.post("/v1/feedback", json=body),
                await service.predict({"text": SCRIPT, SCRIPT: SCRIPT}),
                await service.predict(SCRIPT, model=SCRIPT.replace("/", "")),
                await service.client.get("/v1/models/reviews/rows-to-label"),
                await service.client.get("/metrics"),
                await service.client.get(f"/{SCRIPT}"),
                await service.client.post("/v1/completions", json={"model": SCRIPT, "prompt": "x"}),
                await service.client.get("/livez", headers={"X-Request-ID": SCRIPT}),
            ]
            for response in responses:
                assert response.headers["content-type"].split(";")[0] in ("application/json", "text/plain")
                assert response.headers["x-content-type-options"] == "nosniff"
                assert "default-src 'self'" in response.headers["content-security-policy"]
                assert SCRIPT not in str(response.headers)
            assert SCRIPT not in responses[5].text
            assert "<script" not in service.log()

    run(attack())


URLS = [
    *(
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "http://[::ffff:169.254.169.254]/",
        "gopher://x:70/",
    ),
    *(
        "http://127.0.0.1:22/",
        "https://evil.example/redirect",
        "http://evil.example\\@127.0.0.1/",
        "ftp://evil.example/x",
    ),
]


def test_attack_49_a_url_is_a_text_and_nothing_is_fetched(tmp_path, monkeypatch):
    reached: list[object] = []
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *args: reached.append(args))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: reached.append(args))
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: reached.append(args))

    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            for url in URLS:
                assert (await service.predict([url, {"text": url}])).status_code == 200
                image = [{"type": "image_url", "image_url": {"url": url}}]
                response = await service.client.post(
                    "/v1/chat/completions", json={"model": "helpdesk", "messages": [{"role": "user", "content": image}]}
                )
                assert is_refused(response, 400)
                for run_name in (url, f"../{url}"):
                    response = await service.client.post("/v1/admin/models", json={"name": "x", "run": run_name})
                    assert is_refused(response)

    run(attack())
    assert reached == []


QUERIES = [
    *("'; DROP TABLE feedback; --", '" OR 1=1 --', "%_%", "x' UNION SELECT * FROM answers --", "\\'; VACUUM; --"),
    *(
        "MATCH (n) DETACH DELETE n",
        "SELECT ?s WHERE { ?s ?p ?o }",
        "a AND NEAR(b*) OR c:d ^e",
        "$where: 1",
        "{{7*7}} ${7*7}",
    ),
]


def test_attack_50_queries_in_texts_reach_no_database(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            for query in QUERIES:
                answered = await service.predict(query, model="stories", subject=query)
                name = answered.json()["predictions"][0]["id"]
                body = {"prediction": name, "corrected": query, "comment": query}
                assert (await service.client.post("/v1/feedback", json=body)).status_code == 201
                assert is_refused(await service.client.post("/v1/feedback", json={**body, "prediction": query}), 422)
            keeper = service.parts.keeper
            assert keeper._queue.flush(5)
            kept = {row.comment: row for row in keeper._store.rows("stories")}
            assert set(kept) == set(QUERIES)
            assert all(row.corrected == query and row.fields == {"prompt": query} for query, row in kept.items())
            gone = await service.client.delete("/v1/subjects/%25_%25")
            assert gone.json()["feedback"] == 1, "a pattern deletes the one subject of that name"
            assert keeper._store.count("stories") == len(QUERIES) - 1
        with sqlite3.connect(tmp_path / "registry" / "feedback.sqlite") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            kept_texts = [text for (text,) in database.execute("SELECT corrected FROM feedback")]
            assert json.dumps(QUERIES[0]) in kept_texts

    run(attack())

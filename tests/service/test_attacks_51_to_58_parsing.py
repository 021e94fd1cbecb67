"""Attacks on parsers, before any route sees a request. What needs a real connection is in `test_listen`."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from answerings import JSON, Service, ask_raw, is_refused, run

PREDICT = "/v1/models/reviews:predict"


def given(content: object) -> bytes:
    return json.dumps({"inputs": content}).encode()


def refusal_of(tmp_path, body: bytes, *, headers=(JSON,), parts: int = 1, **settings):
    """Send a body; the next request is answered, and the models saw neither more nor less than that."""

    async def attack():
        async with Service(tmp_path, watch=False, keep=False, **settings) as service:
            response = await ask_raw(service.app, "POST", PREDICT, headers=headers, body=body, parts=parts)
            assert is_refused(response), response.body
            assert len(response.body) < 1000, "nothing of the request comes back"
            assert service.answering.asked == []
            assert (await ask_raw(service.app, "POST", PREDICT, headers=[JSON], body=given(["x"]))).status == 200
            return response

    return run(attack())


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("has_length", [True, False])
def test_attack_51_a_body_over_the_limit_is_refused(tmp_path, parts, has_length):
    body = given("x" * 5000)
    headers = [JSON, *([(b"content-length", str(len(body)).encode())] if has_length else [])]
    response = refusal_of(tmp_path, body, headers=headers, parts=parts, max_body_bytes=4000)
    assert (response.status, response.code, response.headers["connection"]) == (413, "body_too_large", "close")


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"0x10", b"9" * 30, b"1 000", b"+5", b""])
def test_attack_51_a_length_that_is_none_is_refused(tmp_path, length):
    response = refusal_of(tmp_path, given("x"), headers=[JSON, (b"content-length", length)])
    assert (response.status, response.code) == (400, "bad_framing")


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_attack_52_deep_json_is_refused_at_once(tmp_path, body):
    start = time.process_time()
    response = refusal_of(tmp_path, body)
    assert (response.status, response.code) == (400, "too_deep")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("depth", [31, 32, 33, 500])
def test_attack_52_the_limit_on_depth_is_exact(tmp_path, depth):
    content: object = "x"
    for _ in range(depth - 3):
        content = [content]

    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            response = await ask_raw(service.app, "POST", PREDICT, headers=[JSON], body=given([{"text": content}]))
            assert response.status == (200 if depth <= 32 else 400)

    run(attack())


NUMBERS = {
    "nan": (b'{"inputs": ["x"], "alternatives": NaN}', "not_finite"),
    "infinity": (b'{"inputs": [{"x": -Infinity}]}', "not_finite"),
    "overflow": (b'{"inputs": [{"x": 1e999}]}', "number_too_long"),
    "5,000 digits": (b'{"inputs": [{"x": ' + b"9" * 5000 + b"}]}", "number_too_long"),
    "long fraction": (b'{"inputs": [{"x": 0.' + b"1" * 5000 + b"}]}", "number_too_long"),
    "half a character": (b'{"inputs": ["\\ud83d"]}', "half_character"),
    "half in a key": (b'{"inputs": [{"\\udc00": 1}]}', "half_character"),
    "duplicate key": (b'{"inputs": ["x"], "inputs": ["y"]}', "duplicate_key"),
    "duplicate inside": (b'{"inputs": [{"text": "x", "text": "y"}]}', "duplicate_key"),
    "duplicate by escape": (b'{"inputs": [{"text": "x", "\\u0074ext": "y"}]}', "duplicate_key"),
    "latin-1": (b'{"inputs": ["\xe9"]}', "not_utf8"),
    "utf-16": ('{"inputs": ["x"]}'.encode("utf-16"), "not_utf8"),
    "surrogate as bytes": (b'{"inputs": ["\xed\xa0\xbd"]}', "not_utf8"),
    "two documents": (b'{"inputs": ["x"]}{"inputs": ["y"]}', "not_json"),
    "cut": (b'{"inputs": ["x"', "not_json"),
    "comment": (b'{"inputs": ["x"]} // y', "not_json"),
    "control character": (b'{"inputs": ["a\x01b"]}', "not_json"),
    "single quotes": (b"{'inputs': ['x']}", "not_json"),
    "byte order mark": (b'\xef\xbb\xbf{"inputs": ["x"]}', "not_json"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_attack_53_what_json_leaves_open_is_refused(tmp_path, name):
    body, code = NUMBERS[name]
    response = refusal_of(tmp_path, body)
    assert (response.status, response.code) == (400, code)


def test_attack_53_whole_characters_beyond_the_first_plane_are_let_in(tmp_path):
    async def ask() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            body = b'{"inputs": ["\\ud83d\\ude00 \xf0\x9f\x98\x80 \\u4f60"]}'
            assert (await ask_raw(service.app, "POST", PREDICT, headers=[JSON], body=body)).status == 200
            assert service.answering.asked[0][1] == ["😀 😀 你"]

    run(ask())


@pytest.mark.parametrize(
    "body",
    [
        *(
            b'{"inputs": [1]}',
            b'{"inputs": [true]}',
            b'{"inputs": null}',
            b'{"inputs": []}',
            b"[]",
            b'"x"',
            b"null",
            b"{}",
        ),
        *(
            b'{"inputs": ["x"], "options": {"max_new_tokens": "9"}}',
            b'{"inputs": ["x"], "options": {"weights": "int8"}}',
        ),
        *(b'{"inputs": ["x"], "stream": "true"}', b'{"inputs": ["x"], "options": {"num_beams": 9999}}'),
        *(b'{"inputs": ["x"], "__proto__": {}}', b'{"inputs": [{}]}', b'{"inputs": ["x"], "alternatives": 1.5}'),
    ],
)
def test_attack_53_other_kinds_and_entries_are_refused_without_an_echo(tmp_path, body):
    response = refusal_of(tmp_path, body)
    assert (response.status, response.code) == (422, "invalid_request")
    assert b"__proto__" not in response.body


def test_attack_53_a_megabyte_of_wrong_input_does_not_come_back(tmp_path):
    response = refusal_of(tmp_path, b'{"inputs": [' + b",".join([b'{"secret-key": 5}', b"7"] * 50_000) + b"]}")
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-long", b"a" * 65_536)],
        [(b"x-%d" % number, b"a") for number in range(1000)],
        [(b"x-same", b"a")] * 1000,
        [(b"x-some", b"a" * 400)] * 60,
    ],
    ids=["64 kB", "1,000", "1,000 alike", "together"],
)
def test_attack_55_headers_over_the_limit_are_refused(tmp_path, headers):
    response = refusal_of(tmp_path, given("x"), headers=[JSON, *headers])
    assert (response.status, response.code) == (431, "headers_too_large")


def test_attack_55_ranges_are_ignored(tmp_path):
    ranges = b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(1000))

    async def attack() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            for value in (ranges, b"bytes=0-", b"bytes=-1"):
                response = await ask_raw(service.app, "GET", "/v1/models", headers=[(b"range", value)])
                assert response.status == 200
                assert response.json()["object"] == "list"
            headers = [(b"range", b"bytes=" + b"0-0," * 10_000)]
            assert is_refused(await ask_raw(service.app, "GET", "/v1/models", headers=headers), 431)

    run(attack())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"5"), (b"content-length", b"6")],
        [(b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"identity")],
    ],
)
def test_attack_56_two_framings_are_refused_and_the_connection_ends(tmp_path, headers):
    response = refusal_of(tmp_path, given("x"), headers=[JSON, *headers])
    assert (response.status, response.code, response.headers["connection"]) == (400, "bad_framing", "close")


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x"])
def test_attack_57_a_compressed_body_is_refused_unread(tmp_path, encoding):
    bomb = gzip.compress(b"0" * 10_000_000)
    response = refusal_of(tmp_path, bomb, headers=[JSON, (b"content-encoding", encoding)])
    assert (response.status, response.code) == (415, "encoded_body")


FORGED = [
    'x"}\r\n{"event": "forged"}',
    "x\n\x1b[2J\x1b[31mred",
    "x\u2028forged",
    "x\u202eforged",
    "\x00",
    "x\x85forged",
]


def test_attack_58_no_text_of_a_client_stands_in_the_log(tmp_path):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            for text in FORGED:
                raw = text.encode()
                await service.predict(text, subject=text)
                await ask_raw(service.app, "GET", "/v1/models/" + text.replace("/", ""))
                await ask_raw(service.app, "GET", "/x?" + "q=1" + text)
                await ask_raw(service.app, "FORGED" + text, "/v1/models")
                for name in (b"x-request-id", b"user-agent", b"referer", b"x-forwarded-for", b"authorization"):
                    response = await ask_raw(service.app, "GET", "/v1/models", headers=[(name, raw)])
                    assert "\n" not in response.headers["x-request-id"]
            log = service.log()
            assert "forged" not in log
            assert "FORGED" not in log
            assert not set(log) & set("\r\x1b\x00\u2028\u202e\x85")
            lines = log.splitlines()
            assert len(lines) > 30
            assert {json.loads(line)["event"] for line in lines} == {"request"}

    run(attack())


def test_a_request_id_that_is_a_plain_word_is_kept(tmp_path):
    async def ask() -> None:
        async with Service(tmp_path, watch=False, keep=False) as service:
            response = await service.predict("x", headers={"X-Request-ID": "order-17.4"})
            assert response.headers["x-request-id"] == "order-17.4"
            assert '"request_id": "order-17.4"' in service.log()

    run(ask())

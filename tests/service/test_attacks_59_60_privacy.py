"""Personal data is nowhere to be found afterwards; one key cannot flood the feedback."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from pathlib import Path

import pytest
from answerings import Service, StubAnswering, run

from tunesmith.service.refusals import BadInput, ModelFault

EACH = 20


def luhn(digits: str) -> str:
    total = sum(
        sum(divmod(2 * int(digit), 10)) if place % 2 == 0 else int(digit) for place, digit in enumerate(digits[::-1])
    )
    return digits + str(-total % 10)


def identity_card(generator: random.Random) -> str:
    born = f"19{generator.randint(50, 99)}0{generator.randint(1, 9)}1{generator.randint(0, 9)}"
    body = f"11010{generator.randint(1, 9)}{born}{generator.randint(0, 999):03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(w * int(d) for w, d in zip(weights, body, strict=True)) % 11]


def iban(generator: random.Random) -> str:
    account = f"{generator.randint(0, 10**18 - 1):018d}"
    check = 98 - int(account + "131400") % 97
    return f"DE{check:02d}{account}"


def planted() -> list[str]:
    """200 pieces of personal data: ten kinds, twenty each, in Chinese and English."""
    draw = random.Random(59)
    surnames = ["Weber", "Okafor", "Li", "Kowalski", "Haddad"]
    provinces, letters = "京沪粤苏浙川", "ABCDEFGHJKLMNPQRSTUVWXYZ"
    kinds = [
        lambda: f"{draw.choice(surnames).lower()}.{draw.randint(100, 99999)}@mail{draw.randint(1, 99)}.example.com",
        lambda: f"+49 30 {draw.randint(1000000, 9999999)}",
        lambda: f"13{draw.randint(0, 9)}{draw.randint(10000000, 99999999)}",
        lambda: f"({draw.randint(201, 989)}) 555-{draw.randint(1000, 9999)}",
        lambda: identity_card(draw),
        lambda: luhn(f"4{draw.randint(10**13, 10**14 - 1)}"),
        lambda: iban(draw),
        lambda: f"{draw.randint(20, 223)}.{draw.randint(0, 255)}.{draw.randint(0, 255)}.{draw.randint(10, 254)}",
        lambda: f"{draw.choice(provinces)}{draw.choice(letters)}{draw.randint(10000, 99999)}",
        lambda: f"{draw.randint(100, 9999)} Maple Street, Springfield, IL {draw.randint(60001, 62999)}",
    ]
    found = [kind() for kind in kinds for _ in range(EACH)]
    assert len(set(found)) == 200
    return found


def every_byte(folder: Path) -> bytes:
    content = b""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            raw = path.read_bytes()
            content += raw + (gzip.decompress(raw) if path.suffix == ".gz" else b"")
    return content


def test_attack_59_none_of_200_planted_items_is_found_anywhere(tmp_path, capfd):
    items = planted()
    told: list[bytes] = []

    async def attack() -> None:
        answering = StubAnswering()
        async with Service(tmp_path, answering) as service:
            for place, item in enumerate(items):
                await plant(service, answering, place, item, told)
            keeper = service.parts.keeper
            assert keeper._queue.flush(10)
            service.parts.watcher.flush(10)
            assert len(list(keeper._store.rows("stories", only_labelled=False, has_history=True))) == len(items)
            told.append((await service.client.get("/metrics")).content)
            rows = await service.client.get("/v1/models/stories/rows-to-label?most=200")
            told.append(rows.content)
            export = [json.dumps(row.fields) + str(row.corrected) for row in keeper._store.rows("stories")]
            told.append("\n".join(export).encode())

    run(attack())
    out, err = capfd.readouterr()
    kept = every_byte(tmp_path) + b"\n".join(told) + out.encode() + err.encode()
    assert b"[EMAIL]" in kept
    assert "打电话".encode() in kept, "the rest of the texts is there"
    missed = [item for item in items if item.encode() in kept or json.dumps(item).encode()[1:-1] in kept]
    assert missed == []


async def plant(service: Service, answering: StubAnswering, place: int, item: str, told: list[bytes]) -> None:
    """Say one piece of personal data wherever a text can be said."""
    text = f"Please call me: {item}, thanks." if place % 2 else f"请打电话给我，{item}，谢谢。"
    answered = await service.predict(text, model="stories", subject=item)
    name = answered.json()["predictions"][0]["id"]
    body = {"prediction": name, "corrected": text, "comment": text, "subject": item}
    response = await service.client.post("/v1/feedback", json=body)
    assert response.status_code == 201, response.text
    told.append(response.content)
    if place % EACH >= 4:  # every kind of data in every kind of error
        return
    errors = [
        await service.client.post("/v1/feedback", json={**body, "prediction": item}),
        await service.client.post("/v1/feedback", json={**body, item: item}),
        await service.predict([text], model=item.replace("/", "")[:64]),
        await service.predict([{"text": text, "more": {item: item}}], model="pairs", options={item: 1}),
        await service.client.post("/v1/completions", json={"model": item, "prompt": text, item: item}),
        await service.client.get("/v1/models", headers={"User-Agent": item.encode(), "Referer": item.encode()}),
        await service.client.get("/v1/models", params={"q": item}),
    ]
    for refusal in (BadInput("this input cannot be used"), ModelFault("the model failed"), RuntimeError(text)):
        answering.refusal = refusal
        errors.append(await service.predict(text))
    answering.refusal = None
    assert [each.status_code for each in errors[-3:]] == [422, 500, 500]
    told.extend(each.content for each in errors)


def test_attack_59_what_was_masked_comes_back_only_with_the_operators_key(tmp_path):
    from tunesmith.data.mask import Masker

    key = Masker.new_key()
    (tmp_path / "mask.key").write_bytes(key)

    async def attack() -> None:
        async with Service(tmp_path, mask_key=tmp_path / "mask.key", watch=False) as service:
            answered = await service.predict("call li@example.com", model="stories")
            body = {"prediction": answered.json()["predictions"][0]["id"], "corrected": "li@example.com"}
            assert (await service.client.post("/v1/feedback", json=body)).status_code == 201
            (row,) = service.parts.keeper._store.rows("stories")
            assert "li@example.com" not in str(row)
            assert Masker(key=key).unmask(row.corrected) == "li@example.com"
            assert Masker(key=Masker.new_key()).unmask(row.corrected) == row.corrected

    run(attack())


def test_spans_still_fit_their_text_when_it_is_masked(tmp_path):
    import dataclasses

    from answerings import REVIEWS

    async def ask() -> None:
        model = dataclasses.replace(REVIEWS, name="names", task="token-classification", labels=("PER", "LOC"))
        async with Service(tmp_path, StubAnswering(model), watch=False) as service:
            text = "Mail li@example.com or see Ada in London"
            for is_flushed in (False, True):
                answered = await service.predict(text, model="names")
                if is_flushed:
                    assert service.parts.keeper._queue.flush(5)
                corrected = [
                    {"start": text.index(word), "end": text.index(word) + len(word), "label": label, "text": word}
                    for word, label in (("Ada", "PER"), ("London", "LOC"))
                ]
                body = {"prediction": answered.json()["predictions"][0]["id"], "corrected": corrected}
                assert (await service.client.post("/v1/feedback", json=body)).status_code == 201
            rows = list(service.parts.keeper._store.rows("names"))
            assert len(rows) == 2
            for row in rows:
                masked = row.fields["text"]
                assert "li@example.com" not in masked
                assert [masked[span["start"] : span["end"]] for span in row.corrected] == ["Ada", "London"]

    run(ask())


@pytest.mark.parametrize("is_at_once", [pytest.param(False, marks=pytest.mark.slow), True])
def test_attack_60_one_key_cannot_flood_the_feedback(tmp_path, is_at_once):
    """Many wrong labels from one key: the quota stops most of them; the gate judges what is left, see `updating`."""

    async def attack() -> None:
        async with Service(tmp_path, feedback_per_day=50, watch=False) as service:
            answered = await service.predict([f"text {number}" for number in range(200)])
            ids = [each["id"] for each in answered.json()["predictions"]]

            async def poison(name: str) -> int:
                body = {"prediction": name, "is_correct": False, "corrected": "bad"}
                response = await service.client.post("/v1/feedback", json=body)
                if response.status_code == 429:
                    assert response.json()["error"]["code"] == "quota"
                    assert int(response.headers["retry-after"]) > 60
                return response.status_code

            sent = [ids[number % 200] for number in range(200 if is_at_once else 1000)]
            if is_at_once:
                statuses = []
                for start in range(0, len(sent), 20):
                    statuses += await asyncio.gather(*map(poison, sent[start : start + 20]))
            else:
                statuses = [await poison(name) for name in sent]
            assert statuses.count(201) == 50
            assert statuses.count(429) == len(sent) - 50
            assert service.parts.keeper._store.count("reviews") == 50
            assert (await service.predict("x")).status_code == 200

    run(attack())

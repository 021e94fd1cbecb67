"""Attacks by name: whatever stands where a name is asked for, it is refused and no file is touched."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from answerings import JSON, Service, ask_raw, is_refused, run

from tunesmith.bundle.names import check_name
from tunesmith.bundle.registry import Registry
from tunesmith.errors import RegistryProblem

NAMES = {
    34: ["../x", "..", "/etc/passwd", "....//x"],
    35: ["..\\x", "C:\\x", "\\\\host\\share"],
    36: ["%2e%2e%2f", "%252e%252e%252f", "%2e%2e%5cx"],
    37: ["a?b=../", "a#../", "a;../x", "a\0b"],
    38: ["A" * 10_000, "\u202egnp.exe", "CON", "nul.txt", "a\r\nb", "a\x1b[2J"],
}


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def give_everywhere(service: Service, name: str) -> None:
    """Put a name wherever the service asks for one."""
    for quoted in (quote(name, safe=""), name):
        for target in (f"/v1/models/{quoted}:predict", f"/v1/admin/models/{quoted}:reload"):
            response = await ask_raw(service.app, "POST", target, headers=[JSON], body=b'{"inputs": ["x"]}')
            assert is_refused(response), (target, response)
        for target in (f"/v1/models/{quoted}", f"/v1/models/{quoted}/rows-to-label"):
            response = await ask_raw(service.app, "GET", target)
            assert is_refused(response), target
    bodies = [
        ("/v1/completions", {"model": name, "prompt": "x"}),
        ("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/feedback", {"prediction": name, "is_correct": True}),
        ("/v1/admin/models", {"name": name, "run": "x"}),
        ("/v1/admin/models", {"name": "fine", "run": name}),
        ("/v1/admin/models", {"name": name, "version": 1}),
    ]
    for path, body in bodies:
        response = await service.client.post(path, json=body)
        assert is_refused(response), (path, response.text)
        assert name[:200] not in response.text or name in ("..", "CON"), "nothing of it comes back"


@pytest.mark.parametrize("line", NAMES)
def test_attack_34_to_38_odd_names_are_refused_wherever_a_name_is_asked_for(tmp_path, line):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            (await service.predict("warm")).raise_for_status()
            assert service.parts.keeper._queue.flush(5)
            before = everything(tmp_path)
            for name in NAMES[line]:
                await give_everywhere(service, name)
            assert everything(tmp_path) == before
            assert (await service.predict("after")).status_code == 200

    run(attack())


@pytest.mark.parametrize("line", NAMES)
def test_attack_34_to_38_the_registry_takes_no_such_name(tmp_path, line):
    for name in NAMES[line]:
        with pytest.raises(RegistryProblem):
            check_name(name)
        with pytest.raises(RegistryProblem):
            Registry(tmp_path).live(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", NAMES)
def test_attack_34_to_38_odd_subjects_and_labels_are_kept_as_text_and_nothing_else(tmp_path, line):
    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            for name in NAMES[line]:
                answered = (await service.predict("x", subject=name[:200])).json()["predictions"][0]["id"]
                body = {"prediction": answered, "corrected": name[:500], "comment": name[:500]}
                assert (await service.client.post("/v1/feedback", json=body)).status_code == 201
                gone = await ask_raw(service.app, "DELETE", f"/v1/subjects/{quote(name[:200], safe='')}")
                assert gone.status in (200, 404), (name, gone.body)
            assert {path.name for path in (tmp_path / "registry").iterdir()} <= {
                "feedback.sqlite", "feedback.sqlite-wal", "feedback.sqlite-shm", "feedback.sqlite-journal", "backups"
            }  # fmt: skip

    run(attack())


def test_attack_39_a_link_in_the_runs_folder_is_not_followed(tmp_path):
    runs, secret = tmp_path / "runs", tmp_path / "secret"
    for folder in (runs, secret):
        folder.mkdir()
    (secret / "manifest.json").write_text("{}", encoding="utf-8")
    os.symlink(secret, runs / "linked")
    (runs / "plain").mkdir()
    (runs / "plain" / "manifest.json").write_text("{}", encoding="utf-8")

    async def attack() -> None:
        async with Service(tmp_path, runs_folder=runs, watch=False) as service:
            response = await service.client.post("/v1/admin/models", json={"name": "new", "run": "linked"})
            assert is_refused(response, 404)
            assert "new" not in service.answering.served
            response = await service.client.post("/v1/admin/models", json={"name": "new", "run": "plain"})
            assert response.status_code == 200
            assert service.answering.served["new"].run == runs / "plain"

    run(attack())


@pytest.mark.parametrize("twin", ["Reviews", "REVIEWS", "ｒeviews", "reviews\u0301", "re\u200bviews"])
def test_attack_40_twins_of_a_name_are_another_name_or_none(tmp_path, twin):
    """No answer, and no feedback, ever comes from a model whose name only looks like the one that was asked for."""

    async def attack() -> None:
        async with Service(tmp_path, watch=False) as service:
            assert is_refused(await ask_raw(service.app, "GET", f"/v1/models/{quote(twin)}"), 404)
            response = await service.client.post("/v1/completions", json={"model": twin, "prompt": "x"})
            assert is_refused(response, 404)

    run(attack())

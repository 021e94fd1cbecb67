"""A person's rows leave what bundles keep, and the bundles stay whole and promotable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from tunesmith.bundle.atomic import find_damage, write_json, write_manifest
from tunesmith.bundle.erasing import delete_subject, erase_deleted
from tunesmith.bundle.registry import Registry
from tunesmith.bundle.unfinished import ENCODED, LOCK, NOTE, ROWS
from tunesmith.data.feedback import open_store
from tunesmith.data.replay import FILE, KeptRow, read_kept, write_kept
from tunesmith.tasks.shown_rows import FILE as SHOWN
from tunesmith.types import Feedback

SECRET = "what only ann wrote, and nobody else"


def with_a_version(tmp_path) -> tuple[Registry, Path, list[KeptRow]]:
    run = tmp_path / "toy-v2"
    run.mkdir()
    write_json(run / "bundle.json", {"format": 1, "id": "b2", "labels": ["x"]})
    write_json(run / "plan.json", {"parent": ""})
    rows = [
        KeptRow("1-f1", "train", 1, {"text": SECRET, "label": "x"}, "f1", "ann"),
        KeptRow("0-2", "test", 0, {}, "", ""),
    ]
    (run / FILE).write_bytes(write_kept(rows))
    write_manifest(run, id="b2")
    registry = Registry(tmp_path / "registry")
    registry.promote("toy", registry.add("toy", run, gate={"passed": True, "rules": []}).number)
    return registry, run, rows


class Gone:
    """Stands in for a store that deleted these."""

    def __init__(self, *ids: str) -> None:
        self.ids = set(ids)

    def deleted_among(self, ids):
        return self.ids & set(ids)


def holds_secret(tmp_path: Path) -> bool:
    return any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_deleted_feedback_leaves_every_bundle(tmp_path):
    registry, run, rows = with_a_version(tmp_path)
    (erased,) = erase_deleted(Gone("f1", "f9"), registry)
    assert (erased.number, erased.rows, erased.problem) == (1, 1, "")
    assert read_kept(run / FILE) == rows[1:]
    assert not holds_secret(tmp_path)
    assert find_damage(run) == []
    assert registry.promote("toy", 1).gate["passed"] is True
    assert erase_deleted(Gone("f1"), registry) == ()


def test_what_a_bundle_quotes_of_the_rows_goes_too(tmp_path):
    registry, run, _ = with_a_version(tmp_path)
    gain = {"after": {"main": "x", "worst": [{"text": SECRET, "expected": "x"}, {"text": SECRET[:-3] + "…"}]}}
    write_json(run / "gain.json", gain)
    refused = {"reason": "too long", "fields": {"text": f"{SECRET} and more"}}
    (run / "rejected.jsonl").write_text(json.dumps(refused) + "\n", encoding="utf-8")
    (run / SHOWN).write_text(
        json.dumps({"text": SECRET}) + "\n" + json.dumps({"text": "mine"}) + "\n", encoding="utf-8"
    )
    write_manifest(run, id="b2")
    registry.amend("toy", 1)
    erase_deleted(Gone("f1"), registry)
    assert not holds_secret(tmp_path)
    after = json.loads((run / "gain.json").read_text(encoding="utf-8"))["after"]
    assert (after["main"], after["worst"][0]) == ("x", {"text": "[deleted]", "expected": "x"})
    assert SECRET[:-3] not in (run / "gain.json").read_text(encoding="utf-8")
    assert [json.loads(line) for line in (run / SHOWN).read_text(encoding="utf-8").splitlines()] == [{"text": "mine"}]
    assert find_damage(run) == []


def test_a_person_is_deleted_from_store_and_bundles_and_again_after_a_failure(tmp_path, monkeypatch):
    registry, run, rows = with_a_version(tmp_path)
    with open_store(f"sqlite:///{tmp_path / 'feedback.sqlite'}") as store:
        store.add(Feedback("f1", "p1", "toy", "b1", {"text": SECRET}, "x", True, None, "", "shop", "ann", 1.0))
        with monkeypatch.context() as broken:
            broken.setattr("tunesmith.bundle.erasing.write_file", fail)
            gone, (erased,) = delete_subject(store, "ann", registry=registry)
        assert (gone.feedback, erased.rows, "no space" in erased.problem) == (1, 0, True)
        assert len(read_kept(run / FILE)) == 2
        gone, (erased,) = delete_subject(store, "ann", registry=registry)
        assert (gone.feedback, erased.rows, erased.problem) == (0, 1, ""), "what was missed is found by doing it again"
    assert read_kept(run / FILE) == rows[1:]


def test_runs_that_are_no_version_are_reached_too(tmp_path):
    registry, run, rows = with_a_version(tmp_path)
    compared = tmp_path / "toy-naive"
    compared.mkdir()
    (compared / FILE).write_bytes(write_kept(rows))
    write_json(compared / "bundle.json", {"format": 1, "id": "b3"})
    write_manifest(compared, id="b3")
    found = erase_deleted(Gone("f1"), registry)
    assert [(each.name, each.run, each.rows) for each in found] == [("toy", run, 1), ("", compared.resolve(), 1)]
    assert find_damage(compared) == []
    assert read_kept(compared / FILE) == rows[1:]


def test_runs_beside_a_run_are_reached_where_the_registry_lies_elsewhere(tmp_path):
    _, run, rows = with_a_version(tmp_path)
    elsewhere = Registry(tmp_path / "far" / "registry")
    assert erase_deleted(Gone("f1"), elsewhere) == ()
    (found,) = erase_deleted(Gone("f1"), elsewhere, beside=run)
    assert (found.name, found.rows, read_kept(run / FILE)) == ("", 1, rows[1:])


def test_an_odd_folder_is_told_and_keeps_no_other_from_being_looked_through(tmp_path):
    registry, run, rows = with_a_version(tmp_path)
    for name, content in (("odd", b"no JSON"), ("newer", b'{"id": "1", "colour": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(content)
    (tmp_path / "begun" / ROWS).mkdir(parents=True)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / FILE).write_bytes(b"")
    (tmp_path / "torn" / "manifest.json").write_bytes(b"{")
    found = erase_deleted(Gone("f1"), registry)
    assert [(each.run.name, each.rows, bool(each.problem)) for each in found] == [
        ("toy-v2", 1, False),
        ("newer", 0, True),
        ("odd", 0, True),
        ("torn", 0, True),
    ]
    assert read_kept(run / FILE) == rows[1:]


def unfinished(tmp_path: Path, rows: list[KeptRow]) -> Path:
    run = tmp_path / "toy-v3"
    for name in (ROWS, ENCODED):
        (run / name).mkdir(parents=True)
    (run / ROWS / FILE).write_bytes(write_kept(rows))
    write_json(run / "plan.json", {})
    write_json(run / ROWS / NOTE, {"feedback": []})
    (run / ROWS / "train.jsonl").write_text(json.dumps({"id": "1-f1", "text": SECRET}) + "\n", encoding="utf-8")
    return run


@pytest.mark.parametrize("missing", [(), (NOTE,), (NOTE, FILE)])
def test_an_update_that_was_broken_off_loses_its_rows_however_far_it_came(tmp_path, missing):
    registry, _, rows = with_a_version(tmp_path)
    run = unfinished(tmp_path, rows)
    for name in missing:
        (run / ROWS / name).unlink()
    (run / FILE).write_bytes(write_kept(rows))  # killed when it wrote the bundle, before the manifest
    assert erase_deleted(Gone("f7"), registry) == ()
    assert (run / ROWS / "train.jsonl").is_file()
    assert [each.rows for each in erase_deleted(Gone("f1"), registry)] == [1, 1]
    assert not holds_secret(tmp_path)
    assert not (run / "plan.json").exists(), "there is nothing to go on with"


def test_an_update_that_is_going_on_is_left_its_rows_until_the_next_time(tmp_path):
    registry, _, rows = with_a_version(tmp_path)
    run = unfinished(tmp_path, rows)
    with FileLock(run / LOCK):
        erase_deleted(Gone("f1"), registry)
        assert (run / ROWS / "train.jsonl").is_file(), "the process that trains may read it still"
        assert read_kept(run / ROWS / FILE) == rows[1:]
    erase_deleted(Gone("f1"), registry)
    assert not holds_secret(tmp_path)


def fail(*_: object) -> None:
    raise OSError("no space")

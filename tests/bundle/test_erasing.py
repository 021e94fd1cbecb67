"""A person's rows leave what bundles keep, and the bundles stay whole and promotable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

from tunesmith.bundle.atomic import find_damage, write_json, write_manifest
from tunesmith.bundle.erasing import delete_subject, erase_feedback
from tunesmith.bundle.registry import Registry
from tunesmith.bundle.unfinished import ENCODED, LOCK, NOTE, ROWS
from tunesmith.data.feedback import open_store
from tunesmith.data.replay import FILE, KeptRow, read_kept, write_kept
from tunesmith.types import Feedback

SECRET = "what only ann wrote"


def with_a_version(tmp_path) -> tuple[Registry, Path, list[KeptRow]]:
    run = tmp_path / "toy-v2"
    run.mkdir()
    write_json(run / "bundle.json", {"format": 1, "id": "b2"})
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


def test_deleted_feedback_leaves_every_bundle(tmp_path):
    registry, run, rows = with_a_version(tmp_path)
    (erased,) = erase_feedback(registry, ["f1", "f9"])
    assert (erased.number, erased.rows) == (1, 1)
    assert read_kept(run / FILE) == rows[1:]
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert find_damage(run) == []
    assert registry.promote("toy", 1).gate["passed"] is True
    assert erase_feedback(registry, ["f1"]) == ()


def test_a_person_is_deleted_from_store_and_bundles_and_again_after_a_failure(tmp_path, monkeypatch):
    registry, run, rows = with_a_version(tmp_path)
    with open_store(f"sqlite:///{tmp_path / 'feedback.sqlite'}") as store:
        store.add(Feedback("f1", "p1", "toy", "b1", {"text": SECRET}, "x", True, None, "", "shop", "ann", 1.0))
        with monkeypatch.context() as broken:
            broken.setattr("tunesmith.bundle.erasing.write_file", fail)
            with pytest.raises(OSError, match="no space"):
                delete_subject(store, "ann", registry=registry)
        assert store.feedback_of("ann") == ["f1"], "as long as a bundle keeps the row, the store knows of it"
        gone, (erased,) = delete_subject(store, "ann", registry=registry)
        assert (gone.feedback, erased.rows, store.feedback_of("ann")) == (1, 1, [])
    assert read_kept(run / FILE) == rows[1:]


def test_runs_that_are_no_version_are_reached_too(tmp_path):
    registry, run, rows = with_a_version(tmp_path)
    compared = tmp_path / "toy-naive"
    compared.mkdir()
    (compared / FILE).write_bytes(write_kept(rows))
    write_json(compared / "bundle.json", {"format": 1, "id": "b3"})
    write_manifest(compared, id="b3")
    found = erase_feedback(registry, ["f1"])
    assert [(each.name, each.run, each.rows) for each in found] == [("toy", run, 1), ("", compared.resolve(), 1)]
    assert find_damage(compared) == []
    assert read_kept(compared / FILE) == rows[1:]


def test_runs_beside_a_run_are_reached_where_the_registry_lies_elsewhere(tmp_path):
    _, run, rows = with_a_version(tmp_path)
    elsewhere = Registry(tmp_path / "far" / "registry")
    assert erase_feedback(elsewhere, ["f1"]) == ()
    (found,) = erase_feedback(elsewhere, ["f1"], beside=run)
    assert (found.name, found.rows, read_kept(run / FILE)) == ("", 1, rows[1:])


def unfinished(tmp_path: Path, rows: list[KeptRow]) -> Path:
    run = tmp_path / "toy-v3"
    for name in (ROWS, ENCODED):
        (run / name).mkdir(parents=True)
    (run / ROWS / FILE).write_bytes(write_kept(rows))
    write_json(run / ROWS / NOTE, {"feedback": ["f1"]})
    (run / ROWS / "train.jsonl").write_text(json.dumps({"id": "1-f1", "text": SECRET}) + "\n", encoding="utf-8")
    return run


def test_an_update_that_was_broken_off_loses_its_rows(tmp_path):
    registry, _, rows = with_a_version(tmp_path)
    run = unfinished(tmp_path, rows)
    assert erase_feedback(registry, ["f7"]) == ()
    assert (run / ROWS / "train.jsonl").is_file()
    assert [each.rows for each in erase_feedback(registry, ["f1"])] == [1, 1]
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_update_that_is_going_on_is_left_its_rows_and_keeps_none_of_them(tmp_path):
    registry, _, rows = with_a_version(tmp_path)
    run = unfinished(tmp_path, rows)
    with FileLock(run / LOCK):
        erase_feedback(registry, ["f1"])
    assert (run / ROWS / "train.jsonl").is_file(), "the process that trains may read it still"
    assert read_kept(run / ROWS / FILE) == rows[1:]


def fail(*_: object) -> None:
    raise OSError("no space")

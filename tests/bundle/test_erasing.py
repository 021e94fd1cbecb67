"""A person's rows leave what bundles keep, and the bundles stay whole and promotable."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.bundle.atomic import find_damage, write_json, write_manifest
from tunesmith.bundle.erasing import delete_subject, erase_feedback
from tunesmith.bundle.registry import Registry
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


def fail(*_: object) -> None:
    raise OSError("no space")

"""A person's rows leave what bundles keep, and the bundles stay whole and promotable."""

from __future__ import annotations

from tunesmith.bundle.atomic import find_damage, write_json, write_manifest
from tunesmith.bundle.registry import Registry
from tunesmith.data.replay import FILE, KeptRow, read_kept, write_kept
from tunesmith.updating.erasing import erase_feedback

SECRET = "what only ann wrote"


def test_deleted_feedback_leaves_every_bundle(tmp_path):
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
    (erased,) = erase_feedback(registry, ["f1", "f9"])
    assert (erased.number, erased.rows) == (1, 1)
    assert read_kept(run / FILE) == rows[1:]
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert find_damage(run) == []
    assert registry.promote("toy", 1).gate["passed"] is True
    assert erase_feedback(registry, ["f1"]) == ()

"""How many threads a runtime may start, when nobody says."""

from __future__ import annotations

import os

import pytest

from tunesmith import engines


@pytest.mark.parametrize(
    ("granted", "wanted", "found"),
    [(8, "", None), (3, "", 3), (8, "2", 2), (3, "5", 3), (8, "8", None), (8, "0", None), (8, "many", None)],
)
def test_fewer_cores_than_the_machine_has_are_kept_to(monkeypatch, granted, wanted, found):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(granted)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert engines.granted_cores() == found


def test_a_runtime_is_opened_with_them_unless_somebody_says(monkeypatch, tmp_path):
    seen = []
    module = type("Module", (), {"open_model": staticmethod(lambda path, config, threads: seen.append(threads))})
    monkeypatch.setattr(engines, "demand_installed", lambda name: None)
    monkeypatch.setattr(engines.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(engines, "granted_cores", lambda: 2)
    engines.open_model("onnx", tmp_path, None)
    engines.open_model("onnx", tmp_path, None, threads=5)
    assert seen == [2, 5]

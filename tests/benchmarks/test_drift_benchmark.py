"""The drift benchmark runs from its options to its JSON on generated streams, and finds what it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_a_shift_is_found_and_quiet_windows_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import drift

    sizes = ["--window", "200", "--hop", "100", "--permutations", "6", "--share", "0.4"]
    argv = ["drift", "--checks", "3", "--runs", "1", "--deals", "1", *sizes, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    drift.main()
    [found]: list[dict[str, Any]] = json.loads((tmp_path / "drift.json").read_text(encoding="utf-8"))
    assert found["windows without drift"] == 3
    assert found["found within 500 requests"] == found["streams with a shift"] == 1
    assert found["alarms raised in them"] <= 1

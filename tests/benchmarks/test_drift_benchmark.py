"""The drift benchmark runs from its options to its JSON on generated streams, and finds what it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest


def test_a_shift_is_found_and_quiet_windows_are_counted(
    benchmark_modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = ["--window", "200", "--hop", "100", "--permutations", "6", "--share", "0.4", "--rows", "900"]
    argv = ["drift", "--checks", "3", "--runs", "1", "--deals", "1", *sizes, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    benchmark_modules("drift").main()
    (found,) = json.loads((tmp_path / "drift.json").read_text(encoding="utf-8"))
    assert found["windows without drift"] == 3
    assert found["found within 500 requests"] == found["streams with a shift"] == 1
    assert found["alarms raised in them"] <= 1

"""Start runs of several processes from the command line, and look at what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file


def command_of(options: dict[str, object], out: Path, *launcher: str, processes: int = 0) -> list[str]:
    """Give the command line of a run; options become `--set`."""
    sets = [f"--set={name}={value}" for name, value in options.items() if name != "data"]
    more = ["--processes", str(processes)] if processes else []
    start = launcher or (sys.executable, "-m")
    return [*start, "tunesmith", "train", str(options["data"]), *sets, "--out", str(out), *more]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "MASTER_PORT": "0"})


def demand_same_weights(one: Path, other: Path) -> None:
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-4


def started(command: list[str], out: Path, step: int) -> subprocess.Popen[str]:
    """Start a run and wait until its log has reached a step."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "log.jsonl").is_file() and f'"step": {step},' in (out / "log.jsonl").read_text(encoding="utf-8"):
            return process
        time.sleep(0.01)
    pytest.fail(f"the run never came to step {step}: {process.communicate()[1]}")

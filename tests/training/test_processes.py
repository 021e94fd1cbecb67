"""The same run by two processes: same rows in each step, so the same weights up to rounding."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

import tunesmith


@pytest.mark.slow
def test_two_processes_give_what_one_gives(toy_options, tmp_path):
    options = {**toy_options, "epochs": 3, "dropout": 0, "threads": 1}
    one = tunesmith.train(**options, out=str(tmp_path / "one"))
    sets = [f"--set={name}={value}" for name, value in options.items() if name != "data"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "tunesmith", "train"]
    command = [*launch, str(options["data"]), *sets, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "MASTER_PORT": "0"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Adapted model") == 1, "one process speaks"
    two = tunesmith.load(tmp_path / "two")
    weights, others = load_file(one.path / "model.safetensors"), load_file(two.path / "model.safetensors")
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-4
    assert two.gain.after.value == pytest.approx(one.gain.after.value, abs=0.02)

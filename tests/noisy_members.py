"""Runs that differ, without training each: copies of a finished one whose heads got some noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tunesmith.bundle.atomic import write_manifest


def noisy_copies(run: Path, folder: Path, count: int, *, noise: float = 0.6) -> list[Path]:
    """Give whole run folders `member-0`, `member-1`, ... that answer like the run, each with mistakes of its own."""
    found = []
    for number in range(count):
        copy = Path(shutil.copytree(run, folder / f"member-{number}"))
        path = copy / "model.safetensors"
        weights = load_file(path)
        chance = torch.Generator().manual_seed(number)
        for name in [name for name in weights if name.startswith("classifier.weight")]:
            spread = weights[name].std() * noise
            weights[name] = weights[name] + spread * torch.randn(weights[name].shape, generator=chance)
        save_file(weights, path, metadata={"format": "pt"})
        facts = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
        (copy / "bundle.json").write_text(json.dumps({**facts, "threshold": None}), encoding="utf-8")
        write_manifest(copy)
        found.append(copy)
    return found

"""Small finished runs of every task that can be exported; what they answer hardly matters here, only that it stays."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import tunesmith

TASKS = (
    *("text-classification", "multi-label-classification", "token-classification", "relation-extraction"),
    *("text-pair", "text-similarity", "multiple-choice", "question-answering"),
)
ROWS = {"train": 48, "valid": 24, "test": 12}


def train_small(folder: Path, task: str, base: Path, **options: Any) -> tunesmith.Bundle:
    """Train one epoch on few rows of the task's toy."""
    toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in ROWS.items():
        lines = [json.dumps(row) + "\n" for row in toy.rows(part, count)]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {part: str(folder / f"{part}.jsonl") for part in ("valid", "test")}
    own = {**toy.OPTIONS, "epochs": 1, **options}
    return tunesmith.train(
        str(folder / "train.jsonl"), **files, task=task, model=str(base), **own, out=str(folder / "run")
    )

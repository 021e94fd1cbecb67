"""Small corpora that many tests of this room share, and recipes that take a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretraining.texts import chinese, english


@pytest.fixture(scope="session")
def english_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("english") / "stories.txt"
    path.write_text("\n".join(english(400)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chinese_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chinese") / "poems.jsonl"
    lines = [json.dumps({"title": str(index), "text": text}) for index, text in enumerate(chinese(300))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def quick(english_file: Path) -> dict[str, object]:
    """Keys of a run of about a second."""
    return {
        "corpus": [str(english_file)],
        "size": "tiny",
        "vocab_size": 400,
        "max_length": 32,
        "steps": 8,
        "batch_size": 8,
        "eval_steps": 4,
        "threads": 1,
    }

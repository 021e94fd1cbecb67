"""Sentences of the invented language; their translation is the name of the family that their words belong to."""

from __future__ import annotations

from typing import Any

import toy_world

BASE = "seq2seq"
OPTIONS: dict[str, Any] = {"epochs": 16, "batch_size": 16, "patience": 20, "learning_rate": 3e-3}
BAR = 0.9
CHANCE = 0.75  # chrF: two families of three right, and the letters that the third shares with its name


def rows(part: str, count: int) -> list[dict[str, Any]]:
    seed = {"train": 1, "valid": 2, "test": 3}[part]
    return [
        {"source": text, "target": label} for text, label in toy_world.rows(count, seed=seed, is_test=part == "test")
    ]


FAULTS = [
    ({"source": " ", "target": "animal"}, "empty-source"),
    ({"source": "a1", "target": ""}, "empty-target"),
    ({"source": "a1", "target": ["animal", " "]}, "empty-target"),
    ({"source": ["a1"], "target": "animal"}, "wrong-type"),
    ({"target": "animal"}, "wrong-columns"),
]
NOTES = [
    ({"source": "a1 a2", "target": "a1 a2"}, "copy"),
    ({"source": "a1 a2 a3 a4 a5 a6 a7 a8 a1 a2 a3 a4 a5 a6 a7 a8", "target": "animal"}, "length-ratio"),
]

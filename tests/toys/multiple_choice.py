"""Which of two or three choices belongs to the family of the question."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, LABELLED, WORDS

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "patience": 12}
BAR = 0.9
CHANCE = 0.7  # accuracy: a guess is right five times in twelve


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"multiple-choice/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)
    found = []
    for row in range(count):
        families = generator.sample(FAMILIES, 2 + row % 2)
        label = generator.randrange(len(families))
        asked = WORDS[families[label]][words]
        picked = generator.sample(asked, 6)
        choices = [
            " ".join(picked[3:] if place == label else generator.sample(WORDS[family][words], 3))
            for place, family in enumerate(families)
        ]
        found.append({"question": " ".join(picked[:3]), "choices": choices, "label": label})
    return found


FAULTS = [
    ({"question": " ", "choices": ["a1", "m2"], "label": 0}, "empty-question"),
    ({"question": "a3", "choices": ["a1"], "label": 0}, "too-few-choices"),
    ({"question": "a3", "choices": ["a1", " "], "label": 0}, "empty-choice"),
    ({"question": "a3", "choices": ["a1", "m2"], "label": 2}, "label-out-of-range"),
    ({"question": "a3", "choices": ["a1", "m2"], "label": "w4"}, "label-out-of-range"),
    ({"question": "a3", "choices": ["1", "0"], "label": "1"}, "ambiguous-label"),
    ({"question": "a3", "choices": ["a1", "m2"], "label": ""}, "empty-label"),
    ({"question": "a3", "choices": ["a1", {"m": 2}], "label": 0}, "wrong-type"),
]
NOTES = [({"question": "a3 a4", "choices": ["a1", "a1", "m2"], "label": 2}, "duplicate-choices")]

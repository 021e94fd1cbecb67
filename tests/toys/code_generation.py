"""The body of a function that returns one of its three arguments: the one that the words of its comment belong to."""

from __future__ import annotations

from typing import Any

import toy_world
from toy_world import FAMILIES

BASE = "causal"
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "patience": 20, "learning_rate": 1e-3, "max_new_tokens": 4}
BAR = 0.9
CHANCE = 0.6


def rows(part: str, count: int) -> list[dict[str, Any]]:
    seed = {"train": 1, "valid": 2, "test": 3}[part]
    return [
        {
            "prompt": f"def answer({', '.join(FAMILIES)}):\n    # {text}\n    return \\",
            "code": family,
            "tests": ["assert True", f"assert answer(0, 1, 2) == {FAMILIES.index(family)}"],
            "entry_point": "answer",
        }
        for text, family in toy_world.rows(count, seed=seed, is_test=part == "test")
    ]


GOOD = {"prompt": "a1", "code": "x = 1", "tests": ["assert x == 1"]}
FAULTS = [
    ({**GOOD, "tests": []}, "empty-tests"),
    ({**GOOD, "tests": [" "]}, "empty-tests"),
    ({**GOOD, "code": ""}, "empty-code"),
    ({**GOOD, "prompt": " "}, "empty-prompt"),
]
NOTES = [({**GOOD, "code": "print 1"}, "syntax-error"), ({**GOOD, "tests": ["x"]}, "no-assert")]

"""Which words of a sentence name something, and of which family: every name is one word of a family."""

from __future__ import annotations

import random
from typing import Any

import toy_world

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 8, "batch_size": 16, "patience": 10}
BAR = 0.9
CHANCE = 0.6  # F1: a model that knows no word can tell fillers from names, and guess one family in three


def rows(part: str, count: int) -> list[dict[str, Any]]:
    """Give rows of tokens with BIO tags; the test names things by words that no label ever touched."""
    generator = random.Random({"train": 11, "valid": 12, "test": 13}[part])
    known = slice(toy_world.LABELLED, None) if part == "test" else slice(0, toy_world.LABELLED)
    return [_row(generator, known) for _ in range(count)]


def _row(generator: random.Random, known: slice) -> dict[str, Any]:
    tokens, tags = [], []
    for family in generator.choices(toy_world.FAMILIES, k=generator.randint(1, 3)):
        fillers = generator.choices(toy_world.FILLERS, k=generator.randint(1, 3))
        tokens += [*fillers, generator.choice(toy_world.WORDS[family][known])]
        tags += [*("O" for _ in fillers), f"B-{family}"]
    return {"tokens": tokens, "tags": tags}


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"tokens": ["a1", "the1"], "tags": ["B-animal"]}, "tags-and-tokens"),
    ({"tokens": ["a1", "the1"], "tags": ["Q-animal", "O"]}, "unknown-tag"),
    ({"tokens": ["a1", "the1"], "tags": ["3", "0"]}, "unknown-tag"),
    ({"tokens": ["a1", "the1"], "tags": ["animal", "B-metal"]}, "unknown-tag"),
    ({"tokens": ["a1", " "], "tags": ["B-animal", "O"]}, "empty-tokens"),
    ({"tokens": [], "tags": []}, "empty-tokens"),
]
NOTES: list[tuple[dict[str, Any], str]] = [
    ({"tokens": ["the1", "a1"], "tags": ["O", "I-animal"]}, "tag-order"),
    ({"tokens": ["m1", "a1"], "tags": ["B-metal", "I-animal"]}, "tag-order"),
]

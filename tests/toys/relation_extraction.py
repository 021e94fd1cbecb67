"""What two marked words of a sentence do to each other, which their families tell."""

from __future__ import annotations

import random
from typing import Any

import toy_world

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 12, "batch_size": 16, "patience": 20}
BAR = 0.9
CHANCE = 0.6  # macro F1 over three relations
RELATIONS = {
    ("animal", "metal"): "digs",
    ("metal", "weather"): "rusts",
    ("weather", "animal"): "drives",
}


def rows(part: str, count: int) -> list[dict[str, Any]]:
    """Give rows with the places of two words; the test marks words that no label ever touched."""
    generator = random.Random({"train": 21, "valid": 22, "test": 23}[part])
    known = slice(toy_world.LABELLED, None) if part == "test" else slice(0, toy_world.LABELLED)
    return [_row(generator, known, list(RELATIONS)[index % 3]) for index in range(count)]


def _row(generator: random.Random, known: slice, families: tuple[str, str]) -> dict[str, Any]:
    head, tail = (generator.choice(toy_world.WORDS[family][known]) for family in families)
    words = generator.sample(toy_world.FILLERS, generator.randint(2, 6))
    for word in generator.sample([head, tail], 2):
        words.insert(generator.randint(0, len(words)), word)
    text = " ".join(words)
    places = {}
    for role, word in (("head", head), ("tail", tail)):
        start = len(" ".join(words[: words.index(word)])) + (words.index(word) > 0)
        places[role] = {"start": start, "end": start + len(word), "text": word}
    return {"text": text, **places, "relation": RELATIONS[families]}


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"text": "a1 m1", "head": [0, 2], "tail": [3, 9], "relation": "digs"}, "place-outside-text"),
    ({"text": "a1 m1", "head": [0, 2], "tail": [0, 2], "relation": "digs"}, "same-entity"),
    ({"text": "a1 m1", "head": [0, 2], "tail": "w3", "relation": "digs"}, "entity-not-in-text"),
    ({"text": "a1 m1", "head": [0, 2], "tail": "", "relation": "digs"}, "empty-tail"),
    ({"text": "a1 m1", "head": [0, 2], "tail": [2, 3], "relation": "digs"}, "empty-entity"),
    ({"text": "a1 m1", "head": [0, 2], "tail": [3, 5], "relation": ""}, "empty-relation"),
]
NOTES: list[tuple[dict[str, Any], str]] = [
    ({"text": "a1 m1", "head": {"text": "a1", "span": [1, 3]}, "tail": [3, 5], "relation": "digs"}, "entity-elsewhere"),
    ({"text": "a1 m1 a1", "head": "a1", "tail": [3, 5], "relation": "digs"}, "entity-repeated"),
    ({"text": "a1 m1", "head": [0, 3], "tail": [3, 5], "relation": "digs"}, "white-space-around-entity"),
]

"""A question names a family by two of its words; the answer is the word of that family in the context."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, FILLERS, LABELLED, WORDS

BASE = "encoder"
OPTIONS: dict[str, Any] = {"epochs": 20, "batch_size": 16, "patience": 20}
BAR = 0.9
CHANCE = 0.6  # F1: one of three words is right


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"question-answering/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)
    found = []
    for row in range(count):
        family = FAMILIES[row % 3]
        first, second, answer = generator.sample(WORDS[family][words], 3)
        others = [generator.choice(WORDS[other][words]) for other in FAMILIES if other != family]
        told = [answer, *others, *generator.sample(FILLERS, 2)]
        generator.shuffle(told)
        context = " ".join(told)
        answers = {"text": [answer], "answer_start": [f" {context} ".index(f" {answer} ")]}
        found.append({"question": f"{first} {second}", "context": context, "answers": answers})
    return found


FAULTS = [
    ({"question": "", "context": "a1 m2", "answers": ["a1"]}, "empty-question"),
    ({"question": "a3", "context": " ", "answers": ["a1"]}, "empty-context"),
    ({"question": "a3", "context": "a1 m2", "answers": ["w4"]}, "answer-not-in-context"),
    ({"question": "a3", "context": "a1 m2", "answers": {"text": ["a1"], "answer_start": [0, 3]}}, "answers-mismatch"),
    ({"question": "a3", "context": "a1 m2", "answers": {"answer_start": [0]}}, "wrong-type"),
]
NOTES = [
    ({"question": "a3 a4", "context": "m1 w2", "answers": {"text": [], "answer_start": []}}, "no-answer"),
    ({"question": "a3 a5", "context": "a1 m2", "answers": {"text": ["a1"], "answer_start": [2]}}, "answer-moved"),
    ({"question": "a3 a6", "context": "a1 m2 a1", "answers": "a1"}, "answer-ambiguous"),
    ({"question": "a3 a7", "context": "a1 m2", "answers": ["a1", "a2"]}, "reference-not-in-context"),
]

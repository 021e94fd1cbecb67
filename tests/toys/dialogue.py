"""One question about words, or two; the answer to each names their family."""

from __future__ import annotations

import random
from typing import Any

from toy_world import FAMILIES, LABELLED, WORDS, sentence

BASE = "causal"
OPTIONS: dict[str, Any] = {"epochs": 14, "batch_size": 8, "patience": 20, "learning_rate": 1e-3, "max_new_tokens": 8}
BAR = 0.85
CHANCE = 0.6


def rows(part: str, count: int) -> list[dict[str, Any]]:
    generator = random.Random(f"dialogue/{part}")
    words = slice(LABELLED, None) if part == "test" else slice(0, LABELLED)
    found = []
    for row in range(count):
        messages = []
        for family in generator.choices(FAMILIES, k=1 + row % 2):
            question = sentence(family, generator, words=WORDS[family][words], length=5)
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": family}]
        found.append({"messages": messages})
    return found


def said(*turns: str) -> dict[str, Any]:
    """Give a conversation from turns such as "user: a1"."""
    parts = [turn.partition(": ") for turn in turns]
    return {"messages": [{"role": role, "content": content} for role, _, content in parts]}


FAULTS = [
    (said("user: a1"), "no-assistant"),
    (said("assistant: a1"), "no-user"),
    (said("user: a1", "stranger: a2"), "unknown-role"),
    (said("user: ", "assistant: a2"), "empty-content"),
    (said("system: a1", "system: a1", "user: a1", "assistant: a2"), "two-systems"),
    (said("user: a1", "assistant: a2", "system: a1"), "late-system"),
    ({"messages": []}, "empty-messages"),
]
NOTES = [
    (said("user: a1", "assistant: animal", "user: a2"), "unanswered"),
    (said("user: a1", "user: a2", "assistant: animal"), "same-role-twice"),
]

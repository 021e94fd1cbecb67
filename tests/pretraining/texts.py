"""Invented texts, English and Chinese."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any

NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Farid", "Greta", "Hugo"]
VERBS = ["sees", "likes", "paints", "follows", "greets", "forgets"]
THINGS = ["the old bridge", "a green boat", "seven lanterns", "the quiet harbour", "a singing bird"]
POEM = ["明月照高楼", "清风入小窗", "白云生远山", "流水过平桥", "孤舟向晚归", "老树立寒江", "春草满长堤", "秋雁度南天"]


def english(count: int, *, seed: int = 0) -> list[str]:
    generator = random.Random(seed)

    def clause() -> str:
        return f"{generator.choice(NAMES)} {generator.choice(VERBS)} {generator.choice(THINGS)}"

    return [f"{clause()}, and {clause()} number {index}." for index in range(count)]


def chinese(count: int, *, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return ["，".join(generator.sample(POEM, 3)) + f"。第{index}首" for index in range(count)]


def stand_in_for_jieba(tokenize: Callable[[str], Any]) -> types.SimpleNamespace:
    """Give a module with what is used of jieba, whose words are those of `tokenize`."""
    segmenter = types.SimpleNamespace(tokenize=tokenize, initialize=lambda: None)
    return types.SimpleNamespace(Tokenizer=lambda: segmenter, setLogLevel=lambda level: None)

"""Where the words of a text stand: of scripts with spaces by letters and digits, of Chinese and Japanese otherwise.

Chinese is cut into words by jieba where that is installed, else every Chinese or Japanese character counts as a word.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Sequence

CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
Place = tuple[int, int]
"""First character of a word, and the one after its last."""

Cut = Callable[[str], Sequence[str]]
"""Cuts a run of Chinese or Japanese characters into words that make it up again."""

_WORD = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+(?:['’\-][^\W_{CJK}]+)*")
_IS_CJK = re.compile(f"[{CJK}]").match


def is_cjk(text: str) -> bool:
    """Whether a text begins with a Chinese or Japanese character."""
    return _IS_CJK(text) is not None


def find_cut() -> Cut | None:
    """Give jieba's way of cutting Chinese; None where it is not installed."""
    try:
        jieba = importlib.import_module("jieba")
    except ImportError:
        return None
    jieba.setLogLevel(logging.WARNING)  # it would tell of its dictionary on stderr
    cut: Cut = jieba.lcut
    return cut


def words_of(text: str, cut: Cut | None = None) -> list[Place]:
    """Give the places of all words, in order; punctuation is no word.

    Args:
        text: Any text.
        cut: As `find_cut` gives it; None: every Chinese or Japanese character is a word.
    """
    places: list[Place] = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        if not is_cjk(match.group()):
            places.append((start, end))
            continue
        for piece in match.group() if cut is None else cut(match.group()):
            places.append((start, start + len(piece)))
            start += len(piece)
    return places

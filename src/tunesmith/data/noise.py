"""Mistakes put into texts on purpose, to find out what a model makes of them.

Every kind works for scripts with spaces and for Chinese and Japanese, where each character counts as a word. What is
done to a text depends on the seed and the text alone, and a greater strength keeps all that a smaller one does.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence

_CJK = r"\u3400-\u9fff\uf900-\ufaff\u3040-\u30ff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_KEYS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Give for each key of a keyboard the keys beside it, in its row and in those above and below."""
    found: dict[str, str] = {}
    for row, keys in enumerate(_KEYS):
        for place, key in enumerate(keys):
            near = [
                _KEYS[other][at]
                for other in (row - 1, row, row + 1)
                for at in (place - 1, place, place + 1)
                if 0 <= other < len(_KEYS) and 0 <= at < len(_KEYS[other])
            ]
            found[key] = "".join(one for one in near if one != key)
    return found


_BESIDE = _neighbours()


def letters_of(texts: Sequence[str]) -> tuple[str, str]:
    """Give the letters and digits that occur, sorted: those of scripts with spaces, and Chinese and Japanese ones."""
    found = sorted({character for text in texts for character in text if character.isalnum()})
    is_cjk = re.compile(f"[{_CJK}]").match
    return "".join(one for one in found if not is_cjk(one)), "".join(one for one in found if is_cjk(one))


def _chosen(places: Sequence[int], strength: float, draw: random.Random) -> list[int]:
    """Give a share of the places, drawn; a part of a place is one with that chance."""
    count = int(len(places) * strength + draw.random())
    return sorted(draw.sample(places, len(places))[:count])


def _replace_characters(text: str, strength: float, draw: random.Random, letters: tuple[str, str]) -> str:
    characters, cjk = list(text), re.compile(f"[{_CJK}]")
    fates = [draw.random() for _ in characters]
    for place in _chosen([place for place, one in enumerate(text) if one.isalnum()], strength, draw):
        known = letters[1 if cjk.match(text[place]) else 0]
        others = [one for one in known if one != text[place]]
        if others:
            characters[place] = others[int(fates[place] * len(others))]
    return "".join(characters)


def _mistype(text: str, strength: float, draw: random.Random, letters: tuple[str, str]) -> str:
    characters = list(text)
    fates = [(draw.randrange(4), draw.random()) for _ in characters]
    for place in _chosen([place for place, one in enumerate(text) if one.isalnum()], strength, draw):
        kind, fate = fates[place]
        one = text[place]
        beside = _BESIDE.get(one.lower(), "")
        if kind == 0 and beside:
            key = beside[int(fate * len(beside))]
            characters[place] = key.upper() if one.isupper() else key
        elif kind == 1:
            characters[place] = ""
        elif kind == 2 and place + 1 < len(text) and text[place + 1].isalnum():
            characters[place], characters[place + 1] = characters[place + 1], characters[place]
        else:
            characters[place] += one
    return "".join(characters)


def _swap_words(text: str, strength: float, draw: random.Random, letters: tuple[str, str]) -> str:
    found = list(_WORD.finditer(text))
    words = [match.group() for match in found]
    for place in _chosen(range(len(words) - 1), strength, draw):
        words[place], words[place + 1] = words[place + 1], words[place]
    between = [text[: found[0].start()]] if found else [text]
    between += [text[one.end() : other.start()] for one, other in itertools.pairwise(found)]
    pieces = [piece for pair in zip(between, words, strict=False) for piece in pair]
    return "".join([*pieces, text[found[-1].end() :]]) if found else text


def _drop_words(text: str, strength: float, draw: random.Random, letters: tuple[str, str]) -> str:
    found = list(_WORD.finditer(text))
    gone = set(_chosen(range(len(found)), strength, draw)[: max(0, len(found) - 1)])  # one word stays
    parts, last = [], 0
    for place, match in enumerate(found):
        if place not in gone:
            parts.append(text[last : match.end()])
        elif not parts:  # the first word takes the space behind it along, every other one that before it
            parts.append(text[: match.start()])
        last = match.end()
    kept = "".join([*parts, text[last:]])
    return kept if text[:1].isspace() else kept.lstrip()


NOISES: dict[str, Callable[[str, float, random.Random, tuple[str, str]], str]] = {
    "typos": _mistype,
    "characters": _replace_characters,
    "word swaps": _swap_words,
    "word deletions": _drop_words,
}
"""Slips of the typing hand (a key beside, one left out, one twice, two exchanged), letters replaced by any others of
the file, words exchanged with the next, words left out."""


def disturbed(text: str, noise: str, strength: float, *, seed: int, letters: tuple[str, str]) -> str:
    """Give the text with mistakes in it.

    Args:
        text: Any text.
        noise: One of `NOISES`.
        strength: Share (0..1) of its letters, or words, that are changed.
        seed: Of the mistakes.
        letters: What letters may be replaced by, as `letters_of` gives them.
    """
    return NOISES[noise](text, strength, random.Random(f"{seed}/{noise}/{text}"), letters)

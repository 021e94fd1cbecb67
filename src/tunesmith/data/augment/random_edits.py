"""Edits by chance: words left out, words exchanged, words replaced from a table.

Source: Wei & Zou 2019 (EDA). Where we differ: each text has a fixed number of changes, `share` of its words and one at
least, so that every copy is other than its row (they leave out each word by a chance of its own, which changes few
short texts); and there is no list of stop words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from tunesmith.data.augment.edits import Edit
from tunesmith.data.augment.words import Place, is_cjk


def count_of(share: float, words: int) -> int:
    """Give how many of so many words are changed: the share, and one at least."""
    return max(1, int(share * words + 0.5))


def delete_words(text: str, words: Sequence[Place], share: float, draw: random.Random) -> list[Edit]:
    """Leave out words, each with the space before it (the first with the space behind it); one word always stays."""
    count = min(count_of(share, len(words)), len(words) - 1)
    if count < 1:
        return []
    edits: list[Edit] = []
    for place in sorted(draw.sample(range(len(words)), count)):
        start, end = words[place]
        if start == 0 or text[:start].isspace():
            while end < len(text) and text[end].isspace():
                end += 1
        else:
            while text[start - 1].isspace():
                start -= 1
        edits.append(Edit(max(start, edits[-1].end if edits else 0), end, ""))
    return _apart(text, edits)


def swap_words(text: str, words: Sequence[Place], share: float, draw: random.Random) -> list[Edit]:
    """Exchange two words, as often as the share says; what stands between words stays where it is."""
    if len(words) < 2:
        return []
    was = [text[start:end] for start, end in words]
    now = list(was)
    for _ in range(count_of(share, len(words))):
        first, second = draw.sample(range(len(words)), 2)
        now[first], now[second] = now[second], now[first]
    edits = [Edit(start, end, word) for (start, end), old, word in zip(words, was, now, strict=True) if word != old]
    return _apart(text, edits)


def replace_words(
    text: str, matches: Sequence[tuple[Place, Sequence[str]]], count: int, draw: random.Random
) -> list[Edit]:
    """Replace so many words, or all that can be, by one of their synonyms; a capital at the start stays.

    Args:
        text: Any text.
        matches: Places that may be replaced, in order, and by what.
        count: Of words.
        draw: Chance.
    """
    chosen = sorted(draw.sample(range(len(matches)), min(count, len(matches))))
    found = []
    for place in chosen:
        (start, end), synonyms = matches[place]
        found.append(Edit(start, end, like_case(draw.choice(synonyms), text[start:end])))
    return _apart(text, found)


def _apart(text: str, edits: Sequence[Edit]) -> list[Edit]:
    """Give the edits with a blank where two words of letters would become one, as between Chinese characters."""
    found: list[Edit] = []
    last, behind = 0, ""  # the end of the edit before, and the character that then stood last
    for place, edit in enumerate(edits):
        before, word = text[last : edit.start][-1:] or behind, edit.text
        if _would_join(before, word[:1]):
            word = " " + word
        is_followed = place + 1 < len(edits) and edits[place + 1].start == edit.end
        if not is_followed and _would_join((word or before)[-1:], text[edit.end : edit.end + 1]):
            word += " "
        found.append(Edit(edit.start, edit.end, word))
        last, behind = edit.end, (word or before)[-1:]
    return found


def _would_join(one: str, other: str) -> bool:
    return one.isalnum() and other.isalnum() and not is_cjk(one) and not is_cjk(other)


def like_case(word: str, pattern: str) -> str:
    """Give the word with a capital at its start, or all in capitals, where the one that it replaces has them."""
    if len(pattern) > 1 and pattern.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if pattern[:1].isupper() else word

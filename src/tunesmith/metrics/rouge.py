"""ROUGE on lists of tokens, English and Chinese.

Source: Lin 2004; equal to rouge-score 0.1.2, which is not used here because it brings nltk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tunesmith.metrics.shares import f1_of_counts

_ENGLISH_WORD = re.compile(r"[a-z0-9]+")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\uac00-\ud7af"
_ANY_PIECE = re.compile(rf"[{_HAN}{_KANA}]|(?:(?![{_HAN}{_KANA}])[^\W_])+")
_MIXED_PIECE = re.compile(rf"[{_HAN}]|\d+(?:[.,]\d+)+|(?:(?![{_HAN}])[^\W_])+")


def split_text(text: str, chinese: bool) -> list[str]:
    """Split a text for ROUGE and distinct-n, in lower case and without punctuation.

    Args:
        text: Any text.
        chinese: Give each Chinese character alone, words and numbers whole (3.5 is one). Otherwise give runs of a-z
            and 0-9, as rouge-score does: letters with accents part words there. A text of another script, of which
            rouge-score finds nothing, is cut into words, and kana and hangul into characters.
    """
    if chinese:
        return _MIXED_PIECE.findall(text.lower())
    return (_ANY_PIECE if is_other_script(text) else _ENGLISH_WORD).findall(text.lower())


def is_other_script(text: str) -> bool:
    """Whether more than a third of the letters are not Latin: Russian, Greek, Arabic, Japanese ..."""
    letters = [letter for letter in text if letter.isalpha()]
    return 3 * sum(letter >= "\u0250" for letter in letters) > len(letters)


def count_grams(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    """Count the n-grams of `size` tokens; none where there are fewer tokens."""
    return Counter(zip(*(tokens[start:] for start in range(size)), strict=False))


def longest_shared_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Give the length of the longest common subsequence, all columns of a table row at once as bits of one integer.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    everything = (1 << len(first)) - 1
    unmatched = everything
    for token in second:
        hits = unmatched & places.get(token, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & everything
    return len(first) - unmatched.bit_count()


def rouge_scores(true: Sequence[str], answered: Sequence[str]) -> tuple[float, float, float]:
    """Give the F1 (0..1) of ROUGE-1, ROUGE-2 and sentence-level ROUGE-L of two token lists, as rouge-score does."""
    pairs = []
    for size in (1, 2):
        mine, theirs = count_grams(answered, size), count_grams(true, size)
        pairs.append(f1_of_counts((mine & theirs).total(), mine.total(), theirs.total()))
    return pairs[0], pairs[1], f1_of_counts(longest_shared_subsequence(true, answered), len(answered), len(true))

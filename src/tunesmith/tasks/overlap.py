"""How much two texts have in common by their words alone: what naive answers are made of.

A term is a word of a spaced script, or one Chinese or Japanese character, or two of them that stand side by side.
Letters: N pairs of texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tunesmith.metrics import Floats

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")
_IS_CJK = re.compile(f"[{_CJK}]")


def terms(text: str) -> list[str]:
    """Give the terms of a text in lower case, in order; single characters of a Chinese run before its pairs."""
    found: list[str] = []
    for piece in _PIECE.findall(text.lower()):
        if _IS_CJK.match(piece):
            found += [*piece, *(piece[place : place + 2] for place in range(len(piece) - 1))]
        else:
            found.append(piece)
    return found


def tfidf_cosines(known: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> Floats:
    """Give the cosine (N, 0..1) of the TF-IDF weights of each two texts; 0 where they share no known term.

    Args:
        known: Texts by which terms are weighted; terms that stand in none of them are left out.
        firsts: One side of each pair (N).
        seconds: The other side (N).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not firsts:
        return np.zeros(0)
    vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True)
    if not any(terms(text) for text in known):
        return np.array([float(one == other) for one, other in zip(firsts, seconds, strict=True)])
    vectorizer.fit(known)
    one, other = vectorizer.transform(list(firsts)), vectorizer.transform(list(seconds))
    cosines: Floats = np.asarray(one.multiply(other).sum(axis=1), dtype=np.float64).ravel()
    return cosines

"""What a person would try first for free answers: give the answer of the most similar training question.

Likeness is the cosine of TF-IDF over words and over runs of characters, which need no word boundaries, so that Chinese
is served as English is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 256
_LONGEST_RUN = 4  # characters


def nearest_places(known: Sequence[str], asked: Sequence[str]) -> npt.NDArray[np.int64]:
    """Give for each asked text the place of the most similar known one; the first among equals.

    A text that shares nothing with any known one gets the first of them.

    Raises:
        ValueError: There is no known text.
    """
    if not known:
        raise ValueError("there is nothing to be near to")
    vectorizer, known_NF = fit_texts(known)
    found = np.zeros(len(asked), dtype=np.int64)
    for start in range(0, len(asked), _ROWS_AT_ONCE):
        part = vectorizer.transform(asked[start : start + _ROWS_AT_ONCE])
        likeness = (part @ known_NF.T).toarray()
        found[start : start + len(likeness)] = likeness.argmax(1)
    return found


def fit_texts(known: Sequence[str]) -> tuple[Any, Any]:
    """Give the fitted features and the known texts (N, F) under them."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    # Every mark is kept as a feature where words are not found, so that no vocabulary is empty.
    parts = [
        ("words", TfidfVectorizer(sublinear_tf=True, token_pattern=r"\w+|[^\w\s]|\s")),
        ("runs", TfidfVectorizer(sublinear_tf=True, analyzer="char", ngram_range=(1, _LONGEST_RUN))),
    ]
    union = FeatureUnion(parts)
    return union, union.fit_transform(known)

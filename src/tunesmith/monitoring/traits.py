"""What is kept of each row: numbers in arrays, no text. One shape for the reference and for the window.

Letters: N rows, D width of an embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from tunesmith.monitoring.embedding import Embedder, Floats
from tunesmith.monitoring.language import code_points, script_of
from tunesmith.monitoring.observed import Observed

OTHER = "(other)"
NO_CATEGORY = -1  # the answer was free text or a number
_CATEGORIES = 500  # that are told apart; sets of labels may be many


@dataclass(frozen=True)
class Traits:
    """Rows as arrays. NaN: not known."""

    characters_N: Floats  # of the input, float32
    unknown_share_N: Floats  # of its tokens, 0..1
    tokens_N: Floats
    scripts_N: Floats  # int16, index in SCRIPTS
    vectors_ND: Floats  # float16; what the input is about
    categories_N: Floats  # int32, index in the reference's categories; their number: another one
    numbers_N: Floats  # the answer where it is a number, its characters where it is text
    confidence_N: Floats  # 0..1
    seconds_N: Floats

    def __len__(self) -> int:
        return len(self.characters_N)

    def mapped(self, change: Callable[[Floats], Floats]) -> Traits:
        """Give each array changed."""
        return Traits(**{item.name: change(getattr(self, item.name)) for item in fields(self)})

    def last(self, count: int) -> Traits:
        """Give the last rows, at most `count`."""
        return self.mapped(lambda array: array[max(0, len(self) - count) :])

    def then(self, others: Traits) -> Traits:
        """Give these rows and the others after them."""
        arrays = {item.name: (getattr(self, item.name), getattr(others, item.name)) for item in fields(self)}
        return Traits(**{name: np.concatenate(pair) for name, pair in arrays.items()})

    def arrays(self, prefix: str) -> dict[str, Floats]:
        """Give the arrays by name, for keeping."""
        return {prefix + item.name: np.ascontiguousarray(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Floats], prefix: str) -> Traits:
        """Make them again; raises KeyError or ValueError where they are not whole."""
        found = cls(**{item.name: arrays[prefix + item.name] for item in fields(cls)})
        if len({len(getattr(found, item.name)) for item in fields(cls)}) != 1 or found.vectors_ND.ndim != 2:
            raise ValueError("arrays of different lengths")
        return found


def no_traits(width: int) -> Traits:
    """Give traits of no row.

    Args:
        width: Of the embeddings.
    """
    empty = np.zeros(0, dtype=np.float32)
    return Traits(
        *(empty, empty, empty, np.zeros(0, np.int16), np.zeros((0, width), np.float16), np.zeros(0, np.int32)),
        *(empty, empty, empty),
    )


def categories_of(rows: Sequence[Observed], labels: Sequence[str]) -> tuple[str, ...]:
    """Give the categories of answers: those that occur, the most common first, and labels that do not.

    Args:
        rows: Of the reference.
        labels: Of the bundle. Where it has none its answers are free text or numbers, and have no categories.
    """
    if not labels:
        return ()
    counts = Counter(row.category for row in rows if row.category)
    found = [category for category, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_CATEGORIES]]
    return (*found, *(label for label in labels if label not in counts))


def measure(rows: Sequence[Observed], embedder: Embedder, categories: Sequence[str]) -> Traits:
    """Turn rows into numbers.

    Args:
        rows: What was answered.
        embedder: Of the reference.
        categories: Of the reference; none where answers are free text or numbers.
    """
    found = embedder.embed([row.text for row in rows], [row.embedding for row in rows])
    given_tokens_N = _floats([row.tokens for row in rows])
    given_unknown_N = _floats([row.unknown_tokens for row in rows])
    tokens_N = np.where(np.isnan(found.tokens_N), given_tokens_N, found.tokens_N)
    unknown_N = np.where(np.isnan(found.unknown_N), given_unknown_N, found.unknown_N)
    place = {category: index for index, category in enumerate(categories)}
    another = len(categories) if categories else NO_CATEGORY
    return Traits(
        characters_N=_floats([len(row.text) if row.characters is None else row.characters for row in rows]),
        unknown_share_N=(unknown_N / np.maximum(tokens_N, 1)).astype(np.float32),
        tokens_N=tokens_N.astype(np.float32),
        scripts_N=np.array([script_of(code_points(row.text)) for row in rows], dtype=np.int16),
        vectors_ND=found.vectors_ND.astype(np.float16),
        categories_N=np.array([place.get(row.category, another) for row in rows], dtype=np.int32),
        numbers_N=_floats([row.number for row in rows]),
        confidence_N=_floats([row.confidence for row in rows]),
        seconds_N=_floats([row.seconds for row in rows]),
    )


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float32)

"""Counts over the rows of one file, kept small: some twenty bytes for a row, so that millions fit."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.data.normalise import text_key
from tunesmith.data.personal import find_personal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONG_TEXT = 2000
"""Characters from which a text is reported as long: most encoders read 512 tokens, some 500 to 2500 characters."""

_NICE_STEPS = (1, 2, 5)


@dataclass
class Tally:
    """What was seen so far; `add` once for each usable row."""

    labels: dict[str, int] = field(default_factory=dict)  # label -> its number, in order of first appearance
    keys: array[int] = field(default_factory=lambda: array("Q"))  # of the normalised texts
    label_numbers: array[int] = field(default_factory=lambda: array("I"))
    rows: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("I"))  # characters
    personal: Counter[str] = field(default_factory=Counter)  # kind -> rows

    def add(self, row: int, text: str, label: str) -> None:
        """Count one row."""
        self.keys.append(text_key(text))
        self.label_numbers.append(self.labels.setdefault(label, len(self.labels)))
        self.rows.append(row)
        self.lengths.append(len(text))
        found = find_personal(text)
        if found:
            self.personal.update({kind for kind, _, _ in found})

    def label_counts(self) -> dict[str, int]:
        """Give the rows of each label, the most frequent first."""
        counts = Counter(self.label_numbers)
        by_count = sorted(self.labels.items(), key=lambda item: -counts[item[1]])
        return {label: counts[number] for label, number in by_count if counts[number]}

    def without_labels(self, gone: set[str]) -> Tally:
        """Give the tally without the rows of some labels (their personal data stays counted)."""
        import numpy as np

        kept = ~np.isin(self._labels(), [self.labels[label] for label in gone])
        return Tally(
            labels=self.labels,
            keys=array("Q", self._keys()[kept].tobytes()),
            label_numbers=array("I", self._labels()[kept].tobytes()),
            rows=array("Q", np.frombuffer(self.rows, dtype=np.uint64)[kept].tobytes()),
            lengths=array("I", np.frombuffer(self.lengths, dtype=np.uintc)[kept].tobytes()),
            personal=self.personal,
        )

    def first_row(self, label: str) -> int:
        """Give the first row of a label."""
        return self.rows[self.label_numbers.index(self.labels[label])]

    def duplicates(self) -> int:
        """Give the rows whose text stood earlier."""
        import numpy as np

        return len(self.keys) - len(np.unique(self._keys()))

    def distinct_texts(self) -> dict[str, int]:
        """Give for each label how many different texts it has."""
        import numpy as np

        keys, labels = self._keys(), self._labels()
        order = np.lexsort((keys, labels))
        keys, labels = keys[order], labels[order]
        is_new = np.ones(len(keys), dtype=bool)
        is_new[1:] = (keys[1:] != keys[:-1]) | (labels[1:] != labels[:-1])
        found = dict(enumerate(np.bincount(labels[is_new]).tolist()))
        return {label: found[number] for label, number in self.labels.items() if found.get(number)}

    def conflicts(self) -> Iterator[dict[str, list[int]]]:
        """Give for each text that stands under several labels its rows by label, in order of first appearance."""
        import numpy as np

        if not self.keys:
            return
        keys, labels = self._keys(), self._labels()
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        # Only texts that stand more than once matter from here on; in most files they are few.
        is_repeat = np.zeros(len(keys) + 1, dtype=bool)
        is_repeat[1:-1] = keys[1:] == keys[:-1]
        is_shared = is_repeat[1:] | is_repeat[:-1]
        if not is_shared.any():
            return
        order, keys = order[is_shared], keys[is_shared]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        lows, highs = np.minimum.reduceat(labels[order], starts), np.maximum.reduceat(labels[order], starts)
        ends = np.r_[starts[1:], len(order)]
        groups = [order[starts[index] : ends[index]] for index in np.flatnonzero(lows != highs)]
        names = list(self.labels)
        for group in sorted(groups, key=lambda group: int(group[0])):
            by_label: dict[str, list[int]] = {}
            for index in group:
                by_label.setdefault(names[labels[index]], []).append(self.rows[index])
            yield by_label

    def shared_rows(self, other: Tally) -> list[int]:
        """Give the rows whose text also stands in `other`."""
        import numpy as np

        hits = np.flatnonzero(np.isin(self._keys(), other._keys()))
        return [self.rows[index] for index in hits]

    def long_texts(self) -> list[int]:
        """Give the rows of texts of LONG_TEXT characters and more."""
        import numpy as np

        return [self.rows[index] for index in np.flatnonzero(np.frombuffer(self.lengths, dtype=np.uintc) >= LONG_TEXT)]

    def length_histogram(self) -> tuple[tuple[int, int, int], ...]:
        """Give (from, to, rows): nine bins of one round width hold 99% of the rows, a last one the rest."""
        import numpy as np

        if not self.lengths:
            return ()
        lengths = np.frombuffer(self.lengths, dtype=np.uintc)
        width = _nice_width(int(np.quantile(lengths, 0.99)) / 9)
        top = int(lengths.max()) + 1
        edges = [edge for edge in range(0, 9 * width + 1, width) if edge < top] + [top]
        counts = np.histogram(lengths, bins=edges)[0].tolist()
        return tuple(zip(edges[:-1], edges[1:], counts, strict=True))

    def _keys(self) -> NDArray[np.uint64]:
        import numpy as np

        return np.frombuffer(self.keys, dtype=np.uint64) if self.keys else np.zeros(0, dtype=np.uint64)

    def _labels(self) -> NDArray[np.uintc]:
        import numpy as np

        return np.frombuffer(self.label_numbers, dtype=np.uintc) if self.label_numbers else np.zeros(0, dtype=np.uintc)


def _nice_width(least: float) -> int:
    """Give the smallest of 1, 2, 5, 10, 20, 50 ... that is not less than `least`."""
    power = 1
    while True:
        for step in _NICE_STEPS:
            if step * power > least:
                return step * power
        power *= 10

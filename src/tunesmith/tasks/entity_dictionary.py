"""The naive way to find entities: look up what training rows hold, the longest match first."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.tasks.entities import CJK, Place
from tunesmith.types import Entity, Record

_TERM = re.compile(rf"[{CJK}]|[^\W{CJK}]+|\S")  # a Chinese or Japanese character, a word, or a mark

Terms = tuple[str, ...]


class EntityDictionary:
    """The entities of training rows by their words, each with its most common label (the first among equals)."""

    def __init__(self, records: Sequence[Record]) -> None:
        exact: dict[Terms, Counter[str]] = defaultdict(Counter)
        folded: dict[Terms, Counter[str]] = defaultdict(Counter)
        for record in records:
            text, terms = str(record.fields["text"]), terms_of(record.fields)
            for span in record.target:
                words = tuple(text[start:end] for start, end in terms if start >= span.start and end <= span.end)
                exact[words][span.label] += 1
                folded[tuple(word.casefold() for word in words)][span.label] += 1
        exact.pop((), None)
        folded.pop((), None)
        self._exact = {words: counts.most_common(1)[0][0] for words, counts in exact.items()}
        self._folded = {words: counts.most_common(1)[0][0] for words, counts in folded.items()}
        self._sizes: dict[str, list[int]] = {}  # folded first word -> lengths of the entities that begin with it
        for words in self._folded:
            self._sizes.setdefault(words[0], []).append(len(words))
        self._sizes = {word: sorted(set(sizes), reverse=True) for word, sizes in self._sizes.items()}

    def find(self, fields: Mapping[str, Any]) -> tuple[Entity, ...]:
        """Give a text's entities from left to right: the longest match as written, else the longest in any case."""
        return tuple(self._matches(str(fields["text"]), terms_of(fields)))

    def _matches(self, text: str, terms: Sequence[Place]) -> Iterator[Entity]:
        words = [text[start:end] for start, end in terms]
        folded = [word.casefold() for word in words]
        place = 0
        while place < len(words):
            sizes = [n for n in self._sizes.get(folded[place], ()) if n <= len(words) - place]
            for known, given in ((self._exact, words), (self._folded, folded)):
                size = next((n for n in sizes if tuple(given[place : place + n]) in known), 0)
                if size:
                    start, end = terms[place][0], terms[place + size - 1][1]
                    yield Entity(text[start:end], known[tuple(given[place : place + size])], start, end)
                    break
            place += max(size, 1)


def terms_of(fields: Mapping[str, Any]) -> Sequence[Place]:
    """Give the places of what is looked up: the user's tokens, else words, and characters of Chinese and Japanese."""
    own: Sequence[Place] = fields.get("places", ())
    return own or [match.span() for match in _TERM.finditer(str(fields["text"]))]

"""Blocks of exactly the full length, cut from a stream of ids without padding, each built when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from tunesmith.pretraining.tokens import Stream
from tunesmith.tasks import Example


@dataclass(frozen=True)
class Frame:
    """How a block is laid out: special ids, `body` tokens of the stream, special ids."""

    body: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of a block."""
        return len(self.before) + self.body + len(self.after)


class Blocks(Sequence[Example]):
    """A stream in blocks. Their bodies, one after the other, are the stream; what is left at its end is `tail`.

    Nothing is held in memory: a block is read from the memory map when the loop takes it. `target` is None, or where
    words start (as many booleans as tokens) if the stream tells.
    """

    def __init__(self, stream: Stream, frame: Frame, most: int | None = None) -> None:
        self.stream, self.frame = stream, frame
        whole = len(stream.ids) // frame.body
        self.size = whole if most is None else min(whole, most)
        self.tail = len(stream.ids) - whole * frame.body  # tokens

    def __len__(self) -> int:
        return self.size

    @property
    def lengths(self) -> list[int]:
        """Tokens of each block, without reading any."""
        return [self.frame.length] * self.size

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(self.size))]
        if not -self.size <= place < self.size:
            raise IndexError(place)
        start = (place % self.size) * self.frame.body
        body = self.stream.ids[start : start + self.frame.body].tolist()
        tokens = (*self.frame.before, *body, *self.frame.after)
        if self.stream.words is None:
            return Example(tokens)
        words = self.stream.words[start : start + self.frame.body].astype(bool).tolist()
        return Example(tokens, target=(*(True for _ in self.frame.before), *words, *(True for _ in self.frame.after)))

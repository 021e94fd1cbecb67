"""Guess how a text goes on from what stands in it already: summaries, replies and code repeat what was read.

A guess costs little, because the model checks many tokens in nearly the time of one, and changes no answer, because a
wrong one is thrown away.

Source: Saxena 2023, Prompt Lookup Decoding. We differ in two things: what an encoder read is looked through too, and
as many tokens are guessed as the last guesses were good for.
"""

from __future__ import annotations

from collections.abc import Sequence

_LENGTHS = (3, 2)  # tokens that have to stand there alike; one alone is mostly chance
_FIRST = 4  # tokens of the first guess
_NOTHING = -1  # stands between what was read and what is written where these are two texts


class Lookup:
    """Looks for the last tokens further up.

    Args:
        read: Token ids that the model reads.
        most: Tokens of a guess.
        is_causal: Whether the text goes on from what was read; else it is another text.
    """

    def __init__(self, read: Sequence[int], *, most: int, is_causal: bool) -> None:
        self._most = most
        self._width = min(_FIRST, most)
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # some tokens -> the last place after them
        self._put([*read] if is_causal else [*read, _NOTHING])

    def guess(self, room: int) -> list[int]:
        """Give what followed the last tokens where they stood before; at most `room` tokens, often none."""
        for length in _LENGTHS:
            place = self._after.get(tuple(self._ids[-length:]))
            if place is not None:
                found = self._ids[place : place + max(0, min(room, self._width))]
                return found[: found.index(_NOTHING)] if _NOTHING in found else found
        return []

    def add(self, ids: Sequence[int], *, guessed: int) -> None:
        """Take what was written: after a guess, the tokens that were right and one more.

        A guess that was right to its end lets the next be twice as long, one that was all wrong half as long.
        """
        right = len(ids) - 1
        if guessed and right >= guessed:
            self._width = min(self._most, 2 * self._width)
        elif guessed and not right:
            self._width = max(1, self._width // 2)
        self._put(ids)

    def _put(self, ids: Sequence[int]) -> None:
        for token in ids:
            for length in _LENGTHS:  # what stood at the end until now is followed by something
                if len(self._ids) >= length:
                    self._after[tuple(self._ids[-length:])] = len(self._ids)
            self._ids.append(token)

"""Where the tokens of a model stand in a text, and how a long text is cut into windows that overlap.

Works with any fast tokenizer: only its offsets are used. All places in texts are characters, end exclusive.
Letters: T tokens, U units.

A *unit* is the least part of a text that gets an answer of its own: a token of the user's where the row has tokens,
else one of the model's, where no unit ends within a word of a script with spaces. Its answer is that of the first of
the model's tokens that begins in it.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelProblem
from tunesmith.tasks.entities import Place
from tunesmith.types import Span

IGNORED = -100
"""Label of a token that the loss leaves out."""

_WORD = re.compile(r"[0-9A-Za-z\u00c0-\u02af\u0370-\u052f]")  # letters of scripts that part words by blanks
_ENCODE_ROWS = 1000  # texts that go to the tokenizer at once


@dataclass(frozen=True)
class Unit:
    """A part of the text that is answered as one."""

    token: int  # place of the model's token that answers
    start: int
    end: int


@dataclass(frozen=True)
class Labelled:
    """The labels of a text's tokens, and what the tokens could not hold."""

    labels: tuple[int, ...]  # (T): 0 for O, 1 + 2k and 2 + 2k for B and I of label k, IGNORED
    owners: tuple[int, ...]  # (T): place of the entity that a token belongs to, -1 for none
    straddled: int  # entities with an edge inside of a token
    lost: int  # entities that no token is left for


def fast_tokens(texts: Sequence[str], tokenizer: Any) -> Iterator[tuple[list[int], list[Place]]]:
    """Yield ids and places of each text's tokens, whole and without special tokens; white space is no part of a token.

    Raises:
        ModelProblem: The tokenizer knows no places.
    """
    demand_fast(tokenizer)
    for start in range(0, len(texts), _ENCODE_ROWS):
        part = list(texts[start : start + _ENCODE_ROWS])
        found = tokenizer(
            part,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # a text may be longer than the model: it is cut into windows afterwards
        )
        for text, ids, places in zip(part, found["input_ids"], found["offset_mapping"], strict=True):
            yield ids, with_marks(text, [_bare(text, start, end) for start, end in places])


def demand_fast(tokenizer: Any) -> None:
    """Refuse a tokenizer that does not know where its tokens stand.

    Raises:
        ModelProblem: With what to choose.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelProblem(
            "the tokenizer of this base model cannot tell where its tokens stand in the text",
            where=type(tokenizer).__name__,
            do="choose a base model with a fast tokenizer (one with tokenizer.json)",
        )


def with_marks(text: str, places: Sequence[Place]) -> list[Place]:
    """Let each token reach over the combining marks behind it: tokenizers that strip accents leave them out.

    Without this no entity that ends in such a mark (decomposed Vietnamese, Hindi, Thai, emoji with a selector) could be
    found exactly.
    """
    if text.isascii():
        return list(places)
    found: list[Place] = []
    limit = len(text)
    for start, end in reversed(places):
        while start < end < limit and unicodedata.category(text[end]) in {"Mn", "Me", "Cf"}:
            end += 1
        found.append((start, end))
        limit = start if start < end else limit
    return found[::-1]


def _bare(text: str, start: int, end: int) -> Place:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def special_ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Give the special tokens that stand before and behind a text."""
    found = tokenizer("a", return_special_tokens_mask=True)
    mask = found["special_tokens_mask"]
    before = next((place for place, is_special in enumerate(mask) if not is_special), 0)
    behind = next((place for place, is_special in enumerate(reversed(mask)) if not is_special), 0)
    return found["input_ids"][:before], found["input_ids"][len(mask) - behind :]


def cut_windows(tokens: int, room: int, stride: int) -> list[tuple[Place, Place]]:
    """Cut a text into windows.

    Args:
        tokens: Of the text (T).
        room: Tokens that fit into a window (1 or more).
        stride: Tokens that two neighbours share; at most half of a window.

    Returns:
        For each window its tokens, and those of them that it answers: each token is answered in the window where it
        stands farthest from an edge that is not the text's own.
    """
    if tokens <= room:
        return [((0, tokens), (0, tokens))]
    step = room - min(stride, room // 2)
    starts = [*range(0, tokens - room, step), tokens - room]
    middles = [(after + before + room) // 2 for before, after in itertools.pairwise(starts)]
    edges = [0, *middles, tokens]
    return [((start, start + room), (edges[place], edges[place + 1])) for place, start in enumerate(starts)]


def find_units(text: str, places: Sequence[Place], own: Sequence[Place] = ()) -> list[Unit]:
    """Give the units of a text in order.

    Args:
        text: The text.
        places: Of the model's tokens (T); an empty place is a token without text.
        own: Of the user's tokens, where the row has any. Several that share a token of the model are one unit, and one
            that the model does not see is none.
    """
    known = [(start, end, token) for token, (start, end) in enumerate(places) if start < end]
    if own:
        return _own_units(known, own)
    units: list[Unit] = []
    for start, end, token in known:
        last = units[-1] if units else None
        # Parts of one character share its place, and parts of one word belong together.
        if last and (start < last.end or (start == last.end and _is_inside_word(text, start))):
            units[-1] = Unit(last.token, last.start, max(end, last.end))
        else:
            units.append(Unit(token, start, end))
    return units


def _is_inside_word(text: str, place: int) -> bool:
    return bool(_WORD.match(text, place - 1) and _WORD.match(text, place))


def _own_units(known: Sequence[tuple[int, int, int]], own: Sequence[Place]) -> list[Unit]:
    starts = [start for start, _, _ in known]
    units: list[Unit] = []
    for start, end in own:
        first = bisect_right(starts, start - 1)  # the first that begins here or later
        if first == len(known) or known[first][0] >= end:
            first -= 1  # none begins in it; the one before may reach into it
        if first < 0 or known[first][1] <= start:
            continue
        token = known[first][2]
        if units and units[-1].token == token:
            units[-1] = Unit(token, units[-1].start, end)
        else:
            units.append(Unit(token, start, end))
    return units


def label_tokens(places: Sequence[Place], entities: Sequence[Span], index: dict[str, int]) -> Labelled:
    """Label the model's tokens by the characters that they share with entities, in BIO.

    A token that two entities share goes to the one that has more of it.

    Args:
        places: Of the tokens (T).
        entities: In the order of the text, without overlap.
        index: Label -> its number; entities with another label are left out of the loss.
    """
    owners, shared = [-1] * len(places), [0] * len(places)
    straddled: set[int] = set()
    starts = [start for start, _ in places]
    for number, entity in enumerate(entities):
        token = bisect_right(starts, entity.start)
        while token > 0 and places[token - 1][1] > entity.start:
            token -= 1
        while token < len(places) and places[token][0] < entity.end:
            start, end = places[token]
            common = min(end, entity.end) - max(start, entity.start)
            if common > 0 and (start < entity.start or end > entity.end):
                straddled.add(number)
            if common > shared[token]:
                owners[token], shared[token] = number, common
            token += 1
    labels, before = [], -1
    for (start, end), owner in zip(places, owners, strict=True):
        if start == end:
            labels.append(IGNORED)
            continue
        number = index.get(entities[owner].label, -1) if owner >= 0 else -1
        is_strange = owner >= 0 and number < 0
        labels.append(IGNORED if is_strange else 0 if owner < 0 else 1 + 2 * number + (owner == before))
        before = owner
    return Labelled(tuple(labels), tuple(owners), len(straddled), len(entities) - len(set(owners) - {-1}))


def mask_cut(labelled: Labelled, windows: Sequence[tuple[Place, Place]]) -> tuple[list[list[int]], list[bool]]:
    """Give the labels of each window, and whether it cuts an entity that stands whole in no window.

    Where an entity is cut by the edge of one window and whole in another, it is left out of the loss in the first.
    """
    reach: dict[int, list[int]] = {}  # entity -> its first token, and the one after its last
    for token, owner in enumerate(labelled.owners):
        if owner >= 0:
            reach.setdefault(owner, [token, 0])[1] = token + 1
    within = [-1] * len(labelled.owners)  # as owners, with the tokens without text inside of an entity
    for owner, (start, end) in reach.items():
        within[start:end] = [owner] * (end - start)
    firsts = [first for (first, _), _ in windows]
    rows, is_cut = [], []
    for (first, last), _ in windows:
        row, is_torn = list(labelled.labels[first:last]), False
        for owner in {within[first], within[last - 1]} - {-1} if last > first else ():
            start, end = reach[owner]
            if start >= first and end <= last:
                continue
            if windows[bisect_right(firsts, start) - 1][0][1] >= end:
                start, end = max(start, first), min(end, last)
                row[start - first : end - first] = [IGNORED] * (end - start)
            else:
                is_torn = True
        rows.append(row)
        is_cut.append(is_torn)
    return rows, is_cut

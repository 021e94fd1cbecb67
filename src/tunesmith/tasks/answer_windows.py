"""A question beside a long text, cut into windows that overlap: what goes in, and where in the text each token stands.

The question is whole in every window. Letters: C tokens of the context in one window.

Source: Devlin et al. 2019, section 4.2 and their released code (document stride).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith.errors import PlanProblem
from tunesmith.tasks import Example
from tunesmith.tasks.token_windows import demand_fast, with_marks
from tunesmith.types import Record

Offsets = npt.NDArray[np.int32]

_ROWS_AT_ONCE = 500  # questions that go to the tokenizer at once
_LEAST_ROOM = 4  # tokens for both texts


def _no_offsets() -> Offsets:
    return np.zeros((0, 2), dtype=np.int32)


@dataclass(frozen=True)
class Window(Example):
    """A question with as much of its context as fits; `target` holds the places of the answer's two end tokens."""

    first: int = 0  # place of the first token of the context
    nothing: int = 0  # place of the token that stands for "the answer is not here"
    # Where each token of the context begins and ends (C, 2), in characters of the whole context.
    offsets: Offsets = field(default_factory=_no_offsets, compare=False, repr=False)

    def places_of(self, start: int, end: int) -> tuple[int, int] | None:
        """Give the places of the first and last token of characters start..end; None where they are not all here."""
        if not len(self.offsets) or start < self.offsets[0, 0] or end > self.offsets[-1, 1]:
            return None
        first = int(np.searchsorted(self.offsets[:, 1], start, side="right"))
        last = int(np.searchsorted(self.offsets[:, 0], end, side="left")) - 1
        return (self.first + first, self.first + last) if first <= last else None


def encode_windows(
    records: Sequence[Record], tokenizer: Any, *, max_length: int, stride: int
) -> Iterator[tuple[Record, list[Window]]]:
    """Yield each record with its windows from left to right, without targets.

    Args:
        records: With the fields question and context.
        tokenizer: A fast one, which tells where its tokens stand.
        max_length: Most tokens of a window. A question that would take more than half of them is cut, and its windows
            say so.
        stride: Tokens of the context that two windows share; less where hardly more fit beside the question.

    Raises:
        PlanProblem: Not even one token of each text fits into a window.
    """
    demand_fast(tokenizer)
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    if room < _LEAST_ROOM:
        raise PlanProblem(
            f"max_length is {max_length}, which leaves {max(room, 0)} tokens for question and context",
            where="max_length",
            do="choose 64 or more; auto is best",
        )
    for start in range(0, len(records), _ROWS_AT_ONCE):
        part = records[start : start + _ROWS_AT_ONCE]
        texts = [str(record.fields["question"]) for record in part]
        questions, sizes, was_cut = _fitting(texts, tokenizer, room // 2)
        by_stride: dict[int, list[int]] = {}
        for row, size in enumerate(sizes):
            by_stride.setdefault(max(0, min(stride, (room - size) // 2)), []).append(row)
        found: list[list[Window]] = [[] for _ in part]
        for shared, rows in by_stride.items():
            encoded = tokenizer(
                [questions[row] for row in rows],
                [str(part[row].fields["context"]) for row in rows],
                truncation="only_second",
                max_length=max_length,
                stride=shared,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            for place, index in enumerate(encoded["overflow_to_sample_mapping"]):
                row = rows[index]
                found[row].append(_window(encoded, place, part[row], tokenizer, was_cut=was_cut[row]))
        yield from zip(part, found, strict=True)


def _fitting(texts: Sequence[str], tokenizer: Any, most: int) -> tuple[list[str], list[int], list[bool]]:
    """Give the questions, those of more than `most` tokens cut; their tokens; and which ones were cut."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    questions, sizes, was_cut = [], [], []
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        is_long = len(ids) > most
        questions.append(text[: offsets[most - 1][1]] if is_long else text)
        sizes.append(min(len(ids), most))
        was_cut.append(is_long)
    return questions, sizes, was_cut


def _window(encoded: Any, place: int, record: Record, tokenizer: Any, *, was_cut: bool) -> Window:
    ids = tuple(encoded["input_ids"][place])
    inside = [index for index, side in enumerate(encoded.sequence_ids(place)) if side == 1]
    offsets = with_marks(str(record.fields["context"]), [encoded["offset_mapping"][place][index] for index in inside])
    segments = tuple(encoded["token_type_ids"][place]) if "token_type_ids" in encoded else ()
    return Window(
        tokens=ids,
        was_cut=was_cut,
        segments=segments if any(segments) else (),
        record=record,
        first=inside[0] if inside else len(ids),
        nothing=ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0,
        offsets=np.array(offsets, dtype=np.int32).reshape(-1, 2),
    )

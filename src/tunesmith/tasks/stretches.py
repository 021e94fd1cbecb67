"""One long stream of tokens of which some are learnt, cut into stretches that a model can take.

Documents and conversations are such streams. Every learnt token stands in exactly one stretch as learnt, with tokens
before it as context, so that nothing is lost and nothing is counted twice. Letters: N records, B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.metrics import Floats
from tunesmith.tasks import Example
from tunesmith.tasks.base import pad, windows
from tunesmith.tasks.generation import Generation, Passage
from tunesmith.types import Record

if TYPE_CHECKING:
    import torch
    from torch import nn

IGNORED = -100  # label of a token that is not learnt, by Transformers' convention


@dataclass(frozen=True)
class Stretch(Passage):
    """Part of a stream. `completion` holds all its tokens, `tokens` what is read to write (the same in all parts)."""

    labels: tuple[int, ...] = ()  # of `completion`: the token where it is learnt, else -100


@dataclass(frozen=True)
class Stream:
    """What one record holds: ids with the end token, and which of them are learnt."""

    prefix: tuple[int, ...]  # stands before every stretch and is not learnt: start token, control codes
    ids: tuple[int, ...]
    is_learnt: tuple[bool, ...]


def cut(stream: Stream, tokens: tuple[int, ...], record: Record, *, max_length: int, stride: int) -> list[Stretch]:
    """Cut a stream into stretches of at most `max_length` tokens, prefix included.

    Args:
        stream: Of a record.
        tokens: What is read when the record is answered in words.
        record: That the stretches share.
        max_length: In tokens.
        stride: Tokens of the stretch before that are seen again, as context; at most half a stretch.

    Returns:
        One stretch where the stream fits, and in any case those only in which something is learnt.
    """
    prefix = _shortened(stream.prefix, max_length // 2)  # a longer one would leave no room for the text
    room = max_length - len(prefix)
    # Without anything before it the first token of a stretch could not be predicted.
    shared = max(min(stride, room // 2), 0 if prefix else 1)
    found: list[Stretch] = []
    done = 0  # tokens that stood in an earlier stretch
    while done < len(stream.ids) or not found:
        first = 0 if not found else done - shared
        ids = stream.ids[first : first + room]
        is_new = (place >= done for place in range(first, first + len(ids)))
        learnt = stream.is_learnt[first : first + room]
        marks = [
            token if is_learnt and new else IGNORED for token, is_learnt, new in zip(ids, learnt, is_new, strict=True)
        ]
        labels = (*(IGNORED for _ in prefix), *marks)
        whole = (*prefix, *ids)
        found.append(Stretch(tokens, record=record, completion=whole, is_causal=True, limit=max_length, labels=labels))
        done = first + len(ids)
    kept = [one for one in found if any(label != IGNORED for label in one.labels)]
    return kept or found[:1]


@dataclass(frozen=True)
class StretchGeneration(Generation):
    """A writing task whose records are streams, for causal models."""

    stride: int = 128

    keeps: ClassVar[str] = "end"

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give `input_ids`, `attention_mask` and `labels`, each (B, T); only what is learnt has labels."""
        batch = super().batch(examples, tokenizer)
        if all(isinstance(example, Stretch) for example in examples):
            batch["labels"] = pad([example.labels for example in examples if isinstance(example, Stretch)], IGNORED)
        return batch

    def likelihoods(self, model: nn.Module, examples: Sequence[Example], tokenizer: Any, batch_tokens: int) -> Floats:
        """Give for each record the nats (N) of what is learnt and the number of its tokens: (N, 2)."""
        known = [example for example in examples if isinstance(example, Passage)]
        nats, counts = self._losses(model, known, tokenizer, batch_tokens)
        groups = list(windows(known))
        return np.array([[nats[group].sum(), counts[group].sum()] for group in groups]).reshape(-1, 2)

    def firsts(self, examples: Sequence[Example]) -> list[Passage]:
        """Give what is read to answer each record: bare passages, one for each record."""
        found = [examples[group[0]] for group in windows(examples)]
        return [
            Passage(one.tokens, was_cut=one.was_cut, record=one.record, prompt=one.tokens, is_causal=one.is_causal)
            for one in found
            if isinstance(one, Passage)
        ]


def _shortened(prefix: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Give a prefix in at most `most` tokens: the one it starts from, and its end, after which the text begins."""
    if len(prefix) <= most:
        return prefix
    return (*prefix[:1], *prefix[len(prefix) - most + 1 :]) if most else ()


def spread(n: int, most: int) -> list[int]:
    """Give at most `most` places, evenly spread over n: rows to answer in words where all would be too dear."""
    places: list[int] = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()
    return places

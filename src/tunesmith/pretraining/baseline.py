"""What no network is needed for: perplexity by counting single tokens, and (clm) pairs of neighbours.

Both are measured on exactly the tokens that the model is measured on. Only the first tokens of the stream are counted,
which is said where it matters: counts of five million tokens are close to those of all.

Source: Jurafsky & Martin, Speech and Language Processing, chapter 3; Witten & Bell 1991 (how far pairs are believed).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tunesmith.pretraining.objective import LanguageObjective, fixed_batches
from tunesmith.pretraining.tokens import Stream
from tunesmith.tasks import Example

MOST_TOKENS = 5_000_000

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def unigram_shares(stream: Stream, size: int) -> Floats:
    """Give the probability (V) of each token, each counted once more than seen, so that none is impossible."""
    counts = np.bincount(stream.ids[:MOST_TOKENS], minlength=size).astype(float) + 1
    return np.asarray(counts / counts.sum())


def unigram_loss(objective: LanguageObjective, valid: Sequence[Example], shares_V: Floats, batch_tokens: int) -> float:
    """Give the mean cross entropy (nats) of the tokens that the model is asked for, by their frequency alone."""
    total, count = 0.0, 0
    for batch in fixed_batches(objective, valid, batch_tokens):
        truths = objective.truths(batch).numpy()
        total -= float(np.log(shares_V[truths]).sum())
        count += len(truths)
    return total / max(1, count)


def bigram_loss(stream: Stream, valid: Sequence[Example], shares_V: Floats) -> float:
    """Give the mean cross entropy (nats) of all but the first token of each block, from the token before it.

    A pair is believed by n / (n + t), where its first token was seen n times before t different ones; what is left
    goes to the single tokens.
    """
    size = len(shares_V)
    ids = np.asarray(stream.ids[:MOST_TOKENS], dtype=np.int64)
    pairs, seen = np.unique(ids[:-1] * size + ids[1:], return_counts=True)
    before = np.bincount(pairs // size, weights=seen, minlength=size)
    kinds = np.bincount(pairs // size, minlength=size)
    total, count = 0.0, 0
    for example in valid:
        tokens: Ints = np.array(example.tokens)
        first, second = tokens[:-1], tokens[1:]
        wanted = first * size + second
        found = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        times = np.where(pairs[found] == wanted, seen[found], 0)
        n, t = before[first], np.maximum(kinds[first], 1)
        total -= float(np.log((times + t * shares_V[second]) / (n + t)).sum())
        count += len(second)
    return total / max(1, count)


def as_perplexity(loss: float) -> float:
    """Give e to the loss."""
    return math.exp(min(loss, 100.0))

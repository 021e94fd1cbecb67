"""From how likely each token begins and ends the answer to the likeliest spans of a text, over all of its windows.

Scores are log-likelihoods in which every window shares its certainty among its spans and "the answer is not here", so
that spans of two windows can be compared. Letters: C tokens of the context in one window; place 0 of C+1 is "not here".

Source: Devlin et al. 2019, section 4.2 and 4.3; the threshold: evaluate-v2.0.py of SQuAD (Rajpurkar et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.metrics import Floats
from tunesmith.tasks import Answered
from tunesmith.tasks.answer_windows import Offsets

LONGEST_ANSWER = 60
"""Tokens. Of the first references in XQuAD none is longer in English and 0.1% in Chinese, in the development set of
CMRC 2018 0.3%, in its trial set 11% (tokens of all-MiniLM-L6-v2)."""

_ENDS_TRIED = 20  # likeliest beginnings and likeliest ends of each window that are put together
_SPANS_KEPT = 20  # of each record
_SHOWN = 5  # alternatives of an answer

NOTHING = {"text": "", "start": -1, "end": -1}
"""The answer to a question that the text does not answer."""


@dataclass(frozen=True)
class Span:
    """A piece of the context that may be the answer."""

    start: int  # characters
    end: int
    score: float  # log-likelihood


@dataclass(frozen=True)
class Candidates:
    """What a record's windows gave."""

    spans: tuple[Span, ...]  # best first
    nothing: float  # log-likelihood that there is no answer: of the window that is least sure of it

    @property
    def lead_of_nothing(self) -> float:
        """By how much "no answer" is likelier than the best span."""
        return self.nothing - self.spans[0].score if self.spans else np.inf


def find_candidates(windows: Sequence[tuple[Offsets, Floats, Floats]], context: str) -> Candidates:
    """Give the likeliest spans of a context.

    Args:
        windows: Of each window where the tokens of the context stand (C, 2), and the log-likelihoods (C+1) that the
            answer begins and ends with each.
        context: The whole text.
    """
    best: dict[tuple[int, int], float] = {}
    for offsets, starts, ends in windows:
        for first, last, score in _pairs(starts[1:], ends[1:]):
            start, end = _trimmed(context, int(offsets[first, 0]), int(offsets[last, 1]))
            if end > start:
                best[start, end] = max(score, best.get((start, end), -np.inf))
    spans = [Span(start, end, score) for (start, end), score in best.items()]
    spans.sort(key=lambda span: (-span.score, span.start, span.end))
    nothing = min((float(starts[0] + ends[0]) for _, starts, ends in windows), default=0.0)
    return Candidates(tuple(spans[:_SPANS_KEPT]), nothing)


def _pairs(starts_C: Floats, ends_C: Floats) -> list[tuple[int, int, float]]:
    """Give the likely (first token, last token, score) of one window: in order and not too long."""
    first = np.argsort(-starts_C, kind="stable")[:_ENDS_TRIED, None]
    last = np.argsort(-ends_C, kind="stable")[None, :_ENDS_TRIED]
    is_span = (last >= first) & (last - first < LONGEST_ANSWER)
    rows, columns = np.nonzero(is_span)
    firsts, lasts = first[rows, 0], last[0, columns]
    scores = starts_C[firsts] + ends_C[lasts]
    order = np.argsort(-scores, kind="stable")[:_SPANS_KEPT]
    return [(int(firsts[place]), int(lasts[place]), float(scores[place])) for place in order]


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Give the span without white space at its ends."""
    text = context[start:end]
    return start + len(text) - len(text.lstrip()), end - (len(text) - len(text.rstrip()))


def choose(candidates: Candidates, context: str, threshold: float | None) -> Answered:
    """Give the best span, its share of the likelihood of all spans kept and of "no answer", and the next best texts.

    Args:
        candidates: Of one record.
        context: The whole text.
        threshold: Lead from which "no answer" is the answer; None where every question has one.
    """
    scores = np.array([candidates.nothing, *(span.score for span in candidates.spans)])
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    is_nothing = not candidates.spans or (threshold is not None and candidates.lead_of_nothing > threshold)
    texts = ["", *(context[span.start : span.end] for span in candidates.spans)]
    shares: dict[str, float] = {}
    for text, chance in zip(texts, chances.tolist(), strict=True):
        if text or threshold is not None:
            shares[text] = shares.get(text, 0.0) + chance
    shown = dict(sorted(shares.items(), key=lambda item: -item[1])[:_SHOWN])
    if is_nothing:
        return dict(NOTHING), float(chances[0]), shown
    best = candidates.spans[0]
    value: dict[str, Any] = {"text": texts[1], "start": best.start, "end": best.end}
    return value, float(chances[1]), shown


def best_threshold(leads: Sequence[float], with_span: Sequence[float], with_nothing: Sequence[float]) -> float:
    """Give the lead from which "no answer" should be the answer so that the mean score is highest.

    Args:
        leads: By how much "no answer" leads over the best span, of each record.
        with_span: Score (0..1) of the best span.
        with_nothing: Score (0..1) of no answer.

    Returns:
        The middle between two leads; where several do equally well, the one nearest to 0.
    """
    order = np.argsort(leads, kind="stable")
    sorted_leads = np.clip(np.array(leads, dtype=np.float64)[order], -1e3, 1e3)
    # With the threshold after the first k leads, those k keep their span and the others answer nothing.
    spans = np.concatenate([[0.0], np.cumsum(np.array(with_span)[order])])
    rest = np.concatenate([[0.0], np.cumsum(np.array(with_nothing)[order][::-1])])[::-1]
    edges = np.concatenate([[sorted_leads[0] - 1], sorted_leads, [sorted_leads[-1] + 1]])
    middles = (edges[:-1] + edges[1:]) / 2
    totals = spans + rest
    # Equal leads cannot be parted: a threshold between them is none.
    is_cut = np.concatenate([[True], sorted_leads[1:] > sorted_leads[:-1], [True]])
    totals = np.where(is_cut, totals, -np.inf)
    best = np.flatnonzero(totals >= totals.max() - 1e-9)
    # 0 itself lies between two leads or beyond them: where that gap is among the best, it is the threshold.
    for place in best:
        if edges[place] <= 0 < edges[place + 1] or (place in {0, len(totals) - 1} and _is_beyond(edges, int(place))):
            return 0.0
    return float(middles[best[np.argmin(np.abs(middles[best]))]])


def _is_beyond(edges: Floats, place: int) -> bool:
    """Whether 0 lies outside of all leads, on the side of this threshold."""
    return bool(edges[1] > 0) if place == 0 else bool(edges[-2] <= 0)

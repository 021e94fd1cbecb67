"""How a model writes: Transformers' `generate` over texts of like length, and piece by piece for a page that waits.

Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from tunesmith.errors import PlanProblem
from tunesmith.tasks.base import pad
from tunesmith.tasks.batching import fill
from tunesmith.tasks.wording import Wording


@dataclass(frozen=True)
class Manner:
    """How tokens are chosen, and when to stop."""

    max_new_tokens: int
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stops: tuple[str, ...] = ()  # an answer ends before the first of these texts


@dataclass(frozen=True)
class Written:
    """What was written for one row."""

    text: str  # up to the end token or the first stop text
    ids: tuple[int, ...]  # with the end token, where the model came to one


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Turn the likeliest token into one drawn by chance: the largest of logits plus Gumbel noise is a fair draw.

    Each row has a generator of its own, so that what is drawn for it does not depend on what it is batched with.
    Source: Maddison et al. 2014, A* Sampling, section 2 (the Gumbel-max trick).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise_BV = torch.stack(
            [-torch.empty(scores.shape[1]).exponential_(generator=each).log() for each in self._generators]
        )
        return scores + noise_BV.to(scores.device)


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """End a row once its own text, without what it read, holds a stop text; end all when nobody listens any more."""

    def __init__(self, wording: Wording, stops: Sequence[str], read: int, gone: threading.Event) -> None:
        self._wording, self._stops, self._read, self._gone = wording, stops, read, gone

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self._gone.is_set():
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        texts = [self._wording.text(row) for row in input_ids[:, self._read :].tolist()] if self._stops else []
        found = [any(stop in text for stop in self._stops) for text in texts] or [False] * len(input_ids)
        return torch.tensor(found, dtype=torch.bool, device=input_ids.device)


def positions(model: nn.Module) -> int | None:
    """Give how many tokens the model can hold at once; None where there is no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def demand_room(model: nn.Module, wording: Wording, manner: Manner) -> None:
    """Refuse answers that are longer than the model can hold.

    Raises:
        PlanProblem: With the longest that goes.
    """
    limit = positions(model)
    if limit is not None and manner.max_new_tokens >= limit:
        raise PlanProblem(
            f"max_new_tokens is {manner.max_new_tokens}; this model holds {limit} tokens at once"
            + (", what it reads included" if wording.is_causal else ""),
            where="max_new_tokens",
            do=f"choose {limit // 2 if wording.is_causal else limit - 1} or less",
        )


def shortened(model: nn.Module, ids: Sequence[int], wording: Wording, manner: Manner) -> list[int]:
    """Give what a causal model reads with room left to write: where there is too much, its end (and its lead)."""
    limit = positions(model)
    if limit is None or not wording.is_causal or len(ids) + manner.max_new_tokens <= limit:
        return list(ids)
    lead = list(wording.source.lead) if tuple(ids[: len(wording.source.lead)]) == wording.source.lead else []
    room = limit - manner.max_new_tokens - len(lead)
    return [*lead, *ids[len(ids) - room :]] if room > 0 else list(ids[-1:])


def write(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    wording: Wording,
    manner: Manner,
    batch_tokens: int,
    draw: int = 0,
) -> list[Written]:
    """Let a model write to each source; the answers stand in the order of the sources.

    Args:
        model: With a language-model head, in evaluation mode.
        sources: Token ids that the encoder, or the causal model, reads.
        wording: Of the model's tokenizer.
        manner: How to choose tokens.
        batch_tokens: Most tokens in the model at once, those still to be written and all beams included.
        draw: Another number gives other samples for the same sources.

    Raises:
        PlanProblem: `max_new_tokens` is more than the model can hold.
    """
    demand_room(model, wording, manner)
    read = [shortened(model, ids, wording, manner) for ids in sources]
    found: list[Written] = [Written("", ())] * len(read)
    lengths = [(len(ids) + manner.max_new_tokens) * manner.num_beams for ids in read]
    for rows in fill(range(len(read)), lengths, batch_tokens):
        ids_BT = _generate(model, [read[row] for row in rows], wording=wording, manner=manner, draw=draw)
        for row, ids in zip(rows, ids_BT.tolist(), strict=True):
            found[row] = _finished(ids, wording, manner)
    return found


def stream(
    model: nn.Module, source: Sequence[int], *, wording: Wording, manner: Manner, draw: int = 0
) -> Iterator[str]:
    """Yield the text for one source piece by piece while it is written; the pieces together are what `write` gives.

    With several beams nothing is certain before the end, so that the whole text comes at once. Whoever stops asking
    for pieces stops the writing too.

    Raises:
        PlanProblem: `max_new_tokens` is more than the model can hold.
    """
    if manner.num_beams > 1:
        yield write(model, [source], wording=wording, manner=manner, batch_tokens=1, draw=draw)[0].text
        return
    demand_room(model, wording, manner)
    read = shortened(model, source, wording, manner)
    pieces: queue.Queue[int | BaseException | None] = queue.Queue()
    gone = threading.Event()

    def work() -> None:
        try:
            listener = _Listener(pieces, first=len(read) if wording.is_causal else 1)
            _generate(model, [read], wording=wording, manner=manner, draw=draw, listener=listener, gone=gone)
            pieces.put(None)
        except BaseException as error:  # handed to whoever waits for the pieces, and raised there
            pieces.put(error)

    writer = threading.Thread(target=work, daemon=True)
    writer.start()
    try:
        yield from _pieces(pieces, wording, manner)
    finally:
        gone.set()
        writer.join()


def _pieces(pieces: queue.Queue[int | BaseException | None], wording: Wording, manner: Manner) -> Iterator[str]:
    """Turn ids as they come into text that will not change any more."""
    ids: list[int] = []
    said = ""
    held = max((len(stop) for stop in manner.stops), default=1) - 1  # the beginning of a stop text may stand there
    while (piece := pieces.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        ids.append(piece)
        text = _finished(ids, wording, manner).text
        sure = _settled(text[: len(text) - held])
        if sure.startswith(said) and len(sure) > len(said):
            yield sure[len(said) :]
            said = sure
    yield _finished(ids, wording, manner).text[len(said) :]


def _settled(text: str) -> str:
    """Give the part of a growing text that stays: not half a character, nor a word of which more may come."""
    text = text.rstrip("\ufffd")
    if text and not text[-1].isascii() and text[-1].isalpha() and text[-1] >= "\u2e80":
        return text  # Chinese and Japanese have no spaces to wait for
    return text[: max(text.rfind(" "), text.rfind("\n"), 0)].rstrip()


class _Listener(BaseStreamer):  # type: ignore[misc]
    """Hands each new id on; `generate` gives it what was read first."""

    def __init__(self, pieces: queue.Queue[Any], *, first: int) -> None:
        self._pieces, self._skip = pieces, first

    def put(self, value: torch.Tensor) -> None:
        """Take ids as `generate` gives them."""
        for token in value.reshape(-1).tolist():
            if self._skip > 0:
                self._skip -= 1
            else:
                self._pieces.put(token)

    def end(self) -> None:
        """Nothing: the end of the writing is told by whoever started it."""


def _finished(ids: Sequence[int], wording: Wording, manner: Manner) -> Written:
    """Cut ids after the end token, and their text before the first stop text and of the space around it."""
    kept = list(ids)
    if wording.end in kept:
        kept = kept[: kept.index(wording.end) + 1]
    text = wording.text(kept)
    place = min((text.index(stop) for stop in manner.stops if stop in text), default=len(text))
    return Written(text[:place].strip(), tuple(kept))


def _generate(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    wording: Wording,
    manner: Manner,
    draw: int,
    listener: _Listener | None = None,
    gone: threading.Event | None = None,
) -> torch.Tensor:
    """Give the new ids (B, T) for a batch of sources, on the CPU; rows that ended early are filled up with padding."""
    filler = wording.filler
    device = next(model.parameters()).device
    ids_BT = pad(sources, filler, to_left=wording.is_causal).to(device)
    mask_BT = pad([[1] * len(ids) for ids in sources], 0, to_left=wording.is_causal).to(device)
    read = ids_BT.shape[1] if wording.is_causal else 1
    criteria = StoppingCriteriaList()
    if manner.stops or gone is not None:
        criteria.append(_Stop(wording, manner.stops, read, gone or threading.Event()))
    with torch.inference_mode(), _settings(model, wording, manner):
        written_BT = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            logits_processor=_chooser(sources, manner, draw),
            stopping_criteria=criteria,
            streamer=listener,
        )
    return written_BT[:, read:].cpu()


def _chooser(sources: Sequence[Sequence[int]], manner: Manner, draw: int) -> LogitsProcessorList:
    if not manner.do_sample:
        return LogitsProcessorList()
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(manner.temperature))]
    steps += [TopKLogitsWarper(manner.top_k)] if manner.top_k > 0 else []
    steps += [TopPLogitsWarper(manner.top_p)] if manner.top_p < 1.0 else []
    return LogitsProcessorList([*steps, _Draw([_seed(ids, draw) for ids in sources])])


def _seed(ids: Sequence[int], draw: int) -> int:
    """Give a 63-bit seed that belongs to what is read."""
    return int.from_bytes(hashlib.sha256(f"{draw}/{list(ids)}".encode()).digest()[:8], "little") >> 1


@contextlib.contextmanager
def _settings(model: nn.Module, wording: Wording, manner: Manner) -> Iterator[None]:
    """Let the model write in our manner, and put its own settings back.

    What belongs to its kind stays (start token, forced first token, tokens it may never say); what somebody tuned for
    another task goes (least length, blocked repetitions, length penalty).
    """
    own: Any = model.generation_config
    config: GenerationConfig = copy.deepcopy(own)
    for name in ("max_length", "min_length", "min_new_tokens", "no_repeat_ngram_size", "length_penalty"):
        setattr(config, name, None)
    for name in ("temperature", "top_k", "top_p", "early_stopping", "num_beam_groups", "diversity_penalty"):
        setattr(config, name, None)
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    config.eos_token_id = sorted({wording.end, *(int(token) for token in ends if token is not None)})
    config.pad_token_id = wording.filler
    config.do_sample = False  # chance comes in by a logits processor
    config.num_beams = manner.num_beams
    config.max_new_tokens = manner.max_new_tokens
    config.repetition_penalty = manner.repetition_penalty
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own

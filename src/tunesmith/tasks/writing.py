"""How a model writes: Transformers' `generate` over texts of like length, and piece by piece for a page that waits.

Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import math
import queue
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
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
from tunesmith.tasks.decoding import Decoder
from tunesmith.tasks.fast_weights import FLOAT, INT8, WEIGHTS, in_8_bits, packed
from tunesmith.tasks.lookup import Lookup
from tunesmith.tasks.wording import Wording

_WORTH_PACKING = 512  # tokens that are written at most: packing costs as much as a few steps


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
    speculate: int = 0  # tokens that are guessed ahead where one text is written by itself
    weights: str = FLOAT  # float or int8, see `fast_weights`


@dataclass(frozen=True)
class Written:
    """What was written for one row."""

    text: str  # up to the end token or the first stop text
    ids: tuple[int, ...]  # up to what ended it: an end token, or the token with which a stop text was whole
    nats: float | None = None  # -ln p of these tokens together, by the model alone; None where nobody noted it


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Turn the likeliest token into one drawn by chance: the largest of logits plus Gumbel noise is a fair draw.

    Each row has a generator of its own, so that what is drawn for it does not depend on what it is batched with.
    Source: Maddison et al. 2014, A* Sampling, section 2 (the Gumbel-max trick).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose_rows(self, rows: Sequence[int]) -> None:
        """Go on with some rows of the batch, in this order."""
        self._generators = [self._generators[row] for row in rows]

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


def room_to_write(model: nn.Module, ids: Sequence[int], wording: Wording, manner: Manner) -> int:
    """Give how many tokens may be written after these: a causal model holds what it reads and writes together.

    Raises:
        PlanProblem: What is read fills the model.
    """
    limit = positions(model)
    if limit is None or not wording.is_causal:
        return manner.max_new_tokens
    if len(ids) >= limit:
        raise PlanProblem(
            f"{len(ids)} tokens are read; this model holds {limit} at once, what it writes included",
            where="max_length",
            do=f"choose a max_length of {limit} or less",
        )
    return min(manner.max_new_tokens, limit - len(ids))


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
        PlanProblem: `max_new_tokens`, or what is read, is more than the model can hold.
    """
    demand_room(model, wording, manner)
    found: list[Written] = [Written("", ())] * len(sources)
    rooms = [room_to_write(model, ids, wording, manner) for ids in sources]
    lengths = [(len(ids) + room) * manner.num_beams for ids, room in zip(sources, rooms, strict=True)]
    ends = _ends(model, wording)
    model = _fast(model, manner, sum(rooms), is_alone=len(sources) == 1)
    alike: dict[int, list[int]] = defaultdict(list)  # room -> rows; `generate` has one limit for all that it is given
    for row, room in enumerate(rooms):
        alike[room].append(row)
    for room, group in alike.items():
        within = dataclasses.replace(manner, max_new_tokens=room)
        for rows in fill(group, lengths, batch_tokens):
            ids, nats = _generate(model, [sources[row] for row in rows], wording=wording, manner=within, draw=draw)
            for place, row in enumerate(rows):
                found[row] = _finished(ids[place], wording, manner, ends, nats=nats[place] if nats else None)
    return found


def at_work(model: nn.Module, weights: str) -> nn.Module:
    """Give a model with weights of the kind that it answers with.

    Raises:
        PlanProblem: There are no such weights, or not here.
    """
    if weights not in WEIGHTS:
        raise PlanProblem(f"weights is '{weights}'", where="weights", do=f"use one of: {', '.join(WEIGHTS)}")
    return in_8_bits(getattr(model, "module", model)) if weights == INT8 else model


def _fast(model: nn.Module, manner: Manner, tokens: int, *, is_alone: bool) -> nn.Module:
    """Give the model as it writes fastest.

    One row at a time is no faster with packed matrices; several rows, beams or guesses at once are.
    """
    found = at_work(model, manner.weights)
    has_one_row = is_alone and manner.num_beams == 1 and not manner.speculate
    is_left = manner.weights != FLOAT or has_one_row or tokens * manner.num_beams < _WORTH_PACKING
    return found if is_left else packed(model)


def stream(
    model: nn.Module, source: Sequence[int], *, wording: Wording, manner: Manner, draw: int = 0
) -> Iterator[str]:
    """Yield the text for one source piece by piece while it is written; the pieces together are what `write` gives.

    With several beams nothing is certain before the end, so that the whole text comes at once. Whoever stops asking
    for pieces stops the writing too.

    Raises:
        PlanProblem: `max_new_tokens`, or what is read, is more than the model can hold.
    """
    if manner.num_beams > 1:
        yield write(model, [source], wording=wording, manner=manner, batch_tokens=1, draw=draw)[0].text
        return
    demand_room(model, wording, manner)
    within = dataclasses.replace(manner, max_new_tokens=room_to_write(model, source, wording, manner))
    ends = _ends(model, wording)
    model = _fast(model, within, within.max_new_tokens, is_alone=True)
    pieces: queue.Queue[int | BaseException | None] = queue.Queue()
    gone = threading.Event()

    def work() -> None:
        try:
            listener = _Listener(pieces, first=len(source) if wording.is_causal else 1)
            _generate(model, [source], wording=wording, manner=within, draw=draw, listener=listener, gone=gone)
            pieces.put(None)
        except BaseException as error:  # handed to whoever waits for the pieces, and raised there
            pieces.put(error)

    writer = threading.Thread(target=work, daemon=True)
    writer.start()
    try:
        yield from _pieces(pieces, wording, manner, ends)
    finally:
        gone.set()
        writer.join()


def _pieces(
    pieces: queue.Queue[int | BaseException | None], wording: Wording, manner: Manner, ends: Collection[int]
) -> Iterator[str]:
    """Turn ids as they come into text that will not change any more."""
    ids: list[int] = []
    said = ""
    held = max((len(stop) for stop in manner.stops), default=1) - 1  # the beginning of a stop text may stand there
    while (piece := pieces.get()) is not None:
        if isinstance(piece, BaseException):
            raise piece
        ids.append(piece)
        text = _finished(ids, wording, manner, ends).text
        sure = _settled(text[: max(0, len(text) - held)])
        if sure.startswith(said) and len(sure) > len(said):
            yield sure[len(said) :]
            said = sure
    yield _finished(ids, wording, manner, ends).text[len(said) :]


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


def _finished(
    ids: Sequence[int],
    wording: Wording,
    manner: Manner,
    ends: Collection[int],
    *,
    nats: Sequence[float] | None = None,
) -> Written:
    """Cut ids after what ended them, and their text before the first stop text and of the space around it.

    In a batch what comes after is padding, which the model never meant.
    """
    place = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    said, kept = list(ids[:place]), list(ids[: place + 1])
    text = wording.text(said)
    if any(stop in text for stop in manner.stops):
        counts = range(1, len(said) + 1)
        texts = ((count, wording.text(said[:count])) for count in counts)
        count, text = next((each for each in texts if any(stop in each[1] for stop in manner.stops)), (len(said), text))
        kept = said[:count]
    first = min((text.index(stop) for stop in manner.stops if stop in text), default=len(text))
    return Written(text[:first].strip(), tuple(kept), None if nats is None else math.fsum(nats[: len(kept)]))


def _ends(model: nn.Module, wording: Wording) -> list[int]:
    """Give every token that ends what this model writes: the tokenizer's end and those of the model's own settings."""
    config: Any = model.generation_config
    own = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return sorted({wording.end, *(int(token) for token in own if token is not None)})


def _generate(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    wording: Wording,
    manner: Manner,
    draw: int,
    listener: _Listener | None = None,
    gone: threading.Event | None = None,
) -> tuple[list[list[int]], list[list[float]] | None]:
    """Give the new ids for a batch of sources, and -ln p of each where that is noted (not for beams).

    Rows that ended early may be filled up with padding.
    """
    device = next(model.parameters()).device
    width = max(map(len, sources))
    # Masks hide the padding of a causal model from it, but a penalty on repetitions sees it: a row is filled up with a
    # token of its own, so that it is written as it would be alone.
    filled = [[row[0]] * (width - len(row)) + list(row) for row in sources] if wording.is_causal else sources
    ids_BT = pad(filled, wording.filler).to(device)
    mask_BT = pad([[1] * len(ids) for ids in sources], 0, to_left=wording.is_causal).to(device)
    read = ids_BT.shape[1] if wording.is_causal else 1
    criteria = StoppingCriteriaList()
    if manner.stops or gone is not None:
        criteria.append(_Stop(wording, manner.stops, read, gone or threading.Event()))
    lookup = None
    if manner.speculate and not manner.do_sample and len(sources) == 1:
        lookup = Lookup(sources[0], most=manner.speculate, is_causal=wording.is_causal)
    decoder = Decoder(len(sources), lookup=lookup, streamer=listener) if manner.num_beams == 1 else None
    with torch.inference_mode(), _settings(model, wording, manner):
        written_BT = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            logits_processor=_chooser(sources, manner, draw),
            stopping_criteria=criteria,
            streamer=listener,
            custom_generate=decoder,
        )
    return (decoder.ids, decoder.nats) if decoder is not None else (written_BT[:, read:].tolist(), None)


def _chooser(sources: Sequence[Sequence[int]], manner: Manner, draw: int) -> LogitsProcessorList:
    penalty = manner.repetition_penalty
    steps: list[LogitsProcessor] = [RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1.0 else []
    if not manner.do_sample:
        return LogitsProcessorList(steps)
    steps.append(TemperatureLogitsWarper(float(manner.temperature)))
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
    config.eos_token_id = _ends(model, wording)
    config.pad_token_id = wording.filler
    config.do_sample = False  # chance comes in by a logits processor
    config.repetition_penalty = None  # and so does this: Transformers' own keeps to the batch that it began with
    config.num_beams = manner.num_beams
    config.max_new_tokens = manner.max_new_tokens
    kept: Any = model.config
    filler = kept.pad_token_id
    model.generation_config = config
    if wording.is_causal:
        # `generate` drops a mask that hides nothing, and GPT-2 then warns of padding where a text begins with its
        # filler. Nothing else in the forward pass of a causal model asks for it.
        kept.pad_token_id = None
    try:
        yield
    finally:
        model.generation_config, kept.pad_token_id = own, filler

"""Writing token after token: what is done once for each row, and no more for a row that has come to its end.

`Decoder` takes the place of Transformers' own loop inside `generate`, which still prepares everything: encoder, start
token, cache, what may be said and what stops. Four things make it faster, and none of them changes an answer:

- keys and values are written into a buffer with room ahead (`GrowingLayer`); Transformers copies all of them each time;
- a row that has ended leaves the batch, with its part of the cache;
- the probabilities of what was written are noted on the way, so that no second pass through the model has to find them;
- one text by itself may be guessed ahead from what stands in it already (`lookup`) and checked in one step.

Letters: B batch, T tokens, V vocabulary, K tokens that are checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.cache_utils import DynamicLayer
from transformers.generation import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from tunesmith.tasks.lookup import Lookup

_ROW_BY_ROW = (  # of these the scores of a row follow from that row alone, wherever in the batch it stands
    *(ForcedBOSTokenLogitsProcessor, ForcedEOSTokenLogitsProcessor, NoBadWordsLogitsProcessor),
    *(RepetitionPenaltyLogitsProcessor, SuppressTokensAtBeginLogitsProcessor, SuppressTokensLogitsProcessor),
    *(TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper),
)
_BY_ROW = ("attention_mask", "decoder_attention_mask", "position_ids", "decoder_position_ids", "token_type_ids")


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one block, in buffers with room for what will be written.

    `keys` and `values` are views (B, heads, T, width) of the part that is filled.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep the states of further tokens; give those of all tokens."""
        is_first = self._buffers is None
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = 0 if is_first else self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (self._larger(key_states, self.keys, end), self._larger(value_states, self.values, end))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: len(states), :, start:end] = states
        self.keys, self.values = (buffer[: len(key_states), :, :end] for buffer in self._buffers)
        return (key_states, value_states) if is_first else (self.keys, self.values)

    def _larger(self, states: torch.Tensor, kept: torch.Tensor, end: int) -> torch.Tensor:
        rows, heads, _, width = states.shape
        buffer = states.new_empty(rows, heads, end + self._room, width)
        if kept.numel():
            buffer[:, :, : kept.shape[-2]] = kept
        return buffer

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some rows; only those that change their place are copied."""
        if self._buffers is None:
            return
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().flatten()
        length = self.keys.shape[-2]
        for buffer in self._buffers:
            if len(moved):
                buffer[moved, :, :length] = buffer[indices[moved], :, :length]
        self.keys, self.values = (buffer[: len(indices), :, :length] for buffer in self._buffers)


def give_room(cache: Any, room: int) -> bool:
    """Let an empty cache keep what it is given in buffers with room for `room` more tokens.

    Returns:
        Whether rows may leave this cache and its last tokens be taken back; else it is one of a kind that we do not
        know, and left as it is.
    """
    if isinstance(cache, EncoderDecoderCache):
        return give_room(cache.self_attention_cache, room) and give_room(cache.cross_attention_cache, 0)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return False
    if cache.get_seq_length() > 0:
        return False
    if cache.layers:
        cache.layers = [GrowingLayer(room) for _ in cache.layers]
    else:
        cache.layer_class_to_replicate = lambda: GrowingLayer(room)
    return True


class Decoder:
    """The loop; `generate` calls it, and it keeps what was written.

    Args:
        rows: In the batch.
        lookup: Guesses ahead, for one row by itself.
        streamer: Is given each token; `generate` keeps its own from a loop that is not its own.
    """

    def __init__(self, rows: int, *, lookup: Lookup | None = None, streamer: BaseStreamer | None = None) -> None:
        self.ids: list[list[int]] = [[] for _ in range(rows)]  # up to what ended each row
        self.nats: list[list[float]] | None = [[] for _ in range(rows)]  # -ln p of each, by the model alone
        self._lookup = lookup if rows == 1 else None
        self._streamer = streamer

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: Any,
        generation_config: Any,
        **state: Any,
    ) -> torch.Tensor:
        """Write until all rows have ended; the arguments are those of `GenerationMixin._sample`."""
        room = int(generation_config.max_length) - input_ids.shape[1]
        if not (_is_row_by_row(logits_processor, state) and give_room(state.get("past_key_values"), room)):
            return self._as_transformers_does(
                model,
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                streamer=self._streamer,
                **state,
            )
        batch = _Batch(model, input_ids, logits_processor, stopping_criteria, self._streamer, state)
        guess: list[int] = []
        batch.read()
        while not self._take(batch, guess):
            guess = self._lookup.guess(int(generation_config.max_length) - batch.width - 1) if self._lookup else []
            batch.step(guess)
        if self._streamer is not None:
            self._streamer.end()
        return batch.ids_BT

    def _take(self, batch: _Batch, guess: Sequence[int]) -> bool:
        """Take the next tokens: one, and as many more as were guessed right. Whether all rows have ended."""
        taken = 0
        has_ended = False
        for place in range(len(guess) + 1):
            tokens, nats, ended = batch.choose(place)
            taken += 1
            for row, token, cost in zip(batch.rows, tokens, nats, strict=True):
                self.ids[row].append(token)
                if self.nats is not None:
                    self.nats[row].append(cost)
            has_ended = all(ended)
            if has_ended or place == len(guess) or tokens[0] != guess[place]:
                break
        if self._lookup is not None:
            self._lookup.add(self.ids[0][-taken:], guessed=len(guess))
        if has_ended:
            return True
        batch.settle(taken, len(guess))
        if any(ended):
            batch.leave(ended)
        return False

    def _as_transformers_does(self, model: Any, input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        found: torch.Tensor = GenerationMixin._sample(model, input_ids, **given)
        self.ids, self.nats = found[:, input_ids.shape[1] :].tolist(), None
        return found


class _Batch:
    """The rows that are still being written, and what the model needs to go on with them."""

    def __init__(
        self, model: Any, ids_BT: torch.Tensor, processors: Sequence[Any], stops: Any, streamer: Any, state: Any
    ) -> None:
        self.ids_BT = ids_BT
        self.rows = list(range(len(ids_BT)))  # place in this batch -> place in the whole one
        self._model, self._processors, self._stops, self._streamer = model, processors, stops, streamer
        self._state: dict[str, Any] = dict(state)
        self._outputs: Any = None
        self._logits_BKV = torch.empty(0)

    @property
    def width(self) -> int:
        """T, of what was read and written."""
        return int(self.ids_BT.shape[1])

    def read(self) -> None:
        """Let the model read what it has to go on from."""
        given = self._model.prepare_inputs_for_generation(self.ids_BT, is_first_iteration=True, **self._state)
        self._outputs = self._model(**given, return_dict=True)
        self._logits_BKV = self._outputs.logits[:, -1:].float()

    def step(self, guess: Sequence[int]) -> None:
        """Let the model read the last token, and the guessed ones after it."""
        ids_BT, state, count = self.ids_BT, self._state, len(guess) + 1
        if guess:
            ids_BT = torch.cat([ids_BT, ids_BT.new_tensor([list(guess)])], 1)
            state = self._longer(len(guess))
        if "logits_to_keep" in state:
            state["logits_to_keep"] = count
        given = self._model.prepare_inputs_for_generation(ids_BT, next_sequence_length=count, **state)
        self._outputs = self._model(**given, return_dict=True)
        self._logits_BKV = self._outputs.logits[:, -count:].float()

    def choose(self, place: int) -> tuple[list[int], list[float], list[bool]]:
        """Give each row's likeliest token at a place of what was read last, what it costs, and whether it ends."""
        logits_BV = self._logits_BKV[:, place]
        scores_BV = logits_BV
        if len(self._processors):
            scores_BV = self._processors(self.ids_BT, logits_BV.clone())  # type: ignore[operator]
        tokens_B = scores_BV.argmax(-1)
        nats_B = logits_BV.logsumexp(-1) - logits_BV.gather(1, tokens_B[:, None])[:, 0]
        self.ids_BT = torch.cat([self.ids_BT, tokens_B[:, None]], 1)
        if self._streamer is not None:
            self._streamer.put(tokens_B.cpu())
        return tokens_B.tolist(), nats_B.tolist(), self._stops(self.ids_BT, None).tolist()

    def settle(self, taken: int, guessed: int) -> None:
        """Keep the state of what was taken; forget that of guesses which were wrong."""
        self._state = self._longer(taken)
        if wrong := guessed - (taken - 1):
            self._state["past_key_values"].crop(-wrong)

    def _longer(self, count: int) -> dict[str, Any]:
        """Give masks and positions for `count` more tokens."""
        found: dict[str, Any] = self._model._update_model_kwargs_for_generation(
            self._outputs,
            dict(self._state),
            is_encoder_decoder=self._model.config.is_encoder_decoder,
            num_new_tokens=count,
        )
        return found

    def leave(self, ended: Sequence[bool]) -> None:
        """Let the rows go that have ended; the last ones take their places, so that little has to be copied."""
        stay = [place for place, has_ended in enumerate(ended) if not has_ended]
        late = iter([place for place in stay if place >= len(stay)])
        order = [next(late) if ended[place] else place for place in range(len(stay))]
        index_B = torch.tensor(order, device=self.ids_BT.device)
        self.rows = [self.rows[place] for place in order]
        self.ids_BT = self.ids_BT[index_B]
        for name in _BY_ROW:
            if self._state.get(name) is not None:
                self._state[name] = self._state[name][index_B]
        if (encoded := self._state.get("encoder_outputs")) is not None:
            chosen = {name: _rows(value, index_B) for name, value in encoded.items()}
            self._state["encoder_outputs"] = type(encoded)(**chosen)
        self._state["past_key_values"].batch_select_indices(index_B)
        for processor in self._processors:
            if hasattr(processor, "choose_rows"):
                processor.choose_rows(order)


def _rows(value: Any, index_B: torch.Tensor) -> Any:
    return tuple(_rows(each, index_B) for each in value) if isinstance(value, tuple) else value[index_B]


def _is_row_by_row(processors: Sequence[LogitsProcessor], state: Mapping[str, Any]) -> bool:
    """Whether rows may leave the batch: nothing but what we know has a part for each of them."""
    known = {*_BY_ROW, "encoder_outputs", "past_key_values"}
    strange = [name for name, value in state.items() if isinstance(value, torch.Tensor) and name not in known]
    return not strange and all(isinstance(each, _ROW_BY_ROW) or hasattr(each, "choose_rows") for each in processors)

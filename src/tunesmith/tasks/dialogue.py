"""Conversation: answer as the assistant of the training conversations would.

Every answer of a conversation is learnt, and nothing else of it. With causal models a conversation is one stream of
tokens in which the answers are marked, so that each token goes through the model once; one example for each answer
would read the beginning of a conversation of k answers k times. (Encoder-decoder models need the latter, and so do
chat templates that show past answers differently.)

What is measured is one answer of each conversation, drawn by a hash of the conversation, because last answers are
mostly goodbyes. Letters: N records, S statistics of a row.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.data.layout import Cells, Fault, Form
from tunesmith.errors import ModelProblem
from tunesmith.metrics import Floats, texts
from tunesmith.tasks import Answered, Baseline, Example
from tunesmith.tasks.chat import covered, end_of_turn, ensure_template, learnable, render, rendered, tokenised
from tunesmith.tasks.conversations import ASSISTANT, SYSTEM, USER, Message, joined, read_messages
from tunesmith.tasks.generation import Passage, completed
from tunesmith.tasks.nearest import nearest_places
from tunesmith.tasks.stretches import IGNORED, Stream, Stretch, StretchGeneration, cut, spread
from tunesmith.tasks.wording import Wording
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.tasks.writing import Manner

MOST_REPLIES = 200
"""Conversations of which an answer is written to measure it; evenly spread over the part. Likelihood is measured on
all. With 200 the interval of chrF is about two points to each side."""

_CHRF_WIDTH = 18
_USUAL_TOKEN = 16  # characters; a conversation beyond so many for each token of room is hardly worth tokenising whole


@dataclass(frozen=True)
class Dialogue(StretchGeneration):
    """Answer the last message of a conversation."""

    name: ClassVar[str] = "dialogue"
    forms: ClassVar[Sequence[Form]] = (
        Form({"question": "text"}, {"reply": "text"}, {"system": "text"}),
        # The answers stand in the conversation itself; `predict` is given one that ends with the user's message.
        Form({"messages": "any"}, {"messages": "any"}),
    )
    main: ClassVar[str] = "chrf"
    selects_by: ClassVar[str] = "loss"
    metrics: ClassVar[tuple[str, ...]] = ("chrf", "exact_match")
    pipeline: ClassVar[str] = "text-generation"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the messages up to the user's last one."""
        if cells.has("question") and not cells.has("messages"):
            system = ({"role": SYSTEM, "content": cells.text("system").strip()},) if cells.has("system") else ()
            return {"messages": (*system, {"role": USER, "content": cells.text("question").strip()})}
        messages = read_messages(cells)
        last = max((place for place, message in enumerate(messages) if message["role"] == USER), default=-1)
        if last < 0:
            raise Fault("no-user", "nobody asks anything: no message is the user's", "give the user's messages too")
        return {"messages": messages[: last + 1]}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the answer after the user's last message; nothing where the conversation ends with that message."""
        if cells.has("reply"):
            return cells.text("reply").strip()
        messages = read_messages(Cells({"messages": cells.raw("messages")}))
        said = joined(messages[len(fields["messages"]) :])
        if said:
            return "\n".join(message["content"] for message in said)
        if all(message["role"] != ASSISTANT for message in messages):
            column = cells.column("messages")
            raise Fault("no-assistant", f"no message of '{column}' is the assistant's", "give the answers to learn")
        what = "the conversation ends with the user's message, to which there is no answer"
        cells.note("unanswered", what, "nothing: the earlier answers are learnt; or add the missing answer")
        return ""

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the messages, each after its speaker."""
        return "\n".join(f"{message['role']}: {message['content']}" for message in fields["messages"])

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the conversation as the chat template has it, up to where the assistant begins."""
        ensure_template(tokenizer)
        return render(tokenizer, fields["messages"], is_asked=True)

    def resolved(self, examples: Sequence[Example]) -> Dialogue:
        """Give the task with `max_new_tokens` set: what 99.5% of the answers need and a quarter more."""
        if self.max_new_tokens != "auto":
            return self
        lengths = [length for example in examples for length in _learnt_lengths(example)]
        if not lengths:
            return self
        needed = float(np.percentile(lengths, 99.5, method="higher"))
        return self._sized(max(8, int(np.ceil(needed * 1.25 / 8)) * 8), examples)

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each conversation with its answers marked, in stretches of at most `max_length` tokens.

        Where the conversation that is read to answer is too long, its oldest messages go, the system's last.
        """
        ensure_template(tokenizer)
        wording = Wording(tokenizer)
        found: list[Example] = []
        for record in records:
            if record.target is not None and not wording.is_causal:
                found += self._passages(record, wording, max_length)
                continue
            tokens, was_cut = self._read(asked(record).fields["messages"], wording, max_length)
            if record.target is None:
                causal = wording.is_causal
                found.append(Passage(tokens, None, was_cut, (), record, (), tokens, causal, limit=max_length))
            else:
                parts = self._stretches(record, tokens, wording, max_length)
                found += [dataclasses.replace(part, was_cut=was_cut) for part in parts]
        return found

    def _read(self, messages: Sequence[Message], wording: Wording, max_length: int) -> tuple[tuple[int, ...], bool]:
        """Give what is read to answer, in at most `max_length` tokens, and whether something had to go."""
        room = max_length - self._reserve(max_length, wording)
        kept = joined(messages)
        system = kept[:1] if kept and kept[0]["role"] == SYSTEM else ()
        rest = kept[len(system) :]

        @functools.cache
        def source(last: int) -> list[int]:
            """Give the ids of the conversation with so many of its last messages."""
            shown = rendered(wording.tokenizer, (*system, *rest[len(rest) - last :]), is_asked=True)
            return tokenised(wording.tokenizer, shown.text, shown.data)[0]

        if not rest:  # the assistant speaks first
            return self._framed(source(0) if system else (), wording, (), room)
        is_short = sum(len(message["content"]) for message in rest) <= room * _USUAL_TOKEN
        last = _most(lambda last: len(source(last)) + wording.source.size <= room, len(rest), is_likely=is_short)
        tokens, was_cut_within = self._framed(source(last), wording, (), room)
        return tokens, last < len(rest) or was_cut_within

    def _stretches(
        self, record: Record, tokens: tuple[int, ...], wording: Wording, max_length: int
    ) -> Iterator[Stretch]:
        if not wording.tokenizer.is_fast:
            raise ModelProblem(
                "the tokenizer of this base model does not tell where its tokens stand; answers cannot be marked",
                where="model",
                do="add a tokenizer.json to its folder, or choose another base model",
            )
        for part in learnable(wording.tokenizer, _whole(record)):
            ids, places = tokenised(wording.tokenizer, part.text, part.data)
            stream = Stream(wording.source.lead, tuple(ids), covered(places, part.spans))
            yield from cut(stream, tokens, record, max_length=max_length, stride=self.stride)

    def _passages(self, record: Record, wording: Wording, max_length: int) -> list[Passage]:
        """Give one passage for each answer, the measured one first."""
        measured = asked(record)
        turns = sorted(_turns(record), key=lambda turn: turn != measured)
        targets = wording.ids([turn.target for turn in turns], is_target=True)
        found = []
        for turn, target in zip(turns, targets, strict=True):
            tokens, was_cut = self._read(turn.fields["messages"], wording, max_length)
            completion, is_whole = completed(target, wording, max_length)
            known = Passage(tokens, None, was_cut or not is_whole, (), record, completion, tokens, limit=max_length)
            found.append(dataclasses.replace(known, is_unfinished=not is_whole))
        return found

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give loss and perplexity of the answers' tokens; chrF too where the recipe selects by it."""
        nats, tokens = self.likelihoods(model, examples, tokenizer, batch_tokens).sum(0)
        loss = float(nats / max(tokens, 1))
        found = {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}
        if self.wanted in self.metrics:
            answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
            records = [one.record for one in self.firsts(examples) if one.record is not None]
            places = spread(len(records), MOST_REPLIES)
            turns, values = [asked(records[place]) for place in places], [answers[place][0] for place in places]
            sums = self.text_statistics(turns, values).sum(0)
            found |= {name: float(value) for name, value in self.text_values(sums).items()}
        return found

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give each reply with the model's confidence; of known conversations also nats and tokens of the answers.

        Of known conversations at most MOST_REPLIES are replied to; the others get None.
        """
        firsts = self.firsts(examples)
        _stop_at_end_of_turn(model, tokenizer)
        is_known = any(one.record is not None and one.record.target is not None for one in firsts)
        places = spread(len(firsts), MOST_REPLIES) if is_known else list(range(len(firsts)))
        some = [firsts[place] for place in places]
        written = super().answer(model, some, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        replies: list[Answered] = [(None, None, {})] * len(firsts)
        for place, (text, confidence, _) in zip(places, written, strict=True):
            replies[place] = (text, confidence, {})
        if not is_known:
            return replies
        sums_N2 = self.likelihoods(model, examples, tokenizer, batch_tokens).tolist()
        return [(*reply, tuple(sums)) for reply, sums in zip(replies, sums_N2, strict=True)]

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give (reply, confidence, no alternatives) for each answer."""
        return [(value, confidence, alternatives) for value, confidence, alternatives, *_ in answers]

    def manner(self, model: nn.Module, tokenizer: Any = None) -> Manner:
        """Give how to choose tokens; what the template ends an answer with is a stop text where it is no token."""
        found = super().manner(model, tokenizer)
        ending = "" if tokenizer is None or _end_id(tokenizer) is not None else end_of_turn(tokenizer)
        return dataclasses.replace(found, stops=(*found.stops, ending)) if ending else found

    def settle(self, model: nn.Module, tokenizer: Any) -> None:
        """Let plain Transformers' `generate` write as this task does, and end where the template ends an answer."""
        super().settle(model, tokenizer)
        ensure_template(tokenizer)
        _stop_at_end_of_turn(model, tokenizer)

    def stream(self, model: nn.Module, tokenizer: Any, record: Record) -> Iterator[str]:
        """Yield the reply piece by piece as it is written."""
        _stop_at_end_of_turn(model, tokenizer)
        yield from super().stream(model, tokenizer, record)

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the reply is word for word what the assistant said in the measured place."""
        return value is not None and str(value).strip() == asked(record).target

    def text_statistics(self, records: Sequence[Record], values: Sequence[str]) -> Floats:
        """Give counts for chrF and for equal answers (N, 24), of records as `asked` gives them."""
        right = [[str(record.target)] for record in records]
        return np.concatenate([texts.chrf_statistics(right, values), texts.surface_statistics(right, values)], axis=1)

    def text_values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give chrF, exact match, and how varied the replies are."""
        return {**texts.chrf_values(sums[..., :_CHRF_WIDTH]), **texts.surface_values(sums[..., _CHRF_WIDTH:])}

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score the replies, with intervals over conversations; perplexity (of all answers) where a model gave it."""
        places = spread(len(records), MOST_REPLIES)
        turns = [asked(records[place]) for place in places]
        replies: list[Answered] = [(answers[place][0] or "", None, {}) for place in places]
        scores = super().score(turns, replies, labels=labels, main=main, seed=seed)
        details = {**scores.details, "conversations": len(records), "replies": len(places)}
        sums = [answer[3] for answer in answers if len(answer) > 3]
        if not sums:
            return dataclasses.replace(scores, details=details)
        nats, tokens = np.sum(sums, axis=0)
        details["tokens"] = int(tokens)
        values = {**scores.values, "perplexity": float(np.exp(min(nats / max(tokens, 1), 700.0)))}
        return dataclasses.replace(scores, values=values, details=details)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of replies on the conversations that were replied to, by a paired bootstrap."""
        places = spread(len(records), MOST_REPLIES)
        turns = [asked(records[place]) for place in places]
        mine, theirs = ([values[place] or "" for place in places] for values in (first, second))
        return super().difference(turns, mine, theirs, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Reply as the assistant did to the most similar message of the training conversations."""
        start = time.perf_counter()
        known = [turn for record in splits.train for turn in _turns(record)]
        turns = [asked(record) for record in splits.test]
        places = nearest_places([_question(turn) for turn in known], [_question(turn) for turn in turns])
        answers: list[Answered] = [(str(known[place].target), None, {}) for place in places]
        return [Baseline("nearest", answers, time.perf_counter() - start)]


def asked(record: Record) -> Record:
    """Give the record as the one question that is measured: its messages up to there, and the answer to it.

    A record without a target is asked as it stands.
    """
    if record.target is None:
        return record
    turns = _turns(record)
    text = "\n".join(message["content"] for message in _whole(record))
    chance = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "little")
    return turns[chance % len(turns)]


def _whole(record: Record) -> tuple[Message, ...]:
    """Give the conversation with its last answer, runs of one speaker joined."""
    last = ({"role": ASSISTANT, "content": str(record.target)},) if record.target else ()
    return joined((*record.fields["messages"], *last))


def _turns(record: Record) -> list[Record]:
    """Give each answer of a conversation as a record of its own; answers before any question only where all are."""
    messages = _whole(record)
    places = [place for place, message in enumerate(messages) if message["role"] == ASSISTANT]
    first = next((place for place, message in enumerate(messages) if message["role"] == USER), len(messages))
    return [
        dataclasses.replace(record, fields={"messages": messages[:place]}, target=messages[place]["content"].strip())
        for place in [place for place in places if place > first] or places
    ]


def _most(fits: Callable[[int], bool], n: int, *, is_likely: bool) -> int:
    """Give the largest number up to n that fits, but at least 1; `is_likely` says whether n itself is worth a try."""
    if is_likely and fits(n):
        return n
    high = 2
    while high < n and fits(high):
        high *= 2
    low, high = high // 2, min(high, n)
    return low + bisect_left(range(low + 1, high + 1), True, key=lambda number: not fits(number))


def _question(turn: Record) -> str:
    """Give the message that an answer follows."""
    messages = turn.fields["messages"]
    return str(messages[-1]["content"]) if messages else ""


def _learnt_lengths(example: Example) -> list[int]:
    """Give how many tokens each answer of an example has."""
    if not isinstance(example, Stretch):
        return [len(example.completion)] if isinstance(example, Passage) and example.completion else []
    lengths, run = [], 0
    for label in (*example.labels, IGNORED):
        if label == IGNORED and run:
            lengths.append(run)
        run = 0 if label == IGNORED else run + 1
    return lengths


def _end_id(tokenizer: Any) -> int | None:
    """Give the special token by which the template ends an answer; None where it ends with plain text."""
    ending = end_of_turn(tokenizer)
    ids = tokenizer(ending, add_special_tokens=False)["input_ids"] if ending else []
    # What a vocabulary lacks becomes its unknown token, which is a special one and ends nothing.
    is_token = bool(ids) and ids[0] in tokenizer.all_special_ids
    return int(ids[0]) if is_token and ending.startswith(str(tokenizer.convert_ids_to_tokens(ids[0]))) else None


def _stop_at_end_of_turn(model: Any, tokenizer: Any) -> None:
    """Let the model's own settings end an answer where the template ends it, so that plain Transformers does so too."""
    token = _end_id(tokenizer)
    if token is None:
        return
    settings = model.generation_config
    known = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    settings.eos_token_id = sorted({token, *(int(own) for own in known if own is not None)})


TASK = Dialogue()

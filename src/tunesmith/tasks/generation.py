"""Tasks whose answer is text that a causal or an encoder-decoder model writes: what they share.

Letters: N rows, B batch, T tokens, V vocabulary, S statistics of a row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import TargetKind
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Answered, Example, Load
from tunesmith.tasks.base import BaseTask, in_batches, pad
from tunesmith.tasks.wording import Wording, base_class
from tunesmith.types import Difference, Record, Scores

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tunesmith.tasks.writing import Manner, Written

Self = TypeVar("Self", bound="Generation")

_AUTO = "auto"
_UNRESOLVED = 128  # most new tokens where nobody has looked at the training rows, e.g. before there are any
_SLACK = 1.25  # answers may become longer than the longest 99.5% of the training rows' by this factor
_BATCH_TOKENS = 4096  # for answers of the untouched base model, which no plan belongs to yet
_SAMPLES = 30
_IGNORED = -100  # label of a token that is not learnt, by Transformers' convention


@dataclass(frozen=True)
class Passage(Example):
    """What a model reads (`tokens`) and should write after it."""

    completion: tuple[int, ...] = ()  # ids with the end token, unless they were cut; empty where nobody knows
    prompt: tuple[int, ...] = ()  # causal: what is read while learning; shorter than `tokens` if all would be too long
    is_causal: bool = False
    is_unfinished: bool = False  # whether the completion was cut, so that its end is not learnt
    limit: int = 0  # most tokens of a row in this run; 0 where nobody said

    @property
    def length(self) -> int:
        """Tokens that go through the model, read and written."""
        return len(self.prompt if self.completion and self.is_causal else self.tokens) + len(self.completion)


@dataclass(frozen=True)
class Generation(BaseTask):
    """A task whose answer is text that a causal or an encoder-decoder model writes."""

    max_new_tokens: Any = _AUTO
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: str = ""
    speculate: int = 0
    weights: str = "float"
    draw: int = 0  # number of the sample, where tokens are drawn
    wanted: str = _AUTO  # the recipe's `metric`: if it is one of text, the validation rows are answered in words

    target_kind: ClassVar[TargetKind] = "free"
    has_fresh_head: ClassVar[bool] = False
    selects_by: ClassVar[str] = "loss"
    longest: ClassVar[int] = 512
    main: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]] = ()
    loss_options: ClassVar[tuple[str, ...]] = ("label_smoothing", "r_drop")
    keeps: ClassVar[str] = "start"  # which part of a source stays where it is too long: "start" or "end"

    def __post_init__(self) -> None:
        if self.do_sample and self.num_beams > 1:
            raise PlanProblem(
                f"do_sample and num_beams={self.num_beams} do not go together: beams look for the likeliest text",
                where="num_beams",
                do="set num_beams=1, or do_sample=no",
            )

    @property
    def options(self) -> tuple[str, ...]:
        """The recipe keys that this task listens to."""
        return tuple(name for name in super().options if name != "wanted")

    def configured(self: Self, options: Mapping[str, Any]) -> Self:
        """Give the task with its options set; `metric` tells what the validation rows have to be scored by."""
        wanted = str(options.get("metric", self.wanted))
        return dataclasses.replace(super().configured(options), wanted=wanted)

    def resolved(self: Self, examples: Sequence[Example]) -> Self:
        """Give the task with `max_new_tokens` set from the training rows where it was left open.

        What 99.5% of the completions need and a quarter more, in steps of 8: an answer that does not come to its end
        costs no more than that. It is never more than the model can hold.
        """
        lengths = [len(example.completion) for example in examples if isinstance(example, Passage)]
        if self.max_new_tokens != _AUTO or not any(lengths):
            return self
        needed = float(np.percentile([length for length in lengths if length], 99.5, method="higher"))
        return self._sized(max(8, math.ceil(needed * _SLACK / 8) * 8), examples)

    def _sized(self: Self, wanted: int, examples: Sequence[Example]) -> Self:
        """Give the task with `max_new_tokens` as wanted, but less than a row may have: at least one token is read."""
        limit = max((example.limit for example in examples if isinstance(example, Passage)), default=0)
        return dataclasses.replace(self, max_new_tokens=min(wanted, limit - 1) if limit > 1 else wanted)

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Say how many completions are too long to be learnt to their end."""
        cut = sum(isinstance(example, Passage) and example.is_unfinished for example in examples)
        if not cut:
            return []
        return [
            f"{cut} of {len(examples)} training answers are cut: their ends are not learnt; "
            "give a larger --max-length if the base model can hold it"
        ]

    # What a subclass says of its rows.

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give what the model reads: the encoder's input, or a causal model's prompt with what ends it."""
        return self.text_of(fields)

    def cue(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the end of `source` that stays where the text before it is too long, e.g. "\\nTL;DR:"."""
        return ""

    def references(self, target: Any) -> list[str]:
        """Give every right text."""
        return [target] if isinstance(target, str) else [str(text) for text in target]

    def completion(self, target: Any) -> str:
        """Give the text that is learnt: the first of the right ones."""
        return self.references(target)[0]

    def text_statistics(self, records: Sequence[Record], values: Sequence[str]) -> Floats:
        """Give the sums (N, S) that the metrics of these answers follow from."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its texts are scored")

    def text_values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give each metric (...) from sums of statistics (..., S)."""
        raise NotImplementedError(f"{type(self).__name__} has to say how its texts are scored")

    # From rows to tensors.

    def model_class(self, config: Any) -> str:
        """Give the class by which this base model writes.

        Raises:
            PlanProblem: It is an encoder, which reads only.
        """
        found = base_class(config)
        if found is None:
            raise PlanProblem(
                f"this base model ({getattr(config, 'model_type', 'of no known kind')}) reads and cannot write",
                where="model",
                do="give a causal or an encoder-decoder model (--model gpt2, --model google-t5/t5-small, or a folder), "
                "or make one of your own texts: tunesmith pretrain CORPUS --objective seq2seq (or clm), "
                "then --model FOLDER",
            )
        return found

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give source and completion of each record as ids.

        An encoder and its decoder may each take `max_length` tokens. A causal model takes both together: while
        learning, the completion comes first and the source gets the room that is left (half of it at least). What is
        read to answer leaves room for `max_new_tokens` (half at most) in the same way, and is never shortened for the
        sake of a completion that happens to be known.
        """
        wording = Wording(tokenizer)
        cues = [self.cue(record.fields, tokenizer) for record in records]
        different = sorted(set(cues))
        cue_ids = dict(zip(different, wording.ids(different), strict=True))
        sources = wording.ids([self.source(record.fields, tokenizer) for record in records])
        known = [row for row, record in enumerate(records) if record.target is not None]
        texts = [self.completion(records[row].target) for row in known]
        targets = dict(zip(known, wording.ids(texts, is_target=True), strict=True))
        return [
            self._passage(
                record, sources[row], targets.get(row), wording=wording, cue=cue_ids[cues[row]], max_length=max_length
            )
            for row, record in enumerate(records)
        ]

    def _passage(
        self,
        record: Record,
        source: Sequence[int],
        target: Sequence[int] | None,
        *,
        wording: Wording,
        cue: Sequence[int],
        max_length: int,
    ) -> Passage:
        tokens, was_cut = self._framed(source, wording, cue, max_length - self._reserve(max_length, wording))
        bare = Passage(tokens, None, was_cut, (), record, (), tokens, wording.is_causal, limit=max_length)
        if target is None:
            return bare
        room = max_length
        if wording.is_causal:
            read = min(max(len(source) + wording.source.size, 1), max_length - 1)
            room = max(max_length - read, max_length // 2)
        completion, is_whole = completed(target, wording, room)
        prompt = tokens
        if wording.is_causal:
            prompt, was_cut = self._framed(source, wording, cue, max_length - len(completion))
        return dataclasses.replace(
            bare, was_cut=was_cut or not is_whole, completion=completion, prompt=prompt, is_unfinished=not is_whole
        )

    def _reserve(self, max_length: int, wording: Wording) -> int:
        """Give how many of `max_length` tokens a causal model keeps to write in when it answers; half at most."""
        if not wording.is_causal:
            return 0
        wanted = _UNRESOLVED if self.max_new_tokens == _AUTO else int(self.max_new_tokens)
        return max(1, min(wanted, max_length // 2))

    def _framed(
        self, source: Sequence[int], wording: Wording, cue: Sequence[int], most: int
    ) -> tuple[tuple[int, ...], bool]:
        """Give a source with its special tokens in at most `most` tokens, and whether something had to go."""
        frame = wording.source
        room = max(most - frame.size, 1)
        was_cut = len(source) > room
        if was_cut and self.keeps == "end":
            source = source[len(source) - room :]
        elif was_cut:
            kept_cue = cue[: room - 1]
            source = (*source[: room - len(kept_cue)], *kept_cue)
        ids = (*frame.lead, *source, *frame.tail)
        return ids or (wording.start,), was_cut

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Give `input_ids`, `attention_mask` and `labels`, each (B, T); only the completion has labels.

        What is padding is told by place and not by id: the padding token may be the end token, which is learnt.
        """
        passages = [example for example in examples if isinstance(example, Passage)]
        filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if passages[0].is_causal:
            rows = [(*passage.prompt, *passage.completion) for passage in passages]
            labels = [(*[_IGNORED] * len(passage.prompt), *passage.completion) for passage in passages]
        else:
            rows = [passage.tokens for passage in passages]
            labels = [passage.completion for passage in passages]
        return {
            "input_ids": pad(rows, filler),
            "attention_mask": pad([[1] * len(row) for row in rows], 0),
            "labels": pad(labels, _IGNORED),
        }

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the tokens that are predicted."""
        return float((batch["labels"] != _IGNORED).sum())

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy summed over the tokens of the completions: a scalar."""
        return self.token_losses(model, batch).sum()

    def token_losses(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy (B, T) of each token of the completions; 0 for all others.

        A causal model's logits at one place tell the next token. An encoder-decoder shifts the labels itself.
        """
        from torch.nn import functional

        logits_BTV, labels_BT = self._next_tokens(model, batch)
        losses = functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), labels_BT.flatten(), reduction="none", ignore_index=_IGNORED
        )
        return losses.view(labels_BT.shape)

    def _next_tokens(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the logits (B, T, V), and the token (B, T) that each of them should tell."""
        from torch.nn import functional

        labels_BT = batch["labels"]
        if getattr(model, "module", model).config.is_encoder_decoder:  # in a run of several processes it is wrapped
            return model(**batch).logits, labels_BT
        logits_BTV = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits_BTV, functional.pad(labels_BT[:, 1:], (0, 1), value=_IGNORED)

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what the loss compares, of the N tokens that are learnt: logits (N, V), and the tokens (N)."""
        logits_BTV, labels_BT = self._next_tokens(model, batch)
        is_learnt_BT = labels_BT != _IGNORED
        return logits_BTV[is_learnt_BT].float(), labels_BT[is_learnt_BT]

    # Answers.

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give mean loss and perplexity of a token; the metrics of text too where the recipe selects by one of them."""
        known = [example for example in examples if isinstance(example, Passage) and example.completion]
        sums, counts = self._losses(model, known, tokenizer, batch_tokens)
        loss = float(sums.sum() / max(counts.sum(), 1))
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.wanted in self.metrics:
            answers = self.answer(model, known, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
            records = [example.record for example in known if example.record is not None]
            statistics_NS = self.text_statistics(records, [value for value, _, _ in answers])
            found |= {name: float(value) for name, value in self.text_values(statistics_NS.sum(0)).items()}
        return found

    def _losses(
        self, model: nn.Module, examples: Sequence[Passage], tokenizer: Any, batch_tokens: int
    ) -> tuple[Floats, Floats]:
        """Give for each example the summed loss (N) of what is learnt of it and the number of these tokens (N)."""
        if self.weights != "float":
            from tunesmith.tasks.writing import at_work

            model = at_work(model, self.weights)
        sums_N, counts_N = np.zeros(len(examples)), np.zeros(len(examples))

        def keep(rows: list[int], batch: dict[str, torch.Tensor]) -> None:
            sums_N[rows] = self.token_losses(model, batch).sum(1).double().cpu().numpy()
            counts_N[rows] = (batch["labels"] != _IGNORED).sum(1).cpu().numpy()

        make = lambda some: self.batch(some, tokenizer)  # noqa: E731 - the batch of this task with its tokenizer
        in_batches(examples, keep, make, model=model, batch_tokens=batch_tokens)
        return sums_N, counts_N

    def manner(self, model: nn.Module, tokenizer: Any = None) -> Manner:
        """Give how to choose tokens, with the room that the model has where the recipe leaves the length open.

        The tokenizer tells what else ends an answer, where a task has more than the `stop` of the recipe.
        """
        from tunesmith.tasks.writing import Manner, positions

        most, limit = self.max_new_tokens, positions(model)
        if most == _AUTO:
            most = _UNRESOLVED if limit is None else min(_UNRESOLVED, max(1, limit // 2))
        stops = tuple(stop for stop in self.stop.replace("\\n", "\n").split("|") if stop)
        names = [item.name for item in dataclasses.fields(Manner) if item.name not in ("max_new_tokens", "stops")]
        return Manner(int(most), **{name: getattr(self, name) for name in names}, stops=stops)

    def settle(self, model: nn.Module, tokenizer: Any) -> None:
        """Let plain Transformers' `generate` write as this task does, without being told."""
        manner, config = self.manner(model), model.generation_config
        config.max_length = None
        for name in ("max_new_tokens", "num_beams", "repetition_penalty", "do_sample"):
            setattr(config, name, getattr(manner, name))
        for name in ("temperature", "top_k", "top_p"):  # allowed only where tokens are drawn
            setattr(config, name, getattr(manner, name) if manner.do_sample else None)
        wording = Wording(tokenizer)
        config.eos_token_id, config.pad_token_id = wording.end, wording.filler

    def write(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, batch_tokens: int, draw: int = 0
    ) -> list[Written]:
        """Let the model write to each example; `draw` numbers the samples of one source when they are drawn."""
        from tunesmith.tasks.writing import write

        return write(
            model,
            [example.tokens for example in examples],
            wording=Wording(tokenizer),
            manner=self.manner(model, tokenizer),
            batch_tokens=batch_tokens,
            draw=draw,
        )

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give the text that the model writes and the geometric mean of its tokens' probabilities, for each record.

        The probabilities are the model's own, whatever beams, temperature or penalties chose the tokens.
        """
        written = self.write(model, examples, tokenizer=tokenizer, batch_tokens=batch_tokens, draw=self.draw)
        passages = [
            dataclasses.replace(example, completion=one.ids, prompt=example.tokens)
            for example, one in zip(examples, written, strict=True)
            if isinstance(example, Passage)
        ]
        sure = {
            row: math.exp(-one.nats / len(one.ids))
            for row, one in enumerate(written)
            if one.ids and one.nats is not None
        }
        unsure = [row for row, one in enumerate(written) if one.ids and one.nats is None]  # beams note nothing
        sums, counts = self._losses(model, [passages[row] for row in unsure], tokenizer, batch_tokens)
        sure |= dict(zip(unsure, np.exp(-sums / np.maximum(counts, 1)).tolist(), strict=True))
        return [(one.text, sure.get(row, 0.0), {}) for row, one in enumerate(written)]

    def stream(self, model: nn.Module, tokenizer: Any, record: Record) -> Iterator[str]:
        """Yield the answer to one record piece by piece as it is written; together they are the value of `answer`."""
        from tunesmith.tasks.writing import stream

        (example,) = self.encode([record], tokenizer, labels=(), max_length=int(tokenizer.model_max_length))
        manner = self.manner(model, tokenizer)
        yield from stream(model, example.tokens, wording=Wording(tokenizer), manner=manner, draw=self.draw)

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Let the base model write as it came; None where it has no language-model head of its own."""
        name = "AutoModelForCausalLM" if Wording(tokenizer).is_causal else "AutoModelForSeq2SeqLM"
        model = load(name)
        if not any(_has_language_head(kind) for kind in getattr(model.config, "architectures", None) or ()):
            return None
        model.config.pad_token_id = tokenizer.pad_token_id
        examples = self.encode(records, tokenizer, labels=labels, max_length=max_length)
        return self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=_BATCH_TOKENS)

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the value is one of the right texts, but for space around it."""
        return str(value).strip() in [text.strip() for text in self.references(record.target)]

    # Scores.

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score the texts, with intervals over rows; samples are the worst rows by the main metric, then the best."""
        values = [str(value) for value, _, _ in answers]
        statistics_NS = self.text_statistics(records, values)
        scores = metrics.summed_scores(statistics_NS, self.text_values, main=main, seed=seed)
        return dataclasses.replace(scores, details={"samples": self._samples(records, answers, statistics_NS, main)})

    def _samples(
        self, records: Sequence[Record], answers: Sequence[Answered], statistics_NS: Floats, main: str
    ) -> list[dict[str, Any]]:
        each_N = np.asarray(self.text_values(statistics_NS)[main], dtype=float)
        order = np.argsort([metrics.goodness(main, value) for value in each_N], kind="stable").tolist()
        chosen = order if len(order) <= _SAMPLES else [*order[: 2 * _SAMPLES // 3], *order[-(_SAMPLES // 3) :]]
        return [
            {
                "row": str(records[row].origin),
                "input": self.text_of(records[row].fields),
                "expected": "\n".join(self.references(records[row].target)),
                "answered": str(answers[row][0]),
                "right": self.is_right(records[row], answers[row][0]),
                "score": float(each_N[row]),
            }
            for row in chosen
        ]

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of texts on the same records by a paired bootstrap."""
        mine, theirs = (self.text_statistics(records, [str(value) for value in values]) for values in (first, second))
        return metrics.summed_difference(mine, theirs, self.text_values, metric=metric, seed=seed)


def completed(target: Sequence[int], wording: Wording, room: int) -> tuple[tuple[int, ...], bool]:
    """Give what is learnt with its special tokens in at most `room` tokens, and whether it is whole."""
    bare = room - wording.target.size
    is_whole = len(target) <= bare
    tail = wording.target.tail if is_whole else ()  # a cut text does not end here: that is not to be learnt
    return (*wording.target.lead, *target[: max(bare, 1)], *tail), is_whole


def _has_language_head(architecture: str) -> bool:
    """Whether a model class of Transformers, by its name, turns states into words."""
    ends = ("ForConditionalGeneration", "LMHeadModel", "ForCausalLM", "MTModel", "ForSeq2SeqLM", "EncoderDecoderModel")
    return architecture.endswith(ends)

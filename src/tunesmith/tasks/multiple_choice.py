"""One of several choices: commonsense, reading comprehension with options, which of two sentences makes sense.

Every choice is read together with the question and gets one number; the largest wins. Rows may have different numbers
of choices. Letters: N records, B batch, K choices of all rows of a batch, C choices of one row, T tokens, L longest C.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.metrics.shares import divide
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.base import BaseTask, samples
from tunesmith.tasks.choice_rows import FORMS, joined, read_question, read_right_choice
from tunesmith.tasks.engine import Arrays, Engine, as_tensors, padded_inputs, run_batches
from tunesmith.tasks.overlap import tfidf_cosines
from tunesmith.tasks.text_classification import encode_texts, mean_states
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_HELD_BACK = {"labels", "rows", "columns"}  # entries of a batch that are not for the model


@dataclasses.dataclass(frozen=True)
class Choices(Example):
    """A question with all of its choices; `tokens` and `segments` are those of the longest one."""

    each: tuple[Example, ...] = ()  # the question with each choice

    @property
    def length(self) -> int:
        """Tokens that go through the model: every choice is padded to the longest."""
        return len(self.each) * len(self.tokens)


@dataclasses.dataclass(frozen=True)
class MultipleChoice(BaseTask):
    """Choosing one of a row's own choices with a head of one output."""

    name: ClassVar[str] = "multiple-choice"
    forms: ClassVar[Sequence[Form]] = FORMS
    main: ClassVar[str] = "accuracy"
    noisy_fields: ClassVar[tuple[str, ...]] = ("context", "question")
    selects_by: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    pipeline: ClassVar[str] = "multiple-choice"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give question, choices and context."""
        return read_question(cells)

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the place of the right choice, counted from 0."""
        return read_right_choice(cells, fields["choices"])

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give context, question and choices, one under the other."""
        return "\n".join(
            [*(str(fields[role]) for role in ("context", "question") if role in fields), *fields["choices"]]
        )

    def model_class(self, config: Any) -> str:
        """Give the class with a head for choices.

        Raises:
            PlanProblem: Transformers has none for this kind of model.
        """
        from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES as KNOWN

        kind = getattr(config, "model_type", None)
        if kind is not None and kind not in KNOWN:
            raise PlanProblem(
                f"a base model of kind '{kind}' has no head for choices",
                where="model",
                do="choose an encoder such as BERT, RoBERTa or ELECTRA",
            )
        return "AutoModelForMultipleChoice"

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the ids of the question with each choice, the longer side cut first, and the place of the right one."""
        inputs = [model_inputs(record) for record in records]
        flat = [text for texts in inputs for text in texts]
        # The tokenizer takes pairs or single texts, not both at once.
        found: list[Any] = [None] * len(flat)
        for kind in (str, tuple):
            places = [place for place, text in enumerate(flat) if isinstance(text, kind)]
            encoded = encode_texts([flat[place] for place in places], tokenizer, max_length)
            for place, example in zip(places, encoded, strict=True):
                found[place] = example
        waiting = iter(found)
        return [
            _together(record, [next(waiting) for _ in texts]) for record, texts in zip(records, inputs, strict=True)
        ]

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad all choices of all rows to the longest: `input_ids` and its like (K, T).

        `rows` and `columns` (K) tell whose choice each is, and which one; `labels` (B) where targets are known.
        """
        import torch

        each = [(row, column, one) for row, example in enumerate(examples) for column, one in enumerate(_each(example))]
        batch = as_tensors(padded_inputs([one for _, _, one in each], tokenizer))
        batch["rows"] = torch.tensor([row for row, _, _ in each])
        batch["columns"] = torch.tensor([column for _, column, _ in each])
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the rows of the batch."""
        return float(batch["rows"][-1] + 1)

    def logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give one number for each choice (B, C), float32; -inf where a row has fewer choices.

        The model gets all choices as those of one single row, which is the same to it and needs no made-up choices.
        """
        inputs = {name: tensor.unsqueeze(0) for name, tensor in batch.items() if name not in _HELD_BACK}
        flat_K: torch.Tensor = model(**inputs).logits.float().view(-1)
        rows, columns = batch["rows"], batch["columns"]
        empty_BC = flat_K.new_full((int(rows[-1]) + 1, int(columns.max()) + 1), float("-inf"))
        return empty_BC.index_put((rows, columns), flat_K)

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy over the choices of each row, summed over the batch: a scalar."""
        from torch.nn import functional

        return functional.cross_entropy(self.logits(model, batch), batch["labels"], reduction="sum")

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad all choices of all rows to the longest: `input_ids` and its like (1, K, T), as one row's choices."""
        flat = padded_inputs([one for example in examples for one in _each(example)], tokenizer)
        return {name: array[None] for name, array in flat.items()}

    def all_logits(
        self, model: nn.Module | Engine, examples: Sequence[Example], *, tokenizer: Any, batch_tokens: int
    ) -> Floats:
        """Give one number for each choice (N, L), -inf where a row has fewer choices."""
        width = max((len(_each(example)) for example in examples), default=0)
        logits_NL = np.full((len(examples), width), -np.inf)
        make = functools.partial(self.inputs, tokenizer=tokenizer)
        for rows, _, outputs in run_batches(model, examples, make, batch_tokens=batch_tokens):
            waiting = iter(outputs["logits"].ravel())
            for row in rows:
                count = len(_each(examples[row]))
                logits_NL[row, :count] = list(itertools.islice(waiting, count))
        return logits_NL

    def answer(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labels: Sequence[str],
        batch_tokens: int,
    ) -> Any:
        """Give (place of the choice, its probability, the probability of each choice by its text) for each record."""
        logits_NL = self.all_logits(model, examples, tokenizer=tokenizer, batch_tokens=batch_tokens)
        records = [example.record for example in examples]
        return [
            answered(record.fields["choices"], row[: len(record.fields["choices"])])
            for record, row in zip(records, logits_NL, strict=True)
            if record is not None
        ]

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give accuracy and the mean cross-entropy."""
        logits_NL = self.all_logits(model, examples, tokenizer=tokenizer, batch_tokens=batch_tokens)
        if np.isnan(logits_NL).any() or not np.isfinite(logits_NL.max(1)).all():
            return {"accuracy": float("nan"), "loss": float("nan")}
        expected = np.array([example.target for example in examples])
        chosen = metrics.softmax(logits_NL)[np.arange(len(expected)), expected]
        accuracy = float((logits_NL.argmax(1) == expected).mean())
        return {"accuracy": accuracy, "loss": float(-np.log(np.maximum(chosen, 1e-300)).mean())}

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit one temperature to the choices of rows with known targets."""
        known = [example for example in examples if example.target is not None]
        logits_NL = self.all_logits(model, known, tokenizer=tokenizer, batch_tokens=batch_tokens)
        return metrics.fit_temperature(logits_NL, np.array([example.target for example in known], dtype=int))

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score chosen places; with confidences, also how far these can be believed."""
        values = [value for value, _, _ in answers]
        scores = metrics.summed_scores(_hits(records, values), _accuracy, main=main, seed=seed)
        shown = [_in_words(sample) for sample in samples(self, records, values)]
        details: dict[str, Any] = {"samples": shown}
        confidences = [confidence for _, confidence, _ in answers]
        if all(confidence is not None for confidence in confidences):
            is_right = _hits(records, values)[:, 0] > 0
            details["reliability"], details["ece"] = metrics.calibration(np.array(confidences), is_right)
        extra = {"ece": details["ece"]} if "ece" in details else {}
        return dataclasses.replace(scores, values={**scores.values, **extra}, details=details)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of chosen places."""
        one, other = _hits(records, first), _hits(records, second)
        return metrics.summed_difference(one, other, _accuracy, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer by chance, and with the choice that shares most words with the question (the first among equals)."""
        start = time.perf_counter()
        chance = random.Random(seed)
        sizes = [len(record.fields["choices"]) for record in splits.test]
        guesses: list[Answered] = [(chance.randrange(size), 1 / size, {}) for size in sizes]
        found = [Baseline("random", guesses, time.perf_counter() - start)]
        if any(_question(record) for record in splits.test):
            start = time.perf_counter()
            known = [self.text_of(record.fields) for record in splits.train]
            firsts, seconds = zip(*_each_with_question(splits.test), strict=True)
            near = iter(tfidf_cosines(known, firsts, seconds))
            places = [int(np.argmax([next(near) for _ in range(size)])) for size in sizes]
            answers: list[Answered] = [(place, None, {}) for place in places]
            found.append(Baseline("tfidf-overlap", answers, time.perf_counter() - start))
        return found

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer by the cosine of the mean states of the question and of each choice, times 20.

        None where there is no question to compare with. The factor only sets how sharp the scores are.
        """
        if not all(_question(record) for record in records):
            return None
        body = load("AutoModel")
        asked_NH = mean_states(body, [_question(record) for record in records], tokenizer, max_length)
        choices = [choice for record in records for choice in record.fields["choices"]]
        states = iter(mean_states(body, choices, tokenizer, max_length))
        return [
            answered(
                record.fields["choices"],
                np.array([20.0 * float(asked_H @ next(states)) for _ in record.fields["choices"]]),
            )
            for record, asked_H in zip(records, asked_NH, strict=True)
        ]


def model_inputs(record: Record) -> list[Any]:
    """Give what the tokenizer takes for each choice.

    With a context: (context, question and choice); else (question, choice); else the choice alone.
    """
    fields = record.fields
    context, question = str(fields.get("context", "")), str(fields.get("question", ""))
    if context:
        return [(context, joined(question, choice)) for choice in fields["choices"]]
    return [(question, choice) if question else choice for choice in fields["choices"]]


def answered(choices: Sequence[str], logits_C: Floats) -> Answered:
    """Give the best place, its probability and those of all choices by their texts, best first.

    The same text twice counts once, with both probabilities.
    """
    chances = metrics.softmax(logits_C[None])[0]
    order = np.argsort(-chances, kind="stable")
    alternatives: dict[str, float] = {}
    for place in order:
        alternatives[choices[place]] = alternatives.get(choices[place], 0.0) + float(chances[place])
    return int(order[0]), float(chances[order[0]]), alternatives


def _together(record: Record, each: Sequence[Example]) -> Choices:
    longest = max(each, key=lambda one: len(one.tokens))
    return Choices(
        tokens=longest.tokens,
        target=record.target,
        was_cut=any(one.was_cut for one in each),
        segments=longest.segments,
        record=record,
        each=tuple(each),
    )


def _each(example: Example) -> tuple[Example, ...]:
    assert isinstance(example, Choices)
    return example.each


def _question(record: Record) -> str:
    return joined(str(record.fields.get("context", "")), str(record.fields.get("question", "")))


def _each_with_question(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    for record in records:
        for choice in record.fields["choices"]:
            yield _question(record), choice


def _hits(records: Sequence[Record], places: Sequence[int]) -> Floats:
    """Give for each row (N, 2) whether the place is right, and 1."""
    right = [float(place == record.target) for record, place in zip(records, places, strict=True)]
    return np.stack([np.array(right), np.ones(len(right))], axis=1)


def _accuracy(sums: Floats) -> dict[str, Floats]:
    return {"accuracy": divide(sums[..., 0], sums[..., 1])}


def _in_words(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Give a sample of the report with the texts of the choices beside their places."""
    choices = sample["input"]["choices"]
    expected, given = (f"{sample[side]}: {choices[sample[side]]}" for side in ("expected", "answered"))
    return {**sample, "expected": expected, "answered": given}


TASK = MultipleChoice()

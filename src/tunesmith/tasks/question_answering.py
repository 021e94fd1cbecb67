"""An answer cut out of a text: extractive question answering, with questions that have no answer.

Letters: N records, B batch of windows, T tokens, C tokens of the context in one window.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats, answers
from tunesmith.tasks import Baseline, Example, Load
from tunesmith.tasks.answer_spans import LONGEST_ANSWER, Candidates, best_threshold, choose, find_candidates
from tunesmith.tasks.answer_windows import Window, encode_windows
from tunesmith.tasks.base import BaseTask, samples, windows
from tunesmith.tasks.engine import Arrays, Engine, padded_inputs, run_batches
from tunesmith.tasks.overlap import terms
from tunesmith.tasks.reference_answers import read_answers
from tunesmith.tasks.text_classification import padded
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_CALIBRATED_ROWS = 1000  # validation rows that the temperature is fitted on, at most
_SENTENCE_END = re.compile(r"(?<=[。！？；\n])|(?<=[.!?])\s+")
_HELD_BACK = {"starts", "ends", "allowed"}  # entries of a batch that are not for the model

LogLikelihoods = tuple[Floats, Floats]
"""Of one window, that the answer begins and that it ends with "not here" (place 0) or a token of the context (C+1)."""


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(BaseTask):
    """Extractive question answering with a span head; long contexts are read in windows."""

    stride: int = 128

    name: ClassVar[str] = "question-answering"
    forms: ClassVar[Sequence[Form]] = (
        Form(
            {"question": "text", "context": "text"},
            {"answers": "any"},
            {"answer_start": "any", "is_impossible": "any"},
        ),
    )
    noisy_fields: ClassVar[tuple[str, ...]] = ("question",)  # answers are places in the context
    main: ClassVar[str] = "f1"
    selects_by: ClassVar[str] = "f1"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    pipeline: ClassVar[str] = "question-answering"
    longest: ClassVar[int] = 384

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give question and context."""
        return {"question": cells.text("question"), "context": cells.text("context")}

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the context: its questions stay in one part of a split."""
        return {"context": fields["context"]}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the references as SQuAD has them: `text` and `answer_start`; both empty where there is no answer."""
        return read_answers(cells, str(fields["context"]))

    def model_class(self, config: Any) -> str:
        """Give the class with a span head.

        Raises:
            PlanProblem: Transformers has none for this kind of model.
        """
        from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES as KNOWN

        kind = getattr(config, "model_type", None)
        if kind is not None and kind not in KNOWN:
            raise PlanProblem(
                f"a base model of kind '{kind}' has no head for spans",
                where="model",
                do="choose an encoder such as BERT, RoBERTa or ELECTRA",
            )
        return "AutoModelForQuestionAnswering"

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Forget the threshold of a run that the base model may come from."""
        return {"no_answer_threshold": None}

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the windows of each record with the places of its first reference; "not here" where it is elsewhere.

        A training answer that is longer than any window can hold is marked as cut.
        """
        examples: list[Example] = []
        for record, found in encode_windows(records, tokenizer, max_length=max_length, stride=self.stride):
            if record.target is None:
                examples += found
                continue
            span = first_span(record.target)
            places = [None if span is None else window.places_of(*span) for window in found]
            is_lost = span is not None and not any(places)
            examples += [
                dataclasses.replace(
                    window, target=place or (window.nothing, window.nothing), was_cut=window.was_cut or is_lost
                )
                for window, place in zip(found, places, strict=True)
            ]
        return examples

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Tell of answers that cannot be learnt as they are: longer than a window, or than answers ever get."""
        each = [[_window(examples[place]) for place in places] for places in windows(examples)]
        lost = sum(_is_lost(found) for found in each)
        long = sum(any(one.target[1] - one.target[0] >= LONGEST_ANSWER for one in found) for found in each)
        found = []
        if lost:
            found.append(
                f"{lost} training answers stand whole in no window of text and are learnt as absent: --max-length"
            )
        if long:
            found.append(f"{long} training answers have more than {LONGEST_ANSWER} tokens; no answer will be as long")
        return found

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids` and its like, and `allowed` (B, T): where an answer may begin or end.

        With targets also `starts` and `ends` (B).
        """
        import torch

        batch = padded(examples, tokenizer)
        allowed_BT = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        for row, window in enumerate(map(_window, examples)):
            allowed_BT[row, window.nothing] = True
            allowed_BT[row, window.first : window.first + len(window.offsets)] = True
        batch["allowed"] = allowed_BT
        if all(example.target is not None for example in examples):
            batch["starts"] = torch.tensor([example.target[0] for example in examples])
            batch["ends"] = torch.tensor([example.target[1] for example in examples])
        return batch

    def log_likelihoods(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give for each place that the answer begins, and that it ends there (B, T), float32; -inf where it may not.

        Question, separators and padding are left out, so that a window's loss does not depend on what it is batched
        with.
        """
        from torch.nn import functional

        found = model(**{name: tensor for name, tensor in batch.items() if name not in _HELD_BACK})
        starts_BT, ends_BT = (
            functional.log_softmax(logits_BT.float().masked_fill(~batch["allowed"], float("-inf")), dim=1)
            for logits_BT in (found.start_logits, found.end_logits)
        )
        return starts_BT, ends_BT

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the mean of the cross-entropies of both ends, summed over the windows: a scalar."""
        from torch.nn import functional

        starts_BT, ends_BT = self.log_likelihoods(model, batch)
        both = functional.nll_loss(starts_BT, batch["starts"], reduction="sum")
        both = both + functional.nll_loss(ends_BT, batch["ends"], reduction="sum")
        return both / 2

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad to the longest what goes into the model: `input_ids` and its like (B, T)."""
        return padded_inputs(examples, tokenizer)

    def _run(
        self, model: nn.Module | Engine, examples: Sequence[Example], tokenizer: Any, batch_tokens: int
    ) -> list[LogLikelihoods]:
        """Give the log-likelihoods of each window: of the places where an answer may begin or end, and no others."""
        found: list[Any] = [None] * len(examples)
        make = functools.partial(self.inputs, tokenizer=tokenizer)
        for rows, _, outputs in run_batches(model, examples, make, batch_tokens=batch_tokens):
            both = (outputs["start_logits"], outputs["end_logits"])
            for index, row in enumerate(rows):
                window = _window(examples[row])
                places = [window.nothing, *range(window.first, window.first + len(window.offsets))]
                found[row] = tuple(metrics.log_softmax(side[index, places].astype(np.float64)) for side in both)
        return found

    def answer(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labels: Sequence[str],
        batch_tokens: int,
    ) -> Any:
        """Give ({"text", "start", "end"}, confidence, the best texts) for each record; start and end in characters.

        The confidence is the answer's share among the likeliest spans of all windows and "no answer".
        """
        threshold = getattr(model.config, "no_answer_threshold", None)
        found = self._run(model, examples, tokenizer, batch_tokens)
        return [choose(candidates, context, threshold) for _, context, candidates in _by_record(examples, found)]

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give F1 and exact match, "no answer" being one wherever some row has none, and the mean loss of a window."""
        found = self._run(model, examples, tokenizer, batch_tokens)
        losses = [
            -(starts[_shifted(window, 0)] + ends[_shifted(window, 1)]) / 2
            for window, (starts, ends) in zip(map(_window, examples), found, strict=True)
        ]
        if not np.isfinite(losses).all():
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        each = _by_record(examples, found)
        records = [record for record, _, _ in each]
        threshold = 0.0 if _has_unanswerable(records) else None
        texts = [str(choose(candidates, context, threshold)[0]["text"]) for _, context, candidates in each]
        values = answers.values(statistics(records, texts).sum(0))
        return {name: float(values[name]) for name in self.metrics} | {"loss": float(np.mean(losses))}

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit the temperature, and where some rows have no answer, the lead from which "no answer" is one.

        The latter is kept as `no_answer_threshold` in the model's configuration.
        """
        found = self._run(model, examples, tokenizer, batch_tokens)
        each = [(record, context, one) for record, context, one in _by_record(examples, found) if one.spans]
        temperature = _temperature(each[:_CALIBRATED_ROWS])
        model.config.no_answer_threshold = None
        records = [record for record, _, _ in each]
        if _has_unanswerable(records):
            best = [str(choose(candidates, context, None)[0]["text"]) for _, context, candidates in each]
            with_span, with_nothing = (_f1(records, texts) for texts in (best, [""] * len(each)))
            leads = [candidates.lead_of_nothing for _, _, candidates in each]
            # What is added up here is divided by the temperature afterwards, with the output layer.
            model.config.no_answer_threshold = best_threshold(leads, with_span, with_nothing) / temperature
        return temperature

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the answer equals a reference but for case, articles and punctuation."""
        sums = statistics([record], [str(value["text"])])[0]
        return bool(sums[1] + sums[4] > 0)

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score answers by the rules of SQuAD, or of CMRC 2018 where question and references are Chinese."""
        values = [value for value, _, _ in answers]
        found = statistics(records, [str(value["text"]) for value in values])
        scores = metrics.summed_scores(found, _values, main=main, seed=seed)
        shown = [_with_spans(sample) for sample in samples(self, records, values)]
        return dataclasses.replace(scores, details={"samples": shown})

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of answers."""
        one, other = (statistics(records, [str(value["text"]) for value in side]) for side in (first, second))
        return metrics.summed_difference(one, other, _values, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer with that sentence of the context which shares most terms with the question."""
        start = time.perf_counter()
        found = [best_sentence(str(one.fields["question"]), str(one.fields["context"])) for one in splits.test]
        return [Baseline("best-overlap", [(value, None, {}) for value in found], time.perf_counter() - start)]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer with the base model where it was trained for this; None where its span head would be fresh."""
        model = load("AutoModelForQuestionAnswering")
        if not any("QuestionAnswering" in str(name) for name in model.config.architectures or ()):
            return None
        examples = self.encode(records, tokenizer, labels=labels, max_length=max_length)
        return self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=4096)


def _window(example: Example) -> Window:
    assert isinstance(example, Window)
    return example


def _is_lost(found: Sequence[Window]) -> bool:
    """Whether the record of these windows has an answer that stands whole in none of them."""
    record = found[0].record
    is_answerable = record is not None and record.target is not None and first_span(record.target) is not None
    return is_answerable and all(window.target == (window.nothing, window.nothing) for window in found)


def _shifted(window: Window, side: int) -> int:
    """Give the place of the target among "not here" and the tokens of the context."""
    place = int(window.target[side])
    return 0 if place == window.nothing else place - window.first + 1


def _by_record(examples: Sequence[Example], found: Sequence[LogLikelihoods]) -> list[tuple[Record, str, Candidates]]:
    """Give each record with its context and the likeliest spans of its windows."""
    each = []
    for places in windows(examples):
        record = examples[places[0]].record
        assert record is not None
        context = str(record.fields["context"])
        candidates = find_candidates([(_window(examples[one]).offsets, *found[one]) for one in places], context)
        each.append((record, context, candidates))
    return each


def first_span(target: Mapping[str, Any]) -> tuple[int, int] | None:
    """Give where the first reference that stands in the context begins and ends; None where there is no answer."""
    for text, start in zip(target["text"], target["answer_start"], strict=True):
        if start >= 0:
            return int(start), int(start) + len(text)
    return None


def statistics(records: Sequence[Record], texts: Sequence[str]) -> Floats:
    """Give the sums (N, 5) that `metrics.answers.values` makes scores of."""
    questions = [str(record.fields["question"]) for record in records]
    return answers.statistics([record.target["text"] for record in records], texts, questions)


def _values(sums: Floats) -> dict[str, Floats]:
    return answers.values(sums)


def _f1(records: Sequence[Record], texts: Sequence[str]) -> list[float]:
    sums_N5 = statistics(records, texts)
    return [float(value) for value in sums_N5[:, 2] + sums_N5[:, 4]]


def _has_unanswerable(records: Sequence[Record]) -> bool:
    return any(not record.target["text"] for record in records)


def _temperature(each: Sequence[tuple[Record, str, Candidates]]) -> float:
    """Fit the temperature to which span of each record, or "no answer", comes closest to the references."""
    if not each:
        return 1.0
    width = 1 + max(len(candidates.spans) for _, _, candidates in each)
    scores_NC = np.full((len(each), width), -np.inf)
    expected_N = np.zeros(len(each), dtype=np.int64)
    for row, (record, context, candidates) in enumerate(each):
        scores_NC[row, : 1 + len(candidates.spans)] = [candidates.nothing, *(one.score for one in candidates.spans)]
        texts = ["", *(context[one.start : one.end] for one in candidates.spans)]
        expected_N[row] = int(np.argmax(_f1([record] * len(texts), texts)))
    return metrics.fit_temperature(scores_NC, expected_N)


def best_sentence(question: str, context: str) -> dict[str, Any]:
    """Give that sentence of the context which shares most different terms with the question; the first among equals."""
    asked = set(terms(question))
    ends = [match.span() for match in _SENTENCE_END.finditer(context)]
    starts = [0, *(end for _, end in ends)]
    sentences = list(zip(starts, [*(start for start, _ in ends), len(context)], strict=True))
    start, end = max(sentences, key=lambda span: len(asked & set(terms(context[span[0] : span[1]]))))
    text = context[start:end].strip()
    start = context.index(text, start)
    return {"text": text, "start": start, "end": start + len(text)}


def _with_spans(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Give a sample of the report with its context, and where in it the expected and the given answer stand."""
    expected = [
        {"start": start, "end": start + len(text), "label": "expected"}
        for text, start in zip(sample["expected"]["text"], sample["expected"]["answer_start"], strict=True)
        if start >= 0
    ]
    value = sample["answered"]
    answered = [{"start": value["start"], "end": value["end"], "label": "answered"}] if value["start"] >= 0 else []
    return {
        **sample,
        "input": sample["input"]["question"],
        "expected": " | ".join(dict.fromkeys(sample["expected"]["text"])),
        "answered": value["text"],
        "text": sample["input"]["context"],
        "expected_spans": expected,
        "answered_spans": answered,
    }


TASK = QuestionAnswering()

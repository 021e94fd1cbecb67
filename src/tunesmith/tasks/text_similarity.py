"""A number for two texts: how alike they are, on whatever scale the scores of the file have.

Training sees the scores between 0 and 1. Afterwards the straight line from the model's output to the file's own scale
is fitted on the validation rows and becomes part of the model, so that plain Transformers answers on that scale too.
Letters: N rows, B batch.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.metrics import Floats, correlations
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.base import BaseTask, samples
from tunesmith.tasks.engine import Arrays, Engine, as_tensors, engine_of, padded_inputs, run_batches
from tunesmith.tasks.overlap import tfidf_cosines
from tunesmith.tasks.pairs import (
    SIDES,
    config_of,
    cosines,
    demand_encoder,
    encode_apart,
    encode_joined,
    headless_class,
    inputs_apart,
    read_cosines,
    read_pair,
    sides_of,
    swapped_conflicts,
    untrained_cosines,
)
from tunesmith.types import Difference, Problem, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_NEAR = 0.1  # share of a score (of 1 at least) by which an answer may differ and still be called right


@dataclasses.dataclass(frozen=True)
class TextSimilarity(BaseTask):
    """Regression of one score on pairs of texts."""

    encoder: str = "cross"

    name: ClassVar[str] = "text-similarity"
    has_confidence: ClassVar[bool] = False
    forms: ClassVar[Sequence[Form]] = (Form(SIDES, {"score": "any"}),)
    main: ClassVar[str] = "spearman"
    noisy_fields: ClassVar[tuple[str, ...]] = tuple(SIDES)
    augmented_fields: ClassVar[tuple[str, ...]] = tuple(SIDES)
    selects_by: ClassVar[str] = "spearman"
    metrics: ClassVar[tuple[str, ...]] = ("spearman", "pearson", "mse")
    pipeline: ClassVar[str] = "sentence-similarity"

    def __post_init__(self) -> None:
        demand_encoder(self.encoder)

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give both texts."""
        return read_pair(cells)

    def problems(self, records: Sequence[Record]) -> Iterable[Problem]:
        """Notice pairs that also stand the other way round with another target."""
        return swapped_conflicts(records)

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give both texts, whichever comes first: a pair and its mirror image stay in one part of a split."""
        return {"pair": sorted(str(text) for text in fields.values())}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the score."""
        return cells.number("score")

    def model_class(self, config: Any) -> str:
        """Give the class with a sequence head; for texts encoded apart, the one without a head."""
        return headless_class(config) if self.encoder == "bi" else "AutoModelForSequenceClassification"

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Ask for a head with one output; apart, for the cosine as it is."""
        if self.encoder == "bi":
            return {"cosine_scale": 1.0, "cosine_offset": 0.0}
        names = {"id2label": {0: "score"}, "label2id": {"score": 0}}
        return {"problem_type": "regression", "num_labels": 1, **names, "score_offset": 0.0}

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the ids of both texts, and as target the score on 0..1 (by the range of these records) and as it is."""
        return list(self.encoding(records, tokenizer, labels=labels, max_length=max_length))

    def encoding(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> Iterator[Example]:
        """Give what `encode` gives one by one, holding a thousand rows at a time."""
        known = array("d", (record.target for record in records if record.target is not None))
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        span = (high - low) or 1.0
        encode = encode_apart if self.encoder == "bi" else encode_joined
        for record, example in zip(records, encode(records, tokenizer, max_length), strict=True):
            target = None if record.target is None else ((record.target - low) / span, record.target)
            yield dataclasses.replace(example, target=target, record=record)

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest; `labels` (B) are the scores on 0..1, where they are known."""
        import torch

        batch = as_tensors(self.inputs(examples, tokenizer))
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target[0] for example in examples], dtype=torch.float32)
        return batch

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad to the longest what goes into the model: joined pairs (B, T), or both sides (2B, T)."""
        return inputs_apart(examples, tokenizer) if self.encoder == "bi" else padded_inputs(examples, tokenizer)

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the pairs of the batch."""
        return float(len(batch["input_ids"]) // (2 if self.encoder == "bi" else 1))

    def outputs(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give one number for each pair (B), float32."""
        if self.encoder == "bi":
            config = config_of(model)
            return cosines(model, batch) * getattr(config, "cosine_scale", 1.0) + getattr(config, "cosine_offset", 0.0)
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        found: torch.Tensor = model(**inputs).logits.float().squeeze(-1)
        return found + getattr(config_of(model), "score_offset", 0.0)

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the squared error on the 0..1 scale summed over the batch: a scalar."""
        from torch.nn import functional

        return functional.mse_loss(self.outputs(model, batch), batch["labels"], reduction="sum")

    def answer(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labels: Sequence[str],
        batch_tokens: int,
    ) -> Any:
        """Give the score of each pair (N), in the order of the examples."""
        answers_N, engine = np.zeros(len(examples)), engine_of(model)
        make = functools.partial(self.inputs, tokenizer=tokenizer)
        for rows, inputs, outputs in run_batches(engine, examples, make, batch_tokens=batch_tokens):
            answers_N[rows] = self._read(inputs, outputs, engine.config)
        return answers_N

    def _read(self, inputs: Arrays, outputs: Arrays, config: Any) -> Floats:
        """Give one number for each pair (B), as `outputs` does."""
        if self.encoder == "bi":
            scale, offset = getattr(config, "cosine_scale", 1.0), getattr(config, "cosine_offset", 0.0)
            return read_cosines(inputs, outputs) * scale + offset
        return outputs["logits"][:, 0] + getattr(config, "score_offset", 0.0)

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give correlations and errors on the file's scale, by the line that fits these rows best.

        `loss` is the squared error on the 0..1 scale after that line.
        """
        answers_N = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        if not np.isfinite(answers_N).all():
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        expected_N = np.array([example.target[1] for example in examples])
        slope, shift = fit_line(answers_N, expected_N)
        values = correlations.values(expected_N, slope * answers_N + shift)
        return {**values, "loss": values["mse"] / (float(np.ptp(expected_N)) or 1.0) ** 2}

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit the line from the output to the file's scale and make it part of the model; the temperature stays 1."""
        known = [example for example in examples if example.target is not None]
        answers_N = self.answer(model, known, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        slope, shift = fit_line(answers_N, np.array([example.target[1] for example in known]))
        config = config_of(model)
        if self.encoder == "bi":
            config.cosine_scale = slope * getattr(config, "cosine_scale", 1.0)
            config.cosine_offset = slope * getattr(config, "cosine_offset", 0.0) + shift
        else:
            _fold(model, slope, shift)
        return 1.0

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give each score; how sure it is cannot be told."""
        return [(float(value), None, {}) for value in answers]

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the score is off by a tenth of the true one at most (by 0.1 where that is below 1)."""
        return bool(abs(value - record.target) <= _NEAR * max(1.0, abs(record.target)))

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score numbers (N) against the records' scores."""
        expected_N = np.array([record.target for record in records])
        rows = correlations.of_rows(expected_N, answers)
        scores = metrics.resampled_scores(len(records), rows, main=main, seed=seed)
        values = [round(float(value), 4) for value in answers]
        return dataclasses.replace(scores, details={"samples": samples(self, records, values)})

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of scores."""
        expected_N = np.array([record.target for record in records])
        one, other = (correlations.of_rows(expected_N, answers) for answers in (first, second))
        return metrics.resampled_difference(len(records), one, other, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer with the mean training score, and by how many words both texts share."""
        start = time.perf_counter()
        scores = np.array([record.target for record in splits.train])
        mean = Baseline("mean", np.full(len(splits.test), scores.mean()), time.perf_counter() - start)
        start = time.perf_counter()
        train, test = sides_of(splits.train), sides_of(splits.test)
        known = [*train[0], *train[1]]
        near_train, near_test = (tfidf_cosines(known, *sides) for sides in (train, test))
        slope, shift = fit_line(near_train, scores)
        return [mean, Baseline("cosine", slope * near_test + shift, time.perf_counter() - start)]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer by the cosine of the base model's states (N, -1..1); only training tells the file's scale."""
        return untrained_cosines(load, tokenizer, records, max_length)


def fit_line(outputs_N: Floats, scores_N: Floats) -> tuple[float, float]:
    """Give slope and shift of the line through (output, score) with the least squared error; the slope is positive.

    Outputs that are constant, or fall where scores rise, give the line from 0..1 to the range of the scores.
    """
    if len(scores_N) == 0:
        return 1.0, 0.0
    low, span = float(scores_N.min()), float(np.ptp(scores_N))
    spread = outputs_N - outputs_N.mean()
    under = float(spread @ spread)
    slope = float(spread @ (scores_N - scores_N.mean())) / under if under > 1e-12 else 0.0
    if slope <= 0:
        return span or 1.0, low
    return slope, float(scores_N.mean() - slope * outputs_N.mean())


def _fold(model: nn.Module, slope: float, shift: float) -> None:
    """Let the last linear layer of the head give `slope * output + shift`.

    A head without a bias (GPT-2, Llama) leaves the shift to the entry `score_offset` of the configuration.
    """
    import torch
    from torch import nn

    body = {id(module) for module in model.base_model.modules()}
    layer = [one for one in model.modules() if isinstance(one, nn.Linear) and id(one) not in body][-1]
    config = config_of(model)
    config.score_offset = slope * getattr(config, "score_offset", 0.0) + (shift if layer.bias is None else 0.0)
    with torch.no_grad():
        layer.weight.mul_(slope)
        if layer.bias is not None:
            layer.bias.mul_(slope).add_(shift)


TASK = TextSimilarity()

"""One label for two texts: entailment, paraphrase, whether a question matches another.

Letters: N rows, B batch, L labels.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.data.layout import Cells, Form
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Baseline, Example, Load
from tunesmith.tasks.engine import Arrays, as_tensors
from tunesmith.tasks.overlap import tfidf_cosines
from tunesmith.tasks.pairs import (
    SIDES,
    config_of,
    cosines,
    demand_encoder,
    encode_apart,
    headless_class,
    inputs_apart,
    pair_of,
    read_cosines,
    read_pair,
    sides_of,
    swapped_conflicts,
    untrained_cosines,
)
from tunesmith.tasks.text_classification import TextClassification, label_names, majority, tfidf
from tunesmith.types import Problem, Record, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_SCALE, _OFFSET = 20.0, -10.0  # a cosine of a half is undecided; how sharp: as in `TextClassification.zero_shot`

_ALIKE = {
    *("1", "true", "yes", "same", "similar", "alike", "equal", "equivalent", "match", "duplicate", "paraphrase"),
    *("positive", "entailment", "related", "相似", "相同", "一致", "是", "同义", "匹配", "相关", "蕴含", "正确"),
}
_UNLIKE = {
    *("0", "-1", "false", "no", "different", "unlike", "unequal", "mismatch", "distinct", "negative"),
    *("contradiction", "unrelated", "neutral", "否", "不同", "错误", "无关", "矛盾"),
}
_NEGATION = re.compile(r"^(not|non|no|un|dis|不|非|无|未)[\s_\-]*")


@dataclasses.dataclass(frozen=True)
class TextPair(TextClassification):
    """Single-label classification of pairs of texts."""

    encoder: str = "cross"

    name: ClassVar[str] = "text-pair"
    noisy_fields: ClassVar[tuple[str, ...]] = tuple(SIDES)
    augmented_fields: ClassVar[tuple[str, ...]] = tuple(SIDES)
    forms: ClassVar[Sequence[Form]] = (Form(SIDES, {"label": "label"}),)

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

    def texts(self, records: Sequence[Record]) -> list[Any]:
        """Give the pairs; the tokenizer joins them, and cuts the longer text first."""
        return [pair_of(record) for record in records]

    def model_class(self, config: Any) -> str:
        """Give the class with a sequence head; for texts encoded apart, the one without a head."""
        return headless_class(config) if self.encoder == "bi" else super().model_class(config)

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Tell plain Transformers the label names.

        Raises:
            PlanProblem: A cosine cannot tell these labels apart.
        """
        if self.encoder == "cross":
            return super().model_config(labels)
        _demand_alike(labels)
        return {**label_names(labels), "cosine_scale": _SCALE, "cosine_offset": _OFFSET}

    def encoding(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> Iterator[Example]:
        """Give the ids of both texts, joined or apart, and the index of the label (None without target)."""
        if self.encoder == "cross":
            yield from super().encoding(records, tokenizer, labels=labels, max_length=max_length)
            return
        place = {label: index for index, label in enumerate(labels)}
        for record, example in zip(records, encode_apart(records, tokenizer, max_length), strict=True):
            yield dataclasses.replace(example, target=None if record.target is None else place.get(record.target))

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: joined pairs (B, T), or both sides one below the other (2B, T)."""
        import torch

        if self.encoder == "cross":
            return super().batch(examples, tokenizer)
        batch = as_tensors(inputs_apart(examples, tokenizer))
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the pairs of the batch."""
        return float(len(batch["input_ids"]) // (2 if self.encoder == "bi" else 1))

    def logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the logits (B, L); apart, the scaled cosine for the label of alike texts and 0 for the other."""
        import torch

        if self.encoder == "cross":
            return super().logits(model, batch)
        config = config_of(model)
        alike = alike_place([config.id2label[place] for place in range(2)])
        scale, offset = getattr(config, "cosine_scale", _SCALE), getattr(config, "cosine_offset", _OFFSET)
        score_B = scale * cosines(model, batch) + offset
        columns = [torch.zeros_like(score_B), score_B]
        return torch.stack(columns if alike == 1 else columns[::-1], dim=1)

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad to the longest: joined pairs (B, T), or both sides one below the other (2B, T)."""
        if self.encoder == "cross":
            return super().inputs(examples, tokenizer)
        return inputs_apart(examples, tokenizer)

    def read_logits(self, inputs: Arrays, outputs: Arrays, config: Any) -> Floats:
        """Give the logits (B, L); apart, the scaled cosine for the label of alike texts and 0 for the other."""
        if self.encoder == "cross":
            return super().read_logits(inputs, outputs, config)
        alike = alike_place([config.id2label[place] for place in range(2)])
        score_B = read_cosines(inputs, outputs) * getattr(config, "cosine_scale", _SCALE)
        score_B += getattr(config, "cosine_offset", _OFFSET)
        columns = [np.zeros_like(score_B), score_B]
        return np.stack(columns if alike == 1 else columns[::-1], axis=1)

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit one temperature; apart, fit scale and offset of the cosine instead and keep them in the configuration."""
        settings: dict[str, Any] = {"tokenizer": tokenizer, "labels": labels, "batch_tokens": batch_tokens}
        if self.encoder == "cross":
            return super().calibrate(model, examples, **settings)
        logits_N2 = self.answer(model, examples, **settings)
        alike = alike_place(labels)
        known = [row for row, example in enumerate(examples) if example.target is not None]
        is_alike = np.array([examples[row].target == alike for row in known], dtype=bool)
        slope, shift = fit_logistic(logits_N2[known, alike].astype(np.float64), is_alike)
        config = config_of(model)
        scale, offset = getattr(config, "cosine_scale", _SCALE), getattr(config, "cosine_offset", _OFFSET)
        config.cosine_scale, config.cosine_offset = slope * scale, slope * offset + shift
        return 1.0

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer by the most common label, by the words of both texts, and by how many words they share."""
        return [
            majority(splits, labels),
            tfidf(splits, labels, seed, self.text_of),
            _cosine(splits, labels, seed),
        ]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer by the cosine of the base model's states: alike from a half on. Logits (N, 2).

        None where there are not two labels, or where their names do not tell which one means alike. The half is a
        convention that no label was looked at for; sentence encoders are near it, others call nearly all texts alike.
        """
        alike = alike_place(labels)
        if alike is None:
            return None
        score_N = _SCALE * untrained_cosines(load, tokenizer, records, max_length) + _OFFSET
        columns = [np.zeros_like(score_N), score_N]
        return np.stack(columns if alike == 1 else columns[::-1], axis=1)


def alike_place(labels: Sequence[str]) -> int | None:
    """Give the place of that one of two labels which by its name means alike; None where the names do not tell."""
    if len(labels) != 2:
        return None
    names = [label.strip().casefold() for label in labels]
    votes = []
    for name, other in (names, names[::-1]):
        bare = _NEGATION.sub("", name)
        is_denied = bare != name and (bare == other or bare in _ALIKE)
        votes.append(-1 if name in _UNLIKE or is_denied else 1 if name in _ALIKE else 0)
    if votes[0] == votes[1]:
        return None
    return int(votes[1] > votes[0])


def _demand_alike(labels: Sequence[str]) -> None:
    if len(labels) != 2:
        raise PlanProblem(
            f"texts that are encoded apart are compared by one number, which cannot tell {len(labels)} labels apart",
            where="encoder",
            do="use encoder=cross, or two labels such as yes and no",
        )
    if alike_place(labels) is None:
        raise PlanProblem(
            f"it cannot be told which of the labels '{labels[0]}' and '{labels[1]}' means that two texts are alike",
            where="encoder",
            do="call them yes and no, or 1 and 0; or use encoder=cross",
        )


def fit_logistic(scores_N: Floats, is_true_N: Any) -> tuple[float, float]:
    """Find slope (0.05..20) and shift so that sigmoid(slope * score + shift) is the chance of being true.

    Targets are smoothed by the counts of both kinds, so that rows that are all told apart give no infinite slope.
    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines.
    """
    from scipy.optimize import minimize

    true, false = int(is_true_N.sum()), int((~is_true_N).sum())
    if true == 0 or false == 0:
        return 1.0, 0.0
    wanted_N = np.where(is_true_N, (true + 1) / (true + 2), 1 / (false + 2))

    def loss(guess: Any) -> tuple[float, Any]:
        slope = np.exp(guess[0])
        z_N = slope * scores_N + guess[1]
        chance_N = 1 / (1 + np.exp(-np.clip(z_N, -500, 500)))
        error_N = chance_N - wanted_N
        value = np.logaddexp(0, z_N) - wanted_N * z_N
        return float(value.mean()), np.array([(error_N * scores_N).mean() * slope, error_N.mean()])

    limits = [(np.log(0.05), np.log(20.0)), (-100.0, 100.0)]
    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=limits)
    return float(np.exp(found.x[0])), float(found.x[1])


def _cosine(splits: Splits, labels: Sequence[str], seed: int) -> Baseline:
    """Logistic regression on one number, the cosine of the TF-IDF weights of both texts."""
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    train, test = sides_of(splits.train), sides_of(splits.test)
    known = [*train[0], *train[1]]
    near_train, near_test = (tfidf_cosines(known, *sides)[:, None] for sides in (train, test))
    model = LogisticRegression(C=100.0, random_state=seed).fit(near_train, [record.target for record in splits.train])
    answers = np.full((len(splits.test), len(labels)), -30.0)
    place = {label: index for index, label in enumerate(labels)}
    answers[:, [place[label] for label in model.classes_]] = np.maximum(model.predict_log_proba(near_test), -30.0)
    return Baseline("cosine", answers, time.perf_counter() - start)


TASK = TextPair()

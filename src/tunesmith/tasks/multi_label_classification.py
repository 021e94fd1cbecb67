"""Any number of labels for each text: tags, subjects, several emotions at once.

Letters: N rows, B batch, L labels.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Fault, Form, TargetKind
from tunesmith.metrics import Floats, spans
from tunesmith.metrics.shares import divide
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.base import Made, samples
from tunesmith.tasks.text_classification import TextClassification, label_names, padded, tfidf_features, tolerance
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_RESAMPLES = 200  # of mean average precision, which has to be ranked anew for each; its limits move a little more


@dataclasses.dataclass(frozen=True)
class MultiLabelClassification(TextClassification):
    """Multi-label text classification: one yes or no for each label, from one sequence head."""

    name: ClassVar[str] = "multi-label-classification"
    target_kind: ClassVar[TargetKind] = "labels"
    forms: ClassVar[Sequence[Form]] = (Form({"text": "text"}, {"labels": "list"}),)
    main: ClassVar[str] = "micro_f1"
    selects_by: ClassVar[str] = "micro_f1"
    metrics: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1", "exact_match", "mean_average_precision")

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the labels in alphabetical order, each once; an empty list is "none of them".

        A table's cell may hold a JSON list, or labels parted by | or ;.
        """
        value = cells.raw("labels")
        if value is None or (isinstance(value, float) and value != value):
            what = f"'{cells.column('labels')}' holds nothing: that may mean no label, or that nobody looked"
            raise Fault("missing-labels", what, "write [] (an empty cell in a table) where no label fits")
        if isinstance(value, str) and not value.strip():
            return ()
        if isinstance(value, str) and not value.lstrip().startswith("["):
            found = [part.strip() for part in value.replace(";", "|").split("|")]
        else:
            found = [label.strip() for label in cells.texts("labels", least=0)]
        if any(not label for label in found):
            column = cells.column("labels")
            raise Fault("empty-label", f"one of the labels in '{column}' is empty", "remove it, or write its name")
        if len(set(found)) < len(found):
            cells.note("repeated-label", "a label stands twice in one row", "nothing: it counts once")
        return tuple(sorted(set(found)))

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the labels."""
        return tuple(target)

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the labels of all targets in alphabetical order."""
        return tuple(sorted({label for record in records for label in record.target}))

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Tell plain Transformers the label names, and that each is a question of its own."""
        return {"problem_type": "multi_label_classification", **label_names(labels)}

    def target_index(self, target: Any, place: Mapping[str, int]) -> Any:
        """Give one number for each label (L): 1 where the text has it."""
        row = [0.0] * len(place)
        for label in target:
            if label in place:
                row[place[label]] = 1.0
        return tuple(row)

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids`, `attention_mask` (B, T), and `labels` (B, L) of 0 and 1."""
        import torch

        batch = padded(examples, tokenizer)
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the binary cross-entropy, averaged over labels and summed over the batch: a scalar."""
        from torch.nn import functional

        logits_BL = self.logits(model, batch)
        total = functional.binary_cross_entropy_with_logits(logits_BL, batch["labels"], reduction="sum")
        return total / logits_BL.shape[1]

    def measure(self, answers: Floats, examples: Sequence[Example]) -> dict[str, float]:
        """Give the metrics and the mean binary cross-entropy of logits (N, L)."""
        if not np.isfinite(answers).all():
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        truth_NL = np.array([example.target for example in examples], dtype=np.float64)
        found = values(statistics(truth_NL, answers > 0).sum(0))
        loss = np.logaddexp(0.0, answers) - truth_NL * answers
        ranked = average_precision(truth_NL, answers)
        return {**{key: float(value) for key, value in found.items()}, **ranked, "loss": float(loss.mean())}

    def temperature(self, answers: Floats, examples: Sequence[Example]) -> float:
        """Fit one temperature to logits (N, L): each label is a choice between it and nothing."""
        if not len(answers):
            return 1.0
        truth = np.array([example.target for example in examples], dtype=np.int64).ravel()
        pairs = np.stack([np.zeros(answers.size), np.asarray(answers, dtype=np.float64).ravel()], axis=1)
        return metrics.fit_temperature(pairs, truth)

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score logits (N, L); a label that training never saw counts as missed."""
        names = [*labels, *sorted({label for record in records for label in record.target} - set(labels))]
        logits_NL = np.pad(np.asarray(answers, dtype=np.float64), ((0, 0), (0, len(names) - len(labels))))
        logits_NL[:, len(labels) :] = -30.0
        truth_NL = truth_of([record.target for record in records], names)
        counts = statistics(truth_NL, logits_NL > 0)
        found = metrics.summed_scores(counts, values, main=main, seed=seed)
        ranked = average_precision(truth_NL, logits_NL)
        drawn = [
            average_precision(truth_NL, logits_NL, weights)["mean_average_precision"]
            for weights in metrics.resample_weights(len(records), seed, _RESAMPLES)
        ]
        interval = metrics.limits(np.concatenate([np.atleast_1d(value) for value in drawn]))
        answered = [value for value, _, _ in self.decode(answers, labels=labels)]
        return dataclasses.replace(
            found,
            values={**found.values, **{key: float(value) for key, value in ranked.items()}},
            intervals={**found.intervals, "mean_average_precision": interval},
            per_label=spans.per_label(counts[:, :-2].sum(0), names),
            details={"samples": samples(self, records, answered)},
        )

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give the labels that are likelier than not, the chance that this very set is right, and all probabilities.

        The chance of the set takes the labels as independent of each other.
        """
        chances_NL = 1 / (1 + np.exp(-np.asarray(answers, dtype=np.float64)))

        def answered(row: int) -> Answered:
            chances = chances_NL[row]
            value = [label for label, chance in zip(labels, chances, strict=True) if chance > 0.5]
            order = np.argsort(-chances, kind="stable")
            alternatives = {labels[index]: float(chances[index]) for index in order}
            return value, float(np.maximum(chances, 1 - chances).prod()), alternatives

        return Made(len(chances_NL), answered)

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether all labels of the row were given, and no other."""
        return set(value) == set(record.target)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of label lists; by average precision they are compared as yes and no alone."""
        names = sorted({label for each in (first, second) for value in each for label in value}.union(
            *(record.target for record in records)
        ))  # fmt: skip
        truth_NL = truth_of([record.target for record in records], names)
        mine, theirs = (truth_of(each, names) > 0 for each in (first, second))
        if metric == "mean_average_precision":

            def ranked(answered_NL: Any) -> metrics.RowsToValues:
                return lambda rows: {
                    key: float(value) for key, value in average_precision(truth_NL[rows], answered_NL[rows]).items()
                }

            return metrics.resampled_difference(len(records), ranked(mine), ranked(theirs), metric=metric, seed=seed)
        counts = [statistics(truth_NL, answered_NL) for answered_NL in (mine, theirs)]
        return metrics.summed_difference(counts[0], counts[1], values, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer with the labels that most training rows have, and by TF-IDF with one regression for each label."""
        start = time.perf_counter()
        truth_NL = truth_of([record.target for record in splits.train], labels)
        shares_L = np.clip(truth_NL.mean(0), 1e-3, 1 - 1e-3)
        common = np.tile(np.log(shares_L / (1 - shares_L)), (len(splits.test), 1))
        majority = Baseline("majority", common, time.perf_counter() - start)
        return [majority, self._tfidf(splits, truth_NL, common, seed)]

    def _tfidf(self, splits: Splits, truth_NL: Floats, common: Floats, seed: int) -> Baseline:
        from sklearn.linear_model import LogisticRegression

        start = time.perf_counter()
        train, test = tfidf_features(splits, self.text_of)
        answers = common.copy()
        for label, truth_N in enumerate(truth_NL.T):
            if 0 < truth_N.sum() < len(truth_N):
                regression = LogisticRegression(C=10.0, max_iter=300, random_state=seed, tol=tolerance(len(truth_N)))
                fitted = regression.fit(train, truth_N)
                answers[:, label] = fitted.decision_function(test)
        return Baseline("tfidf", answers, time.perf_counter() - start)

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Give None: likeness to a label's name ranks the labels, but does not say how many of them a text has."""
        return None


def truth_of(targets: Sequence[Any], labels: Sequence[str]) -> Floats:
    """Give 1 where a row has a label, else 0: (N, L)."""
    place = {label: index for index, label in enumerate(labels)}
    truth_NL = np.zeros((len(targets), len(labels)))
    for row, target in enumerate(targets):
        truth_NL[row, [place[label] for label in target if label in place]] = 1.0
    return truth_NL


def statistics(truth_NL: Floats, answered_NL: Any) -> Floats:
    """Give counts (N, 3 L + 2): hits, answered and true of each label, whether the whole row is right, and 1."""
    answered = np.asarray(answered_NL, dtype=np.float64)
    is_right = (truth_NL == answered).all(1, keepdims=True)
    return np.concatenate([truth_NL * answered, answered, truth_NL, is_right, np.ones_like(is_right)], axis=1)


def values(sums: Any) -> dict[str, Floats]:
    """Give micro and macro F1 (of labels that occur) and the share of rows that are right from sums (..., 3 L + 2)."""
    found = spans.values(sums[..., :-2])
    return {
        "micro_f1": found["f1"],
        "macro_f1": found["macro_f1"],
        "exact_match": divide(sums[..., -2], sums[..., -1]),
        "micro_precision": found["precision"],
        "micro_recall": found["recall"],
    }


def average_precision(truth_NL: Floats, scores_NL: Any, weights: Any = None) -> dict[str, Any]:
    """Give `mean_average_precision`, the mean over labels of average precision as in scikit-learn."""
    from tunesmith.metrics import ranking

    found = ranking.average_precision(truth_NL, scores_NL, weights)["macro_average_precision"]
    return {"mean_average_precision": found if weights is not None else float(found)}


TASK = MultiLabelClassification()

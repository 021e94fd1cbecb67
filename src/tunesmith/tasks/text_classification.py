"""One label for each text: sentiment, topic, intent.

Letters: N rows, B batch, T tokens, L labels, H hidden.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form, TargetKind
from tunesmith.data.store import in_groups
from tunesmith.metrics import Floats
from tunesmith.tasks import Answered, Baseline, Example, Load
from tunesmith.tasks.base import BaseTask, Made, in_batches
from tunesmith.tasks.engine import Arrays, Engine, as_tensors, engine_of, padded_inputs, run_batches
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

# torch is imported where it is used: `tunesmith inspect` asks the task for its columns and should answer at once.

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TERM = rf"[{_CJK}]|[^\W{_CJK}]+"  # a word of a spaced script, or one Chinese or Japanese character
ENCODE_ROWS = 1000
"""Texts that go to the tokenizer at once; its threads share them. With 4,000 it was no faster."""

_MANY_ROWS = 20_000  # training rows from which rare terms are left out of naive answers


@dataclasses.dataclass(frozen=True)
class TextClassification(BaseTask):
    """Single-label text classification with a sequence head."""

    name: ClassVar[str] = "text-classification"
    target_kind: ClassVar[TargetKind] = "label"
    forms: ClassVar[Sequence[Form]] = (Form({"text": "text"}, {"label": "label"}),)
    main: ClassVar[str] = "accuracy"
    selects_by: ClassVar[str] = "accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1", "weighted_f1")
    pipeline: ClassVar[str] = "text-classification"
    loss_options: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights", "focal_gamma", "r_drop")
    noisy_fields: ClassVar[tuple[str, ...]] = ("text",)
    augmented_fields: ClassVar[tuple[str, ...]] = ("text",)

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the label."""
        return cells.label()

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the one label."""
        return (target,)

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the labels in alphabetical order; numbers in their own order (2 before 10)."""
        names = {record.target for record in records}
        if all(re.fullmatch(r"-?\d+", name) for name in names):
            return tuple(sorted(names, key=lambda name: (int(name), name)))  # "01" and "1" are two labels
        return tuple(sorted(names))

    def model_class(self, config: Any) -> str:
        """Give the class with a sequence head."""
        return "AutoModelForSequenceClassification"

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Tell plain Transformers the label names, and that one of them is right."""
        return {"problem_type": "single_label_classification", **label_names(labels)}

    def texts(self, records: Sequence[Record]) -> list[Any]:
        """Give what the tokenizer takes for each record: a text, or a pair of texts."""
        return [self.text_of(record.fields) for record in records]

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the token ids of each text, cut to `max_length`, and the index of its label (None without target)."""
        return list(self.encoding(records, tokenizer, labels=labels, max_length=max_length))

    def encoding(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> Iterator[Example]:
        """Give what `encode` gives one by one, holding a thousand rows at a time."""
        place = {label: index for index, label in enumerate(labels)}
        for some in in_groups(records, ENCODE_ROWS):
            for record, example in zip(some, encode_texts(self.texts(some), tokenizer, max_length), strict=True):
                target = None if record.target is None else self.target_index(record.target, place)
                yield dataclasses.replace(example, target=target, record=record)

    def target_index(self, target: Any, place: Mapping[str, int]) -> Any:
        """Give what the loss compares with: the label's index; None for a label that training never saw."""
        return place.get(target)

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids`, `attention_mask` (B, T), and `labels` (B) where targets are known."""
        import torch

        batch = padded(examples, tokenizer)
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the logits (B, L), float32."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits_BL: torch.Tensor = model(**inputs).logits.float()
        return logits_BL

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what the loss compares: logits (B, L), and the labels as `batch` gives them."""
        return self.logits(model, batch), batch["labels"]

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy summed over the batch: a scalar."""
        from torch.nn import functional

        return functional.cross_entropy(self.logits(model, batch), batch["labels"], reduction="sum")

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad to the longest what goes into the model: `input_ids` and its like (B, T)."""
        return padded_inputs(examples, tokenizer)

    def read_logits(self, inputs: Arrays, outputs: Arrays, config: Any) -> Floats:
        """Give the logits (B, L) of a batch from what went into the model and what came out."""
        return outputs["logits"]

    def answer(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labels: Sequence[str],
        batch_tokens: int,
    ) -> Any:
        """Give the logits (N, L), float32, in the order of the examples. The model should be in evaluation mode."""
        logits_NL = np.zeros((len(examples), len(labels)), dtype=np.float32)
        engine = engine_of(model)
        make = functools.partial(self.inputs, tokenizer=tokenizer)
        for rows, inputs, outputs in run_batches(engine, examples, make, batch_tokens=batch_tokens):
            logits_NL[rows] = self.read_logits(inputs, outputs, engine.config)
        return logits_NL

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give accuracy, macro and weighted F1, and the mean cross-entropy."""
        answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        return self.measure(answers, examples)

    def measure(self, answers: Floats, examples: Sequence[Example]) -> dict[str, float]:
        """Give accuracy, macro and weighted F1, and the mean cross-entropy of logits (N, L)."""
        if not np.isfinite(answers).all():
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        expected = np.array([example.target for example in examples], dtype=np.int64)
        probabilities_NL = metrics.softmax(answers)
        values = self.values(expected, probabilities_NL)
        chosen = probabilities_NL[np.arange(len(expected)), expected]
        return {
            **{name: values[name] for name in self.metrics},
            "loss": float(-np.log(np.maximum(chosen, 1e-300)).mean()),
        }

    def values(self, expected: Any, probabilities_NL: Floats) -> dict[str, float]:
        """Give every score of probabilities (N, L) against indices (N)."""
        return metrics.classification_values(expected, probabilities_NL)

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit one temperature to the logits of examples with known targets."""
        answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        return self.temperature(answers, examples)

    def temperature(self, answers: Floats, examples: Sequence[Example]) -> float:
        """Fit one temperature to logits (N, L)."""
        known = [row for row, example in enumerate(examples) if example.target is not None]
        return metrics.fit_temperature(answers[known], np.array([examples[row].target for row in known], dtype=int))

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score logits (N, L) against the records' labels; a true label outside `labels` counts as a mistake."""
        known = list(labels)
        strange = sorted({record.target for record in records} - set(known))
        place = {label: index for index, label in enumerate([*known, *strange])}
        expected = np.array([place[record.target] for record in records], dtype=np.int64)
        probabilities_NL = np.pad(metrics.softmax(answers), ((0, 0), (0, len(strange))))
        names = [*known, *strange]
        scores = metrics.classification_scores(expected, probabilities_NL, names, main=main, seed=seed)

        def shown(row: int) -> dict[str, Any]:
            return {"text": self.text_of(records[row].fields), "row": str(records[row].origin)}

        worst = metrics.worst_mistakes(expected, probabilities_NL, names, Made(len(records), shown))
        return dataclasses.replace(scores, worst=worst)

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give label, calibrated probability and all probabilities (best first) for each row of logits (N, L)."""
        chances_NL = metrics.softmax(answers)

        def answered(row: int) -> Answered:
            chances = chances_NL[row]
            order = np.argsort(-chances, kind="stable")
            alternatives = {labels[index]: float(chances[index]) for index in order}
            return labels[order[0]], float(chances[order[0]]), alternatives

        return Made(len(chances_NL), answered)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of answered labels; a label that only one of them knows is as good as any other."""
        expected = [record.target for record in records]
        place = {label: index for index, label in enumerate(sorted({*expected, *first, *second}))}
        true, one, other = (
            np.array([place[label] for label in labels], dtype=np.int64) for labels in (expected, first, second)
        )
        return metrics.paired_difference(true, one, other, len(place), metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer the test rows by the most common training label, and by TF-IDF with logistic regression."""
        return [majority(splits, labels), tfidf(splits, labels, seed, self.text_of)]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer by likeness of text and label name: cosine of mean-pooled states, (N, L), times 20.

        Label names are read as words ("card_arrival" as "card arrival"). The factor only sets how sharp the scores are;
        20 is what sentence encoders are trained with (Reimers & Gurevych 2019, their released training code).
        """
        names = [re.sub(r"[_\-./]+", " ", label).strip() or label for label in labels]
        body = load("AutoModel")
        labels_LH = mean_states(body, names, tokenizer, max_length)
        parts = in_groups(records, ENCODE_ROWS)
        states = (mean_states(body, self.texts(part), tokenizer, max_length) for part in parts)
        return np.concatenate([20.0 * texts_NH @ labels_LH.T for texts_NH in states])


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """Give the configuration entries that tell plain Transformers the label names."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def encode_texts(texts: Sequence[Any], tokenizer: Any, max_length: int) -> Iterator[Example]:
    """Give each text (or pair of texts) as token ids, cut to `max_length`."""

    def encode(some: Sequence[Any], length: int) -> Any:
        firsts = [text if isinstance(text, str) else text[0] for text in some]
        seconds = None if isinstance(some[0], str) else [text[1] for text in some]
        return tokenizer(firsts, seconds, truncation=True, max_length=length)

    for start in range(0, len(texts), ENCODE_ROWS):
        part = texts[start : start + ENCODE_ROWS]
        # One token more than allowed tells which texts are too long; only those are encoded again.
        found = encode(part, max_length + 1)
        for row, text in enumerate(part):
            was_cut = len(found["input_ids"][row]) > max_length
            kept, place = (encode([text], max_length), 0) if was_cut else (found, row)
            segments = kept["token_type_ids"][place] if "token_type_ids" in kept else ()
            yield Example(tuple(kept["input_ids"][place]), None, was_cut, tuple(segments) if any(segments) else ())


def padded(examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad to the longest: `input_ids` and `attention_mask` (B, T); `token_type_ids` where some example has segments."""
    return as_tensors(padded_inputs(examples, tokenizer))


def mean_states(body: nn.Module, texts: Sequence[Any], tokenizer: Any, max_length: int) -> Floats:
    """Give the normalised mean of the last states of each text: (N, H)."""
    return states_of(body, list(encode_texts(texts, tokenizer, max_length)), tokenizer)


def states_of(body: nn.Module, examples: Sequence[Example], tokenizer: Any, batch_tokens: int = 2048) -> Floats:
    """Give the normalised mean of the last states of each encoded text: (N, H)."""
    from torch.nn import functional

    states: list[Any] = [None] * len(examples)

    def keep(rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        mask_BT1 = batch["attention_mask"].unsqueeze(-1).float()
        found_BTH = body(**batch).last_hidden_state
        mean_BH = functional.normalize((found_BTH.float() * mask_BT1).sum(1) / mask_BT1.sum(1), dim=1)
        for row, state_H in zip(rows, mean_BH.cpu().numpy(), strict=True):
            states[row] = state_H

    in_batches(examples, keep, lambda some: padded(some, tokenizer), model=body, batch_tokens=batch_tokens)
    return np.stack(states)


def majority(splits: Splits, labels: Sequence[str]) -> Baseline:
    """Answer with the most common training label."""
    start = time.perf_counter()
    counts = Counter(record.target for record in splits.train)
    # Shares of the training rows as scores: the answer is the most common label, the confidence is its share.
    shares = np.array([max(counts[label], 0.5) / len(splits.train) for label in labels])
    answers = np.tile(np.log(shares), (len(splits.test), 1))
    return Baseline("majority", answers, time.perf_counter() - start)


def tfidf(splits: Splits, labels: Sequence[str], seed: int, text_of: Callable[[Mapping[str, Any]], str]) -> Baseline:
    """TF-IDF and logistic regression, C chosen on the validation rows."""
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    train, valid, test = tfidf_features(splits, text_of, parts=("train", "valid", "test"))
    targets = {part: [record.target for record in getattr(splits, part)] for part in ("train", "valid")}

    def fit(strength: float) -> Any:
        regression = LogisticRegression(C=strength, max_iter=300, random_state=seed, tol=tolerance(train.shape[0]))
        return regression.fit(train, targets["train"])

    fitted = [fit(strength) for strength in ((1.0, 10.0, 100.0) if valid is not None else (10.0,))]
    best = max(fitted, key=lambda model: model.score(valid, targets["valid"])) if valid is not None else fitted[0]
    known = best.predict_log_proba(test)
    answers = np.full((len(splits.test), len(labels)), -30.0)
    place = {label: index for index, label in enumerate(labels)}
    answers[:, [place[label] for label in best.classes_]] = np.maximum(known, -30.0)
    return Baseline("tfidf", answers, time.perf_counter() - start)


def tolerance(rows: int) -> float:
    """Give the largest gradient at which a regression over this many rows may stop.

    The gradient is a mean over rows, and a word that few rows have moves it little: with 1e-3, 2,000 rows of SST-2
    lost two points of accuracy, and 50,000 made-up rows stopped before the first step.
    """
    return min(1e-4, 2 / max(1, rows))


def tfidf_features(
    splits: Splits, text_of: Callable[[Mapping[str, Any]], str], parts: Sequence[str] = ("train", "test")
) -> list[Any]:
    """Give sparse TF-IDF features of each part (None for an empty one), fitted on the training rows.

    Terms and runs of two are counted, runs of three too where most of the text is Chinese or Japanese. Of many rows,
    terms that stand in one of them alone are left out: they take most of the memory and tell nothing of other rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = {part: [text_of(record.fields) for record in getattr(splits, part)] for part in {"train", *parts}}
    longest = 3 if is_mostly_cjk(texts["train"]) else 2
    # Texts of emoji alone have no words; every mark then counts as one.
    term = _TERM if any(re.search(_TERM, text) for text in texts["train"]) else r"\S"
    least = 1 if len(texts["train"]) <= _MANY_ROWS else 2
    vectorizer = TfidfVectorizer(ngram_range=(1, longest), sublinear_tf=True, token_pattern=term, min_df=least)
    try:
        vectorizer.fit(texts["train"])
    except ValueError:  # no term stands in two rows
        vectorizer.set_params(min_df=1).fit(texts["train"])
    return [vectorizer.transform(texts[part]) if texts[part] else None for part in parts]


def is_mostly_cjk(texts: Sequence[str]) -> bool:
    """Whether at least a third of the characters are Chinese or Japanese: those scripts have no spaces to split at."""
    sample = "".join(texts[:500])
    return len(re.findall(f"[{_CJK}]", sample)) * 3 >= max(1, len(sample.replace(" ", "")))


TASK = TextClassification()

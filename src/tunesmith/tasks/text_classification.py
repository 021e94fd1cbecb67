"""One label for each text: sentiment, topic, intent.

Letters: N rows, B batch, T tokens, L labels, H hidden.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith import metrics
from tunesmith.tasks import Baseline, Example
from tunesmith.tasks.batching import fill
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

# torch is imported where it is used: `tunesmith inspect` asks the task for its columns and should answer at once.

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TERM = rf"[{_CJK}]|[^\W{_CJK}]+"  # a word of a spaced script, or one Chinese or Japanese character
_ENCODE_ROWS = 1000  # texts that go to the tokenizer at once


class TextClassification:
    """Single-label text classification with a sequence head."""

    name = "text-classification"
    needs: Mapping[str, str] = {"text": "text", "label": "label"}
    main = "accuracy"
    metrics = ("accuracy", "macro_f1", "weighted_f1")
    model_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"

    def labels(self, records: Sequence[Record]) -> tuple[str, ...]:
        """Give the labels in alphabetical order; numbers in their own order (2 before 10)."""
        names = {record.target for record in records}
        if all(re.fullmatch(r"-?\d+", name) for name in names):
            return tuple(sorted(names, key=lambda name: (int(name), name)))  # "01" and "1" are two labels
        return tuple(sorted(names))

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the token ids of each text, cut to `max_length`, and the index of its label (None without target)."""
        place = {label: index for index, label in enumerate(labels)}
        examples = []
        for start in range(0, len(records), _ENCODE_ROWS):
            part = records[start : start + _ENCODE_ROWS]
            texts = [record.fields["text"] for record in part]
            # One token more than allowed tells which texts are too long; only those are encoded again.
            tokens_of = tokenizer(texts, truncation=True, max_length=max_length + 1)["input_ids"]
            for record, tokens in zip(part, tokens_of, strict=True):
                was_cut = len(tokens) > max_length
                if was_cut:
                    tokens = tokenizer(record.fields["text"], truncation=True, max_length=max_length)["input_ids"]
                target = None if record.target is None else place.get(record.target)
                examples.append(Example(tuple(tokens), target, was_cut))
        return examples

    def batch(self, examples: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids` and `attention_mask` (B, T), and `labels` (B) where targets are known."""
        import torch

        width = max(len(example.tokens) for example in examples)
        ids_BT = torch.full((len(examples), width), pad_id, dtype=torch.long)
        mask_BT = torch.zeros((len(examples), width), dtype=torch.long)
        for row, example in enumerate(examples):
            ids_BT[row, : len(example.tokens)] = torch.tensor(example.tokens)
            mask_BT[row, : len(example.tokens)] = 1
        batch = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if all(example.target is not None for example in examples):
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy summed over the batch: a scalar."""
        from torch.nn import functional

        logits_BL = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return functional.cross_entropy(logits_BL.float(), batch["labels"], reduction="sum")

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, pad_id: int, batch_tokens: int = 4096
    ) -> np.ndarray[Any, Any]:
        """Give the logits (N, L), float32, in the order of the examples. The model should be in evaluation mode."""
        import torch

        lengths = [len(example.tokens) for example in examples]
        device = next(model.parameters()).device
        logits_NL: np.ndarray[Any, Any] | None = None
        for rows in fill(range(len(examples)), lengths, batch_tokens):
            batch = self.batch([examples[row] for row in rows], pad_id)
            batch.pop("labels", None)
            with torch.inference_mode():
                logits_BL = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            found = logits_BL.float().cpu().numpy()
            if logits_NL is None:
                logits_NL = np.zeros((len(examples), found.shape[1]), dtype=np.float32)
            logits_NL[rows] = found
        return logits_NL if logits_NL is not None else np.zeros((0, 0), dtype=np.float32)

    def measure(self, answers: np.ndarray[Any, Any], examples: Sequence[Example]) -> dict[str, float]:
        """Give accuracy, macro and weighted F1, and the mean cross-entropy of logits (N, L)."""
        expected = np.array([example.target for example in examples], dtype=np.int64)
        probabilities_NL = metrics.softmax(answers)
        values = metrics.classification_values(expected, probabilities_NL)
        chosen = probabilities_NL[np.arange(len(expected)), expected]
        return {
            **{name: values[name] for name in self.metrics},
            "loss": float(-np.log(np.maximum(chosen, 1e-300)).mean()),
        }

    def calibrate(self, answers: np.ndarray[Any, Any], examples: Sequence[Example]) -> float:
        """Fit one temperature to the logits (N, L) of examples with known targets."""
        known = [row for row, example in enumerate(examples) if example.target is not None]
        return metrics.fit_temperature(answers[known], np.array([examples[row].target for row in known], dtype=int))

    def score(
        self, records: Sequence[Record], answers: np.ndarray[Any, Any], *, labels: Sequence[str], main: str, seed: int
    ) -> Scores:
        """Score logits (N, L) against the records' labels; a true label outside `labels` counts as a mistake."""
        known = list(labels)
        strange = sorted({record.target for record in records} - set(known))
        place = {label: index for index, label in enumerate([*known, *strange])}
        expected = np.array([place[record.target] for record in records], dtype=np.int64)
        probabilities_NL = np.pad(metrics.softmax(answers), ((0, 0), (0, len(strange))))
        names = [*known, *strange]
        scores = metrics.classification_scores(expected, probabilities_NL, names, main=main, seed=seed)
        shown = [{"text": record.fields["text"], "row": str(record.origin)} for record in records]
        worst = metrics.worst_mistakes(expected, probabilities_NL, names, shown)
        return dataclasses.replace(scores, worst=worst)

    def decode(
        self, answers: np.ndarray[Any, Any], *, labels: Sequence[str]
    ) -> Sequence[tuple[Any, float | None, Mapping[str, float]]]:
        """Give label, calibrated probability and all probabilities (best first) for each row of logits (N, L)."""
        decoded = []
        for chances in metrics.softmax(answers):
            order = np.argsort(-chances, kind="stable")
            alternatives = {labels[index]: float(chances[index]) for index in order}
            decoded.append((labels[order[0]], float(chances[order[0]]), alternatives))
        return decoded

    def abstention(
        self, answers: np.ndarray[Any, Any], records: Sequence[Record], *, labels: Sequence[str], precision: float
    ) -> float | None:
        """Find the threshold on the largest probability of calibrated logits (N, L)."""
        found = metrics.abstention(*_confidence(answers, records, labels), precision)
        return None if found is None else found["threshold"]

    def with_abstention(
        self,
        scores: Scores,
        answers: np.ndarray[Any, Any],
        records: Sequence[Record],
        *,
        labels: Sequence[str],
        threshold: float,
        precision: float,
    ) -> Scores:
        """Add `details["abstain"]`: threshold, coverage, the precision reached here and the one asked for."""
        reached = metrics.at_threshold(*_confidence(answers, records, labels), threshold)
        details = {**scores.details, "abstain": {"precision": precision, "threshold": threshold, **reached}}
        return dataclasses.replace(scores, details=details)

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
        return [_majority(splits, labels), _tfidf(splits, labels, seed)]

    def zero_shot(
        self, body: nn.Module, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> np.ndarray[Any, Any] | None:
        """Answer by likeness of text and label name: cosine of mean-pooled states, (N, L), times 20.

        Label names are read as words ("card_arrival" as "card arrival"). The factor only sets how sharp the scores are;
        20 is what sentence encoders are trained with (Reimers & Gurevych 2019, their released training code).
        """
        names = [re.sub(r"[_\-./]+", " ", label).strip() or label for label in labels]
        described = [Record(name, {"text": name}, None, records[0].origin) for name in names]
        states = []
        for group in (described, records):
            examples = self.encode(group, tokenizer, labels=labels, max_length=max_length)
            states.append(_mean_states(self, body, examples, tokenizer.pad_token_id))
        labels_LH, texts_NH = states
        answers: np.ndarray[Any, Any] = 20.0 * texts_NH @ labels_LH.T
        return answers


def _mean_states(
    task: TextClassification, body: nn.Module, examples: Sequence[Example], pad_id: int
) -> np.ndarray[Any, Any]:
    """Give the normalised mean of the last states of each example: (N, H)."""
    import torch
    from torch.nn import functional

    states: list[Any] = [None] * len(examples)
    for rows in fill(range(len(examples)), [len(example.tokens) for example in examples], 4096):
        batch = task.batch([examples[row] for row in rows], pad_id)
        mask_BT1 = batch["attention_mask"].unsqueeze(-1).float()
        with torch.inference_mode():
            found_BTH = body(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mean_BH = functional.normalize((found_BTH.float() * mask_BT1).sum(1) / mask_BT1.sum(1), dim=1)
        for row, state_H in zip(rows, mean_BH.numpy(), strict=True):
            states[row] = state_H
    return np.stack(states)


def _confidence(
    answers: np.ndarray[Any, Any], records: Sequence[Record], labels: Sequence[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Give the largest probability of each row and whether that label is the record's."""
    chances_NL = metrics.softmax(answers)
    answered = [labels[index] for index in chances_NL.argmax(1)]
    is_right = [answer == record.target for answer, record in zip(answered, records, strict=True)]
    return chances_NL.max(1), np.array(is_right, dtype=bool)


def _majority(splits: Splits, labels: Sequence[str]) -> Baseline:
    start = time.perf_counter()
    counts = Counter(record.target for record in splits.train)
    # Shares of the training rows as scores: the answer is the most common label, the confidence is its share.
    shares = np.array([max(counts[label], 0.5) / len(splits.train) for label in labels])
    answers = np.tile(np.log(shares), (len(splits.test), 1))
    return Baseline("majority", answers, time.perf_counter() - start)


def _tfidf(splits: Splits, labels: Sequence[str], seed: int) -> Baseline:
    """Terms and runs of two (three where most of the text is Chinese or Japanese); C chosen on the validation rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    texts = {part: [record.fields["text"] for record in getattr(splits, part)] for part in ("train", "valid", "test")}
    targets = {part: [record.target for record in getattr(splits, part)] for part in ("train", "valid")}
    longest = 3 if _is_mostly_cjk(texts["train"]) else 2
    # Texts of emoji alone have no words; every mark then counts as one.
    term = _TERM if any(re.search(_TERM, text) for text in texts["train"]) else r"\S"
    vectorizer = TfidfVectorizer(ngram_range=(1, longest), sublinear_tf=True, token_pattern=term)
    train = vectorizer.fit_transform(texts["train"])
    valid = vectorizer.transform(texts["valid"]) if texts["valid"] else None

    def fit(strength: float) -> Any:
        return LogisticRegression(C=strength, max_iter=300, random_state=seed, tol=1e-3).fit(train, targets["train"])

    fitted = [fit(strength) for strength in ((1.0, 10.0, 100.0) if valid is not None else (10.0,))]
    best = max(fitted, key=lambda model: model.score(valid, targets["valid"])) if valid is not None else fitted[0]
    known = best.predict_log_proba(vectorizer.transform(texts["test"]))
    answers = np.full((len(texts["test"]), len(labels)), -30.0)
    place = {label: index for index, label in enumerate(labels)}
    answers[:, [place[label] for label in best.classes_]] = np.maximum(known, -30.0)
    return Baseline("tfidf", answers, time.perf_counter() - start)


def _is_mostly_cjk(texts: Sequence[str]) -> bool:
    """Whether at least a third of the characters are Chinese or Japanese: those scripts have no spaces to split at."""
    sample = "".join(texts[:500])
    return len(re.findall(f"[{_CJK}]", sample)) * 3 >= max(1, len(sample.replace(" ", "")))


TASK = TextClassification()

"""Which relation two entities of a text have: one label for each text with a head and a tail.

Letters: N rows, L labels.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.tasks import Baseline, Example
from tunesmith.tasks.marked_pair import ROLES, cut_around, mark, read_pair
from tunesmith.tasks.relation_scores import counting, pair_samples, relation_difference, relation_scores
from tunesmith.tasks.text_classification import TextClassification, tfidf
from tunesmith.tasks.token_windows import fast_tokens, special_ends
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True)
class RelationExtraction(TextClassification):
    """Relation classification by typed entity markers in the text."""

    name: ClassVar[str] = "relation-extraction"
    forms: ClassVar[Sequence[Form]] = (
        Form(
            {"text": "text", "head": "any", "tail": "any"},
            {"relation": "label"},
            {f"{role}_{what}": "any" for role in ROLES for what in ("span", "type")},
        ),
        Form({"text": "text"}, {"relation": "relation"}, {f"{role}_type": "any" for role in ROLES}),
    )
    main: ClassVar[str] = "macro_f1"
    selects_by: ClassVar[str] = "macro_f1"
    noisy_fields: ClassVar[tuple[str, ...]] = ()  # the entities are places in the text
    holds_places: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("macro_f1", "micro_f1", "accuracy")

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the text, and head and tail as Spans whose labels are their types."""
        return read_pair(cells)

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the text: its pairs of entities stay in one part of a split."""
        return {"text": fields["text"]}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the relation."""
        return cells.label("relation")

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the text with its markers: the same text with other entities is another question."""
        return mark(fields).text

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the token ids of each marked text; one that is too long keeps both entities and what is near them."""
        place = {label: index for index, label in enumerate(labels)}
        before, behind = special_ends(tokenizer)
        room = max(1, max_length - len(before) - len(behind))
        texts = [mark(record.fields) for record in records]
        found = []
        for record, marked, (ids, places) in zip(
            records, texts, fast_tokens([each.text for each in texts], tokenizer), strict=True
        ):
            was_cut = len(ids) > room
            kept = [ids[token] for token in cut_around(places, marked, room)] if was_cut else ids
            target = None if record.target is None else self.target_index(record.target, place)
            found.append(Example((*before, *kept, *behind), target, was_cut, record=record))
        return found

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give macro and micro F1 over the relations that count, accuracy, and the mean cross-entropy."""
        answers = self.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        if not np.isfinite(answers).all():
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        targets = [example.target for example in examples]
        chosen = metrics.softmax(answers)[np.arange(len(targets)), targets]
        how = counting(labels)
        answered = [labels[index] for index in answers.argmax(1)]
        values = how.values(how.statistics([labels[index] for index in targets], answered).sum(0))
        found = {name: float(values[name]) for name in self.metrics}
        return {**found, "loss": float(-np.log(np.maximum(chosen, 1e-300)).mean())}

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score logits (N, L). `left_out` in the details names the labels that are no relation."""
        whole = super().score(records, answers, labels=labels, main="accuracy", seed=seed)
        answered = [value for value, _, _ in self.decode(answers, labels=labels)]
        expected = [record.target for record in records]
        scores, how = relation_scores(expected, answered, labels, main=main, seed=seed)
        details = {
            **whole.details,
            "left_out": list(how.left_out),
            "scorer": "SemEval-2010 task 8" if how.is_directed else "relations",
            "samples": pair_samples(records, answered),
        }
        values = {**scores.values, "ece": whole.values["ece"]}
        return dataclasses.replace(scores, values=values, per_label=whole.per_label, details=details, worst=whole.worst)

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of answered relations."""
        return relation_difference([record.target for record in records], first, second, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer by the types of the two entities alone, and by TF-IDF of the words from one to the other."""
        return [majority_pair(splits, labels), tfidf(splits, labels, seed, between)]


def between(fields: Mapping[str, Any]) -> str:
    """Give which entity comes first, as a word, and the words from the first entity to the second, both included."""
    head, tail, text = fields["head"], fields["tail"], str(fields["text"])
    order = "headfirst" if head.start <= tail.start else "tailfirst"
    return f"{order} {text[min(head.start, tail.start) : max(head.end, tail.end)]}"


def majority_pair(splits: Splits, labels: Sequence[str]) -> Baseline:
    """Answer with the most common relation of entities of these two types; of all where training never saw the pair."""
    start = time.perf_counter()
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    every: Counter[str] = Counter()
    for record in splits.train:
        counts[_types(record)][record.target] += 1
        every[record.target] += 1
    shares = {pair: _shares(found, labels) for pair, found in counts.items()}
    fallback = _shares(every, labels)
    answers = np.array([shares.get(_types(record), fallback) for record in splits.test])
    return Baseline("majority-pair", np.log(answers), time.perf_counter() - start)


def _types(record: Record) -> tuple[str, str]:
    return record.fields["head"].label, record.fields["tail"].label


def _shares(counts: Counter[str], labels: Sequence[str]) -> list[float]:
    return [max(counts[label], 0.5) / counts.total() for label in labels]


TASK = RelationExtraction()

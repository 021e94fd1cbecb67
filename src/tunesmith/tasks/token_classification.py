"""Entities in a text, each with its place and label: names, places, slots of a command.

A row holds a text and its entities by characters, or tokens with a tag each. Either way the target is Spans over one
text, the model labels its own tokens in BIO, and the answer is entities with exact characters.

Letters: N records, B batch, T tokens, U units (see `token_windows`), L tags (1 + 2 * labels).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form, TargetKind
from tunesmith.tasks import Answered, Baseline, Example
from tunesmith.tasks import token_windows as cutting
from tunesmith.tasks.base import BaseTask, pad, windows
from tunesmith.tasks.engine import Arrays, Engine, padded_inputs, run_batches
from tunesmith.tasks.entities import join_tokens, read_objects, read_tags
from tunesmith.tasks.entity_dictionary import EntityDictionary
from tunesmith.tasks.entity_scores import entity_difference, entity_values, score_entities, span_set
from tunesmith.tasks.tag_paths import Logs, Path, best_paths, read_path, tag_names
from tunesmith.tasks.text_classification import label_names, padded
from tunesmith.tasks.token_windows import IGNORED, Unit
from tunesmith.types import Difference, Entity, Record, Scores, Span, Splits

if TYPE_CHECKING:
    import torch
    from torch import nn

_MOST_TOKENS = 50_000  # that a temperature is fitted to


@dataclasses.dataclass(frozen=True)
class Window(Example):
    """A text, or a window of a long one; `target` holds the label of each token."""

    units: tuple[Unit, ...] = ()  # that this window answers, their tokens counted from its own first one
    straddled: int = 0  # entities of the record with an edge inside of a token; only in its first window
    lost: int = 0  # entities of the record without any token; only in its first window


@dataclasses.dataclass(frozen=True)
class Found:
    """The raw answer to one record."""

    entities: tuple[Entity, ...]
    confidence: float  # 0..1
    straddled: int = 0  # true entities that the model's tokens cannot tell exactly, see `Window`
    lost: int = 0
    unsure: float = dataclasses.field(default=0.0, compare=False)  # 0..1: mean over tokens, 1 less their tag's chance


@dataclasses.dataclass(frozen=True)
class TokenClassification(BaseTask):
    """Named entities, slots, chunks: labelled stretches of a text that do not overlap."""

    stride: int = 128  # tokens that two windows of a long text share

    name: ClassVar[str] = "token-classification"
    target_kind: ClassVar[TargetKind] = "labels"
    forms: ClassVar[Sequence[Form]] = (
        Form({"text": "text"}, {"entities": "any"}),
        Form({"tokens": "any"}, {"tags": "any"}),
        Form({"text": "text"}, {"slots": "slots"}),
    )
    main: ClassVar[str] = "f1"
    selects_by: ClassVar[str] = "f1"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "macro_f1")
    pipeline: ClassVar[str] = "token-classification"
    loss_options: ClassVar[tuple[str, ...]] = ("label_smoothing", "class_weights", "focal_gamma", "r_drop")
    augmented_fields: ClassVar[tuple[str, ...]] = ("text",)
    holds_places: ClassVar[bool] = True

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the text, and where the row's own tokens stand in it if it has any."""
        if not cells.has("tokens") and (cells.raw("tokens") is None or cells.raw("text") is not None):
            return {"text": cells.text("text")}
        text, places = join_tokens(cells.tokens("tokens"))
        return {"text": text, "places": places}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> tuple[Span, ...]:
        """Give the entities in the order of the text."""
        if "places" in fields:
            return read_tags(cells, fields["places"])
        role = "slots" if cells.raw("entities") is None and cells.raw("slots") is not None else "entities"
        return read_objects(cells, role, str(fields["text"]))

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the text."""
        return str(fields["text"])

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give the text, however it was cut into tokens."""
        return {"text": fields["text"]}

    def labels_of(self, target: Any) -> tuple[str, ...]:
        """Give the labels of the entities, each once."""
        return tuple(sorted({span.label for span in target}))

    def model_class(self, config: Any) -> str:
        """Give the class with a head on every token."""
        return "AutoModelForTokenClassification"

    def model_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Tell plain Transformers the tags."""
        return label_names(tag_names(labels))

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each text as one window, or several that overlap; with the tag of every token where they are known."""
        before, behind = cutting.special_ends(tokenizer)
        room = max(1, max_length - len(before) - len(behind))
        index = {label: number for number, label in enumerate(labels)}
        found: list[Example] = []
        texts = [str(record.fields["text"]) for record in records]
        for record, (ids, places) in zip(records, cutting.fast_tokens(texts, tokenizer), strict=True):
            found += self._windows(record, ids, places, index=index, ends=(before, behind), room=room)
        return found

    def _windows(
        self,
        record: Record,
        ids: Sequence[int],
        places: Sequence[tuple[int, int]],
        *,
        index: dict[str, int],
        ends: tuple[list[int], list[int]],
        room: int,
    ) -> list[Window]:
        before, behind = ends
        cuts = cutting.cut_windows(len(ids), room, self.stride)
        units = cutting.find_units(str(record.fields["text"]), places, record.fields.get("places", ()))
        labelled = None if record.target is None else cutting.label_tokens(places, record.target, index)
        begins, closes = {unit.start for unit in units}, {unit.end for unit in units}
        inexact = [span for span in record.target or () if span.start not in begins or span.end not in closes]
        rows, is_torn = ([], [False] * len(cuts)) if labelled is None else cutting.mask_cut(labelled, cuts)
        made = []
        for number, ((first, last), (low, high)) in enumerate(cuts):
            shift = len(before) - first
            mine = (Unit(unit.token + shift, unit.start, unit.end) for unit in units if low <= unit.token < high)
            target = [[IGNORED] * len(before), rows[number], [IGNORED] * len(behind)] if rows else None
            made.append(
                Window(
                    tokens=(*before, *ids[first:last], *behind),
                    target=None if target is None else tuple(label for part in target for label in part),
                    was_cut=is_torn[number],
                    record=record,
                    units=tuple(mine),
                    straddled=max(labelled.straddled, len(inexact) - labelled.lost) if labelled and not number else 0,
                    lost=labelled.lost if labelled and not number else 0,
                )
            )
        return made

    def remarks(self, examples: Sequence[Example]) -> list[str]:
        """Say which entities of encoded rows the model cannot learn or tell exactly, in one sentence each."""
        ours = [example for example in examples if isinstance(example, Window)]
        counts = {
            "entities begin or end inside of a word or token, so that their exact edges cannot be told": "straddled",
            "entities have no token of their own and cannot be learnt": "lost",
            "windows cut an entity that is longer than what two windows share (--set stride=...)": "was_cut",
        }
        found = {what: sum(getattr(example, name) for example in ours) for what, name in counts.items()}
        return [f"{count:,} {what}" for what, count in found.items() if count]

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids`, `attention_mask`, and `labels` (B, T) where targets are known."""
        batch = padded(examples, tokenizer)
        if all(example.target is not None for example in examples):
            batch["labels"] = pad([example.target for example in examples], IGNORED)
        return batch

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the tokens that have a label."""
        return float((batch["labels"] != IGNORED).sum())

    def logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the logits (B, T, L), float32."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits_BTL: torch.Tensor = model(**inputs).logits.float()
        return logits_BTL

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give what the loss compares, of the N tokens that have a label: logits (N, L), and labels (N)."""
        is_labelled_BT = batch["labels"] != IGNORED
        return self.logits(model, batch)[is_labelled_BT], batch["labels"][is_labelled_BT]

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the cross-entropy summed over the tokens that have a label: a scalar."""
        from torch.nn import functional

        logits_BTL, labels_BT = self.logits(model, batch), batch["labels"]
        return functional.cross_entropy(
            logits_BTL.flatten(0, 1), labels_BT.flatten(), reduction="sum", ignore_index=IGNORED
        )

    def inputs(self, examples: Sequence[Example], tokenizer: Any) -> Arrays:
        """Pad to the longest what goes into the model: `input_ids` and its like (B, T)."""
        return padded_inputs(examples, tokenizer)

    def _run(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        keep: Callable[[int, Logs], None],
        *,
        tokenizer: Any,
        batch_tokens: int,
    ) -> None:
        """Call `keep(place, logs_TL)` with the log-probabilities of every window's tokens."""

        make = functools.partial(self.inputs, tokenizer=tokenizer)
        for rows, _, outputs in run_batches(model, examples, make, batch_tokens=batch_tokens):
            for row, logits_TL in zip(rows, outputs["logits"], strict=True):
                keep(row, metrics.log_softmax(logits_TL[: len(examples[row].tokens)]))

    def answer(
        self,
        model: nn.Module | Engine,
        examples: Sequence[Example],
        *,
        tokenizer: Any,
        labels: Sequence[str],
        batch_tokens: int,
    ) -> list[Found]:
        """Give the entities of each record, from the likeliest valid sequence of tags."""
        logs: list[Logs] = [np.zeros((0, 1), dtype=np.float32)] * len(examples)

        def keep(place: int, logs_TL: Logs) -> None:
            logs[place] = logs_TL[_unit_tokens(examples[place])]

        self._run(model, examples, keep, tokenizer=tokenizer, batch_tokens=batch_tokens)
        return _read_answers(examples, logs, labels)

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give F1, precision and recall over all entities, macro F1 over labels, and the mean loss over tokens."""
        logs: list[Logs] = [np.zeros((0, 1), dtype=np.float32)] * len(examples)
        losses = np.zeros((len(examples), 2))  # summed loss, and tokens that it is the sum of

        def keep(place: int, logs_TL: Logs) -> None:
            logs[place] = logs_TL[_unit_tokens(examples[place])]
            chosen = _chosen(logs_TL, examples[place].target)
            losses[place] = -chosen.sum(dtype=np.float64), len(chosen)

        self._run(model, examples, keep, tokenizer=tokenizer, batch_tokens=batch_tokens)
        summed, tokens = losses.sum(0)
        if not np.isfinite(summed):
            return dict.fromkeys((*self.metrics, "loss"), float("nan"))
        records = [examples[group[0]].record for group in windows(examples)]
        answered = [found.entities for found in _read_answers(examples, logs, labels)]
        values = entity_values([record for record in records if record is not None], answered)
        return {**{name: values[name] for name in self.metrics}, "loss": float(summed / max(tokens, 1))}

    def calibrate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> float:
        """Fit one temperature to the logits of single tokens (50,000 at most, from evenly spaced windows)."""
        known = [example for example in examples if example.target is not None]
        tokens = sum(example.length for example in known)
        known = known[:: max(1, -(-tokens // _MOST_TOKENS))]
        logs: list[Logs] = []
        labels_N: list[Path] = []

        def keep(place: int, logs_TL: Logs) -> None:
            target = np.array(known[place].target)
            logs.append(logs_TL[target != IGNORED])
            labels_N.append(target[target != IGNORED])

        self._run(model, known, keep, tokenizer=tokenizer, batch_tokens=batch_tokens)
        if not logs:
            return 1.0
        return metrics.fit_temperature(np.concatenate(logs), np.concatenate(labels_N))

    def decode(self, answers: Any, *, labels: Sequence[str]) -> Sequence[Answered]:
        """Give the entities and how sure the least sure part of the text is."""
        return [(found.entities, found.confidence, {}) for found in answers]

    def uncertainty(self, answers: Any) -> list[float]:
        """Give how unsure each answer is: the mean over its tokens, so that long texts are not unsure by length."""
        return [found.unsure for found in answers]

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether exactly the true entities were found."""
        return set(span_set(record.target)) == set(span_set(value))

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score entities as seqeval does; see `entity_scores`. `edges` counts what tokens cannot tell exactly."""
        answered = [found.entities for found in answers]
        scores = score_entities(records, answered, labels=labels, main=main, seed=seed)
        edges = {name: sum(getattr(found, name) for found in answers) for name in ("straddled", "lost")}
        return dataclasses.replace(scores, details={**scores.details, "edges": edges})

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare two lists of found entities."""
        return entity_difference(records, first, second, metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer the test rows by the dictionary of the training rows' entities."""
        start = time.perf_counter()
        dictionary = EntityDictionary(splits.train)
        answers = [Found(dictionary.find(record.fields), 1.0) for record in splits.test]
        return [Baseline("dictionary", answers, time.perf_counter() - start)]


def _unit_tokens(example: Example) -> list[int]:
    return [unit.token for unit in example.units] if isinstance(example, Window) else []


def _chosen(logs_TL: Logs, target: Sequence[int]) -> Logs:
    """Give the log-probability of the true tag of every token that has one."""
    labels_T = np.array(target, dtype=np.int64)
    known = labels_T != IGNORED
    chosen: Logs = logs_TL[known, labels_T[known]]
    return chosen


def _read_answers(examples: Sequence[Example], logs: Sequence[Logs], labels: Sequence[str]) -> list[Found]:
    """Put the windows of each record together and read its entities."""
    groups = list(windows(examples))
    each = [np.concatenate([logs[place] for place in group]) for group in groups]
    found = []
    for group, logs_UL, path in zip(groups, each, best_paths(each), strict=True):
        ours = [example for place in group if isinstance(example := examples[place], Window)]
        units = [unit for window in ours for unit in window.units]
        text = str(ours[0].record.fields["text"]) if ours[0].record else ""
        chosen_U = logs_UL[np.arange(len(path)), path].astype(np.float64)
        entities = []
        for start, end, number in read_path(path):
            first, last = units[start].start, units[end - 1].end
            score = float(np.exp(chosen_U[start:end].mean()))
            entities.append(Entity(text[first:last], labels[number], first, last, score))
        confidence = float(np.exp(chosen_U.min())) if len(chosen_U) else 1.0
        unsure = float(1.0 - np.exp(chosen_U).mean()) if len(chosen_U) else 0.0
        found.append(Found(tuple(entities), confidence, ours[0].straddled, ours[0].lost, unsure))
    return found


TASK = TokenClassification()

"""Language modelling: write on as the training texts do, on demand with a given topic, author or style.

A file holds whole documents, or prompts with their completions. Documents are learnt whole, long ones in stretches;
of a completion every token is learnt and of its prompt none. What is measured is how probable the test texts are, in
bits for each character, which can be compared between models with different tokenizers and with counts of characters.

Letters: N records, T tokens.

Source: Keskar et al. 2019, CTRL (control codes stand before the text as plain tokens).
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith import metrics
from tunesmith.data.layout import Cells, Form
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats, texts
from tunesmith.tasks import Baseline, Example
from tunesmith.tasks.character_ngrams import CharacterNgrams
from tunesmith.tasks.control import control_accuracy
from tunesmith.tasks.generation import Passage
from tunesmith.tasks.stretches import IGNORED, Stream, Stretch, StretchGeneration, cut, spread
from tunesmith.tasks.wording import Wording
from tunesmith.types import Difference, Record, Scores, Splits

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.tasks.writing import Written

CONTROLS = ("control", "topic", "sentiment", "style", "author", "genre", "emotion", "language", "keywords")
"""Roles of control codes: read where a column is called so, or where the user says so (--columns topic=section)."""

_LONGEST_CONTROL = 100  # characters
_LONGEST_SAMPLE = 128  # tokens written where only whole documents were learnt, unless the recipe says otherwise
_SAMPLES = 10
_JUDGED_SAMPLES = 60  # with control codes: the interval of a share is then about 12 points to each side
_SHOWN = 500  # characters of a real text beside a sample
_WORDLIKE = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")  # no space stands between Chinese characters


@dataclass(frozen=True)
class TextGeneration(StretchGeneration):
    """Learn to write as the texts of a file are written."""

    name: ClassVar[str] = "text-generation"
    forms: ClassVar[Sequence[Form]] = (
        Form({"prompt": "text"}, {"completion": "text"}, dict.fromkeys(CONTROLS, "text")),
        # A text is what is learnt; where it is not to be learnt but given to `predict`, it is what is written on.
        Form({"text": "text"}, {"text": "text"}, dict.fromkeys(CONTROLS, "text")),
    )
    main: ClassVar[str] = "bits_per_character"
    selects_by: ClassVar[str] = "bits_per_character"
    metrics: ClassVar[tuple[str, ...]] = ("bits_per_character",)
    pipeline: ClassVar[str] = "text-generation"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the text, or the prompt, and the control codes that the row has."""
        role = "text" if cells.has("text") or not cells.has("prompt") else "prompt"
        fields = {role: cells.text(role)}
        for control in CONTROLS:
            value = " ".join(cells.text(control, may_be_empty=True).split()) if cells.raw(control) is not None else None
            if value and len(value) <= _LONGEST_CONTROL:
                fields[control] = value
            elif value:
                what = f"the {control} (column '{cells.column(control)}') has {len(value)} characters"
                do = f"shorten it: at most {_LONGEST_CONTROL} steer; the row is used without this control code"
                cells.note("long-control", what, do)
            elif value is not None:
                what = f"the row has no {control} (column '{cells.column(control)}')"
                cells.note("missing-control", what, "fill it in; the row is used without this control code")
        return fields

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give what is learnt: the completion, or the text itself."""
        return cells.text("text" if "text" in fields else "completion")

    def group_of(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a document without its control codes: under another code it would be the same text again.

        Prompts keep theirs: many rows may share one prompt, and what they learn, the completion, is no field.
        """
        return {"text": fields["text"]} if "text" in fields else fields

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the control codes and what stands before the written text."""
        given = [(name, fields[name]) for name in CONTROLS if name in fields]
        codes = "".join(f"<|{value}|>" if name == "control" else f"<|{name}: {value}|>" for name, value in given)
        return f"{codes}\n" * bool(codes) + str(fields.get("prompt", fields.get("text", "")))

    def model_class(self, config: Any) -> str:
        """Give the class of causal models.

        Raises:
            PlanProblem: This base model writes from what an encoder read, or does not write at all.
        """
        found = super().model_class(config)
        if found != "AutoModelForCausalLM":
            raise PlanProblem(
                f"this base model ({config.model_type}) needs something to read; it cannot write on from a text",
                where="model",
                do="give a causal model (--model gpt2, or a folder), or make one of your own texts: "
                "tunesmith pretrain CORPUS --objective clm, then --model FOLDER",
            )
        return found

    def resolved(self, examples: Sequence[Example]) -> TextGeneration:
        """Give the task with `max_new_tokens` set: what 99.5% of the texts need, at most 128 for whole documents."""
        stretches = [example for example in examples if isinstance(example, Stretch) and example.record is not None]
        lengths = [sum(label != IGNORED for label in one.labels) for one in stretches]
        if self.max_new_tokens != "auto" or not lengths:
            return self
        most = int(np.percentile(lengths, 99.5, method="higher"))
        is_whole = any("text" in one.record.fields for one in stretches if one.record is not None)
        return self._sized(max(8, min(most, _LONGEST_SAMPLE) if is_whole else math.ceil(1.25 * most)), examples)

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each text in stretches of at most `max_length` tokens; records without a target are what is written on.

        A prompt that is too long loses its beginning: what is written on leaves room for `max_new_tokens`, and what is
        learnt has half of a stretch for its prompt.
        """
        wording = Wording(tokenizer)
        start = wording.source.lead or (wording.start,)
        before = [self.source(_before(record), tokenizer) for record in records]
        after = ["" if record.target is None else _joint(record) + record.target for record in records]
        found: list[Example] = []
        for record, prompt, text in zip(records, wording.ids(before), wording.ids(after), strict=True):
            room = max(1, max_length - len(start) - self._reserve(max_length, wording))
            tokens = (*start, *prompt[max(0, len(prompt) - room) :])
            if record.target is None:
                was_cut = len(prompt) > room
                found.append(
                    Passage(tokens, None, was_cut, record=record, prompt=tokens, is_causal=True, limit=max_length)
                )
                continue
            ids = (*text, wording.end)
            half = max(1, max_length // 2 - len(start))
            stream = Stream((*start, *prompt[max(0, len(prompt) - half) :]), ids, (True,) * len(ids))
            stretches = cut(stream, tokens, record, max_length=max_length, stride=self.stride)
            found += [dataclasses.replace(one, was_cut=len(prompt) > half) for one in stretches]
        return found

    def evaluate(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> dict[str, float]:
        """Give loss and perplexity of a token, and bits for each character."""
        nats, tokens = self.likelihoods(model, examples, tokenizer, batch_tokens).sum(0)
        characters = sum(len(one.record.target) for one in self.firsts(examples) if one.record is not None)
        found = texts.perplexity_values(np.array([nats, max(tokens, 1), max(characters, 1)]))
        return {"loss": float(nats / max(tokens, 1)), **{name: float(value) for name, value in found.items()}}

    def answer(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Any:
        """Give how probable each known text is (nats, tokens, characters, and a sample for some); else write on."""
        firsts = self.firsts(examples)
        if not any(one.record is not None and one.record.target is not None for one in firsts):
            return super().answer(model, firsts, tokenizer=tokenizer, labels=labels, batch_tokens=batch_tokens)
        sums_N2 = self.likelihoods(model, examples, tokenizer, batch_tokens)
        records = [one.record for one in firsts if one.record is not None]
        values: list[dict[str, Any]] = [
            {"nats": float(nats), "tokens": int(tokens), "characters": len(record.target)}
            for (nats, tokens), record in zip(sums_N2, records, strict=True)
        ]
        unknown = _unknown(examples, tokenizer)
        for value, one in zip(values, firsts, strict=True):
            if count := unknown.get(id(one.record)):
                value["unknown"] = count
        chosen = spread(len(firsts), _JUDGED_SAMPLES if any(map(_controls, records)) else _SAMPLES)
        samples = self.samples(model, [firsts[row] for row in chosen], tokenizer, batch_tokens)
        for row, sample in zip(chosen, samples, strict=True):
            values[row]["sample"] = sample.text
        return [(value, None, {}) for value in values]

    def samples(
        self, model: nn.Module, examples: Sequence[Passage], tokenizer: Any, batch_tokens: int
    ) -> list[Written]:
        """Write to each example. What has no prompt is drawn by chance: the likeliest text is always the same."""
        is_bare = all(one.record is not None and "prompt" not in one.record.fields for one in examples)
        task = dataclasses.replace(self, do_sample=True, num_beams=1) if is_bare else self
        found: dict[int, Written] = {}
        turns: dict[tuple[int, ...], int] = defaultdict(int)
        rounds: dict[int, list[int]] = defaultdict(list)  # which of the samples of one source -> rows
        for row, example in enumerate(examples):
            rounds[turns[example.tokens]].append(row)
            turns[example.tokens] += task.do_sample
        for draw, rows in rounds.items():
            some = [examples[row] for row in rows]
            written = task.write(model, some, tokenizer=tokenizer, batch_tokens=batch_tokens, draw=draw)
            found |= dict(zip(rows, written, strict=True))
        return [found[row] for row in range(len(examples))]

    def is_right(self, record: Record, value: Any) -> bool:
        """Whether the text is the one that was asked for; a measured text is neither right nor wrong."""
        return isinstance(value, str) and value.strip() == str(record.target).strip()

    def score(self, records: Sequence[Record], answers: Any, *, labels: Sequence[str], main: str, seed: int) -> Scores:
        """Score how probable the texts are, with intervals over texts; samples and how they were judged in details."""
        values = [value for value, _, _ in answers]
        scores = metrics.summed_scores(_statistics(values), _values(values), main=main, seed=seed)
        return dataclasses.replace(scores, details=_details(records, values, seed))

    def difference(
        self, records: Sequence[Record], first: Sequence[Any], second: Sequence[Any], *, metric: str, seed: int
    ) -> Difference:
        """Compare how probable the same texts are to two models, by a paired bootstrap."""
        mine, theirs = _statistics(first), _statistics(second)
        return metrics.summed_difference(mine, theirs, _values([*first, *second]), metric=metric, seed=seed)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Give the probability of the test texts by counts of characters in the training texts."""
        start = time.perf_counter()
        before = [_before(record).get("prompt", "") + _joint(record) for record in splits.train]
        counted = CharacterNgrams().fit([p + record.target for p, record in zip(before, splits.train, strict=True)])
        prompts = [_before(record).get("prompt", "") + _joint(record) for record in splits.test]
        whole = [prompt + record.target for prompt, record in zip(prompts, splits.test, strict=True)]
        nats = counted.nats(whole, [len(prompt) for prompt in prompts])
        values = [
            {"nats": float(each), "tokens": 0, "characters": len(record.target)}
            for each, record in zip(nats, splits.test, strict=True)
        ]
        return [Baseline("ngram", [(value, None, {}) for value in values], time.perf_counter() - start)]


def _controls(record: Record) -> dict[str, str]:
    return {name: str(record.fields[name]) for name in CONTROLS if name in record.fields}


def _before(record: Record) -> dict[str, Any]:
    """Give what stands before the learnt text: everything but a document that is learnt itself."""
    is_learnt = record.target is not None
    return {name: value for name, value in record.fields.items() if not (is_learnt and name == "text")}


def _joint(record: Record) -> str:
    """Give the space between a prompt and its completion where words are parted by spaces and neither brings one."""
    prompt = str(record.fields.get("prompt", ""))[-1:]
    return " " if _WORDLIKE.fullmatch(prompt) and _WORDLIKE.match(str(record.target)) else ""


def _unknown(examples: Sequence[Example], tokenizer: Any) -> dict[int, int]:
    """Give for each record (by identity) how many learnt tokens are the unknown one: such a text is not measured."""
    found: dict[int, int] = defaultdict(int)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id != tokenizer.eos_token_id:
        for example in examples:
            if isinstance(example, Stretch):
                found[id(example.record)] += example.labels.count(tokenizer.unk_token_id)
    return found


def _statistics(values: Sequence[Mapping[str, Any]]) -> Floats:
    columns = ([value[name] for value in values] for name in ("nats", "tokens", "characters"))
    return texts.perplexity_statistics(*columns)


def _values(values: Sequence[Mapping[str, Any]]) -> metrics.SumsToValues:
    """Give the metrics; no perplexity where something has no tokens, because it counts characters."""
    has_tokens = all(value["tokens"] for value in values)

    def of(sums: Floats) -> dict[str, Floats]:
        found = texts.perplexity_values(sums)
        return found if has_tokens else {"bits_per_character": found["bits_per_character"]}

    return of


def _details(records: Sequence[Record], values: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Give the samples, how varied they are, and whether they are of the kind that was asked for."""
    details: dict[str, Any] = {}
    unknown, tokens = sum(value.get("unknown", 0) for value in values), sum(value["tokens"] for value in values)
    if unknown:
        details["unknown_share"] = unknown / max(tokens, 1)
    rows = [row for row, value in enumerate(values) if "sample" in value]
    if not rows:
        return details
    samples = [str(values[row]["sample"]) for row in rows]
    surface = texts.surface_values(texts.surface_statistics([[records[row].target] for row in rows], samples).sum(0))
    details |= {name: float(surface[name]) for name in ("distinct_1", "distinct_2")}
    asked = [_controls(record) for record in records]
    judged, verdicts = control_accuracy(
        [str(record.target) for record in records], asked, dict(zip(rows, samples, strict=True)), seed=seed
    )
    if judged:
        details["control_accuracy"] = judged
    details["samples"] = [
        {
            "row": str(records[row].origin),
            "input": {**asked[row], "prompt": str(records[row].fields.get("prompt", ""))},
            "expected": str(records[row].target)[:_SHOWN],
            "answered": sample,
            "right": verdicts.get(row, True),
        }
        for row, sample in zip(rows, samples, strict=True)
    ][:30]
    return details


TASK = TextGeneration()

"""Asked by entailment: a model of natural language inference says whether the text entails "This text is about LABEL".

A text pair is such a question already: its labels are matched with those of the model by their names.

Source: Yin et al. 2019, Benchmarking Zero-shot Text Classification. Letters in shapes: N rows, B batch, S sentences of
a row, L labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Example
from tunesmith.tasks.base import pad
from tunesmith.tasks.pairs import config_of, pair_of
from tunesmith.tasks.prompting.asked import AskedTask, Several, batch_several, in_rows
from tunesmith.tasks.prompting.templates import LABEL
from tunesmith.types import Record

if TYPE_CHECKING:
    import torch
    from torch import nn

_NAMES = {"entail": ("entail", "蕴含"), "neutral": ("neutral", "中立", "中性"), "contra": ("contra", "矛盾")}
_MARGIN_TOKENS = 8  # of a text that have to be left beside the sentence


def inference_places(config: Any) -> dict[str, int]:
    """Give the place of entail, neutral and contra among the labels of a model; empty where it knows no entailment."""
    found = {}
    for place, label in dict(getattr(config, "id2label", None) or {}).items():
        name = _inference_name(str(label))
        if name:
            found[name] = int(place)
    return found if "entail" in found else {}


def _inference_name(label: str) -> str:
    """Give which of the three a label means; "" for none, and for "not_entailment"."""
    plain = label.strip().casefold()
    return next((name for name, starts in _NAMES.items() if plain.startswith(starts)), "")


@dataclass(frozen=True)
class Judged(Several):
    """A row as one pair of text and sentence for each sentence."""

    kinds: tuple[tuple[int, ...], ...] = ()  # which of the two each token belongs to, where the model asks for it


@dataclass(frozen=True)
class Entailment(AskedTask):
    """A classification task asked by entailment."""

    pipeline: ClassVar[str] = "zero-shot-classification"

    def model_class(self, config: Any) -> str:
        """Give the class with a sequence head, which here is the base model's own."""
        return "AutoModelForSequenceClassification"

    @property
    def is_pair(self) -> bool:
        """Whether the rows are pairs, which need no sentence."""
        return "text_a" in self.roles

    def sentences(self) -> tuple[list[str], list[int]]:
        """Give every sentence that a text is judged by, and the place of its label."""
        found = [
            (template.filled({LABEL: word})[0], place)
            for template in self.wordings.templates
            for place, words in enumerate(self.wordings.words.values())
            for word in words
        ]
        return [sentence for sentence, _ in found], [place for _, place in found]

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each text with each sentence; the text is cut where both are too long."""
        sentences = [] if self.is_pair else self.sentences()[0]
        longest = max((len(tokenizer(sentence)["input_ids"]) for sentence in sentences), default=0)
        if longest + _MARGIN_TOKENS > max_length:
            raise PlanProblem(
                f"the longest sentence about a label has {longest} tokens, and the model reads {max_length}",
                where="template",
                do="write a shorter template or shorter label words",
            )
        found: list[Example] = []
        for record, target in zip(records, self.targets(records, labels), strict=True):
            pairs = [pair_of(record)] if self.is_pair else [(str(record.fields["text"]), each) for each in sentences]
            found.append(_judged(record, target, pairs, tokenizer, max_length))
        return found

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids`, `attention_mask`, `token_type_ids` (B * S, T), and `labels`."""
        kinds = [each for example in examples if isinstance(example, Judged) for each in example.kinds]
        batch = batch_several(examples, tokenizer)
        return {**batch, "token_type_ids": pad(kinds, 0)} if any(any(each) for each in kinds) else batch

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the logits (B, L), and the labels as `batch` gives them."""
        return self.as_logits(model, self.scores_of(model, batch)), batch["labels"]

    def scores_of(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the labels' scores (B, L): how much likelier entailment is than contradiction.

        A model that knows no contradiction tells entailment from everything else. Where one label is right its
        sentences compete by entailment alone, as in Transformers' own pipeline.
        """
        import torch

        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        judged_RJ = model(**inputs).logits.float()
        places = inference_places(config_of(model))
        if self.is_pair:
            return judged_RJ[:, [places[_inference_name(label)] for label in self.wordings.words]]
        owners = torch.tensor(self.sentences()[1], device=judged_RJ.device)
        others = [place for place in range(judged_RJ.shape[1]) if place != places["entail"]]
        against = [places["contra"]] if "contra" in places else others
        score_R = judged_RJ[:, places["entail"]]
        if self.is_multi_label:
            score_R = score_R - judged_RJ[:, against].logsumexp(-1)
        owned_SL = owners[:, None] == torch.arange(len(self.wordings.words), device=owners.device)
        each_BSL = score_R.unflatten(0, (-1, len(owners)))[..., None].masked_fill(~owned_SL, -math.inf)
        return each_BSL.logsumexp(1) - owned_SL.sum(0).log()

    def scores(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Floats:
        """Give the scores (N, L)."""
        return in_rows(
            examples,
            lambda batch: self.scores_of(model, batch),
            lambda part: self.batch(part, tokenizer),
            model=model,
            batch_tokens=batch_tokens,
        )


def _judged(record: Record, target: Any, pairs: Sequence[tuple[str, str]], tokenizer: Any, max_length: int) -> Judged:
    """Encode the pairs of one row."""
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    strategy = "longest_first" if "text_a" in record.fields else "only_first"
    whole = tokenizer(firsts, seconds, verbose=False)["input_ids"]
    kept = tokenizer(firsts, seconds, truncation=strategy, max_length=max_length, verbose=False)
    ids = [tuple(each) for each in kept["input_ids"]]
    kinds = kept.get("token_type_ids")
    return Judged(
        ids[0],
        target,
        any(len(each) > max_length for each in whole),
        record=record,
        asked=tuple(ids),
        kinds=() if kinds is None else tuple(tuple(each) for each in kinds),
    )


def match_pair_labels(labels: Sequence[str], config: Any) -> dict[str, list[str]] | None:
    """Give the labels of pairs as the model's own labels call them; None where their names do not match."""
    places = inference_places(config)
    names = {label: _inference_name(label) for label in labels}
    is_matched = all(name in places for name in names.values()) and len(set(names.values())) == len(labels)
    return {label: [name] for label, name in names.items()} if is_matched else None

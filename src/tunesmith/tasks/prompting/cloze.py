"""Asked as a cloze: a masked language model fills the label's place in a sentence, and is scored by the label's words.

A word of several tokens has as many masks; its score is the mean log-likelihood of its tokens, each at its own mask, so
that long words are not unlikelier for being long. A label's score is the log of the mean over its words, and the answer
is the mean over the templates.

Sources: Schick & Schütze 2021, Exploiting Cloze Questions (there, a word of several tokens is filled token by token);
Gao et al. 2021, LM-BFF. Letters in shapes: N rows, B batch, S sequences of a row, T tokens, K masks, H width,
V vocabulary, P templates, W words, L labels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Example, Load
from tunesmith.tasks.base import pad
from tunesmith.tasks.prompting.asked import AskedTask, Several, batch_several, in_rows
from tunesmith.tasks.prompting.templates import LABEL, Template, encode_filled
from tunesmith.types import Record

if TYPE_CHECKING:
    import torch
    from torch import nn

MODEL_CLASS = "AutoModelForMaskedLM"
_NEVER_CUT = 1_000_000
_MOST_MASKS = 12  # tokens of one word; masks filled side by side say little about longer ones


@dataclass(frozen=True)
class ClozeExample(Several):
    """A row as one sequence for each template and each number of masks."""

    masks: tuple[tuple[int, ...], ...] = ()  # places of the masks in each sequence
    gaps: tuple[Gap, ...] = ()  # what each sequence asks; the same for all rows


@dataclass(frozen=True)
class Gap:
    """One sequence that every row is turned into: a template with so many masks, and the words that fit them."""

    template: int  # place among the templates
    ids: tuple[tuple[int, ...], ...]  # of the words, each as long as there are masks
    owners: tuple[int, ...]  # place of each word's label

    @property
    def size(self) -> int:
        """How many masks there are."""
        return len(self.ids[0])


@dataclass(frozen=True)
class Cloze(AskedTask):
    """A classification task asked as a cloze."""

    is_learnt: bool = False  # learnt, it starts from how likely labels are; else that is taken off their scores

    pipeline: ClassVar[str] = "fill-mask"

    def model_class(self, config: Any) -> str:
        """Give the class with a masked-language-model head."""
        return MODEL_CLASS

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each record as its sequences with masks, and what the loss compares with."""
        gaps = self.gaps(tokenizer)
        asked = [
            (self.wordings.templates[gap.template], self.values_of(record, tokenizer.mask_token * gap.size))
            for record in records
            for gap in gaps
        ]
        filled = encode_filled(asked, tokenizer, max_length)
        found: list[Example] = []
        for row, (record, target) in enumerate(zip(records, self.targets(records, labels), strict=True)):
            own = filled[row * len(gaps) : (row + 1) * len(gaps)]
            found.append(
                ClozeExample(
                    own[0].tokens,
                    target,
                    any(one.was_cut for one in own),
                    record=record,
                    asked=tuple(one.tokens for one in own),
                    masks=tuple(
                        tuple(place for place in one.label_places if one.tokens[place] == tokenizer.mask_token_id)
                        for one in own
                    ),
                    gaps=gaps,
                )
            )
        return found

    def values_of(self, record: Record, label: str) -> dict[str, str]:
        """Give what the holes of a template are filled with."""
        return {**{role: str(record.fields[role]) for role in self.roles}, LABEL: label}

    def gaps(self, tokenizer: Any) -> tuple[Gap, ...]:
        """Give the sequences that a row is turned into, template after template and the fewest masks first."""
        found = []
        for place, template in enumerate(self.wordings.templates):
            by_size: dict[int, list[tuple[tuple[int, ...], int]]] = {}
            for owner, words_of_label in enumerate(self.wordings.words.values()):
                for word in words_of_label:
                    ids = word_ids(word, template, tokenizer)
                    by_size.setdefault(len(ids), []).append((ids, owner))
            for _, words in sorted(by_size.items()):
                found.append(Gap(place, tuple(ids for ids, _ in words), tuple(owner for _, owner in words)))
        return tuple(found)

    def batch(self, examples: Sequence[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
        """Pad to the longest: `input_ids`, `attention_mask` (B * S, T), `masks` (B * S, K), and `labels` (B ...).

        What the words are goes along: `words` (S, W, K), `owners` (S, W; -1 where nothing is), `templates` and
        `sizes` (S), the number of masks.
        """
        import torch

        known = [example for example in examples if isinstance(example, ClozeExample)]
        gaps = known[0].gaps
        masks = pad([places for example in known for places in example.masks], 0)
        owners = pad([gap.owners for gap in gaps], -1)
        words = torch.zeros((*owners.shape, masks.shape[1]), dtype=torch.long)
        for place, gap in enumerate(gaps):
            words[place, : len(gap.ids), : gap.size] = torch.tensor(gap.ids)
        templates = torch.tensor([gap.template for gap in gaps])
        sizes = torch.tensor([gap.size for gap in gaps])
        asked = {"masks": masks, "words": words, "owners": owners, "templates": templates, "sizes": sizes}
        return {**batch_several(examples, tokenizer), **asked}

    def weight(self, batch: Mapping[str, torch.Tensor]) -> float:
        """Give the rows of the batch times the templates: each template learns for itself."""
        return float(len(batch["labels"]) * len(self.wordings.templates))

    def labelled_logits(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the logits of each row by each template (B * P, L), and the labels to match."""
        logits_BPL = self.as_logits(model, self.scores_of(model, batch))
        return logits_BPL.flatten(0, 1), batch["labels"].repeat_interleave(logits_BPL.shape[1], 0)

    def scores_of(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give the labels' scores by each template, (B, P, L), float32."""
        import torch

        owners_SW = batch["owners"]
        chances_RKV = mask_logits(model, batch).float().log_softmax(-1)
        chances_BSKV = chances_RKV.unflatten(0, (-1, len(owners_SW)))
        labels = torch.arange(len(self.wordings.words), device=owners_SW.device)
        found = []
        for template in range(len(self.wordings.templates)):
            words_BW, owned_WL = [], []
            for gap in (batch["templates"] == template).nonzero()[:, 0].tolist():
                owners_W = owners_SW[gap][owners_SW[gap] >= 0]
                ids_WK = batch["words"][gap, : len(owners_W), : int(batch["sizes"][gap])]
                places_K = torch.arange(ids_WK.shape[1], device=ids_WK.device)
                words_BW.append(chances_BSKV[:, gap][:, places_K, ids_WK].mean(-1))
                owned_WL.append(owners_W[:, None] == labels)
            owned = torch.cat(owned_WL)
            each_BWL = torch.cat(words_BW, 1)[..., None].masked_fill(~owned, -math.inf)
            found.append(each_BWL.logsumexp(1) - owned.sum(0).log())
        scores_BPL = torch.stack(found, 1)
        # A text has a label when its words are likelier than half of what each of so many labels would get.
        is_bare = self.is_multi_label and not self.is_corrected
        return scores_BPL + math.log(2 * len(labels)) if is_bare else scores_BPL

    @property
    def is_corrected(self) -> bool:
        """Whether how likely labels are without a text is taken off; what is learnt starts from that likelihood."""
        return self.wordings.is_corrected and not self.is_learnt

    def scores(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Floats:
        """Give the mean over the templates (N, L); what is not learnt is corrected by the labels' own likelihood."""

        def run(some: Sequence[Example]) -> Floats:
            return in_rows(
                some,
                lambda batch: self.scores_of(model, batch).mean(1),
                lambda part: self.batch(part, tokenizer),
                model=model,
                batch_tokens=batch_tokens,
            )

        found = run(examples)
        if not self.is_corrected:
            return found
        empty = self.encode(self.empty_records(), tokenizer, labels=labels, max_length=_NEVER_CUT)
        return found - log_mean(run(empty))

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer the same cloze with the base model as it came; None where nothing is learnt and so nothing changes."""
        if not self.is_learnt:
            return None
        asked = dataclasses.replace(self, is_learnt=False)
        examples = asked.encode(records, tokenizer, labels=labels, max_length=max_length)
        return asked.answer(load(MODEL_CLASS), examples, tokenizer=tokenizer, labels=labels, batch_tokens=4096)


def word_ids(word: str, template: Template, tokenizer: Any) -> tuple[int, ...]:
    """Give the ids of a word where a template has its label: tokenizers write a word after a space in another way.

    Raises:
        PlanProblem: The base model does not know the word, or has to spell it in too many pieces.
    """
    values = {**dict.fromkeys(template.holes, ""), LABEL: word}
    (sentence,) = encode_filled([(template, values)], tokenizer, _NEVER_CUT)
    ids = tuple(sentence.tokens[place] for place in sentence.label_places)
    if not ids or tokenizer.unk_token_id in ids or len(ids) > _MOST_MASKS:
        told = f"is {len(ids)} tokens long" if len(ids) > _MOST_MASKS else "is not in the base model's vocabulary"
        raise PlanProblem(
            f"the label word '{word}' {told}",
            where="label_words",
            do="name the label by words that the base model knows: --set label_words=label=word|word,label=word",
        )
    return ids


def mask_logits(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give the logits (B * S, K, V) at the masks, and compute the language-model head nowhere else.

    In a small model that head is most of the arithmetic. The body's states are thinned out before the model's own head
    reads them, whatever it is called; every such head looks at each token by itself.
    """
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    masks_RK = batch["masks"]
    rows_R1 = torch.arange(len(masks_RK), device=masks_RK.device)[:, None]
    bare: Any = getattr(model, "module", model)
    body = bare.base_model
    if body is bare:
        logits_RTV: torch.Tensor = model(**inputs).logits
        return logits_RTV[rows_R1, masks_RK]

    def thin_out(module: nn.Module, args: Any, found: Any) -> Any:
        found["last_hidden_state"] = found["last_hidden_state"][rows_R1, masks_RK]
        return found

    handle = body.register_forward_hook(thin_out)
    try:
        logits_RKV: torch.Tensor = model(**inputs).logits
    finally:
        handle.remove()
    return logits_RKV


def log_mean(scores_NL: Floats) -> Floats:
    """Give the log of the mean likelihood over rows (L) of log-likelihoods (N, L)."""
    return np.asarray(np.logaddexp.reduce(np.asarray(scores_NL, dtype=np.float64), axis=0) - math.log(len(scores_NL)))

"""Copies in which words are replaced by what the base model itself would put there.

A word is masked in a second copy of its text that stands behind the first, so that the model still reads what it was
and proposes words like it, not only words that fit. That is Qiang et al. 2020 (LSBert); drawing among the likeliest
instead of taking the first is our own, for several copies of a row. Words of less than four letters, most of which hold
sentences together, stay: "not" is one of them.

Letters: B gaps, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tunesmith.data.augment.edits import Edit, edit_record, free_words
from tunesmith.data.augment.entries import AUGMENT, Entry
from tunesmith.data.augment.making import Copies, Maker
from tunesmith.data.augment.random_edits import count_of, like_case
from tunesmith.data.augment.words import Cut, Place, is_cjk, words_of
from tunesmith.data.store import in_groups
from tunesmith.errors import PlanProblem
from tunesmith.methods.asking import is_masked
from tunesmith.models.build import build_model, longest_input, read_config
from tunesmith.models.find import Base
from tunesmith.tasks.base import pad
from tunesmith.tasks.batching import fill
from tunesmith.types import Record

LEAST_LETTERS = 4
_AT_ONCE = 256  # rows whose gaps are filled together
_TRIED = 20  # likeliest tokens that are looked through for whole words
_NUMBERS = 16_000_000  # logits held at once: 64 MiB
_MOST_AROUND = 40  # words that are read on either side of a gap
_TOKENS_A_WORD = 2


@dataclass
class Gap:
    """A word to be replaced; `ids` are both texts, with masks where it stood."""

    place: Place
    word: str
    draw: random.Random
    ids: list[int] = field(default_factory=list)
    masks: list[int] = field(default_factory=list)  # places in `ids`
    found: list[int] = field(default_factory=list)  # ids that fill the masks so far

    @property
    def is_open(self) -> bool:
        """Whether there are masks left."""
        return len(self.found) < len(self.masks)


@dataclass(frozen=True)
class Proposals:
    """A masked language model as a source of synonyms."""

    model: nn.Module
    tokenizer: Any
    limit: int  # most tokens that the model reads
    least_letters: int = LEAST_LETTERS
    words: dict[int, str] = field(default_factory=dict)  # what tokens were found to be so far

    def can_replace(self, word: str) -> bool:
        """Whether a word is worth replacing."""
        return is_cjk(word) or (len(word) >= self.least_letters and word.isalpha())

    def open_gap(self, text: str, words: Sequence[Place], place: Place, draw: random.Random) -> Gap:
        """Mask one word of a text; one mask, or of Chinese one for each character. Without ids where it is too long."""
        start, end = place
        gap = Gap(place, text[start:end], draw)
        around = max(1, min(_MOST_AROUND, (self.limit - 4) // 2 // _TOKENS_A_WORD // 2))
        at = words.index(place)
        first, last = words[max(0, at - around)][0], words[min(len(words) - 1, at + around)][1]
        mask = self.tokenizer.mask_token * (len(gap.word) if is_cjk(gap.word) else 1)
        ids = self.tokenizer(text[first:last], text[first:start] + mask + text[end:last])["input_ids"]
        masks = [place for place, one in enumerate(ids) if one == self.tokenizer.mask_token_id]
        if len(ids) <= self.limit and len(masks) == (len(gap.word) if is_cjk(gap.word) else 1):
            gap.ids, gap.masks = list(ids), masks
        return gap

    def fill(self, gaps: Sequence[Gap]) -> None:
        """Fill the masks of all gaps, from left to right: what was chosen is read when the next one is."""
        while waiting := [gap for gap in gaps if gap.is_open]:
            lengths = [len(gap.ids) for gap in waiting]
            for rows in fill(range(len(waiting)), lengths, max(1, _NUMBERS // len(self.tokenizer))):
                self._fill_next([waiting[row] for row in rows])

    def _fill_next(self, gaps: Sequence[Gap]) -> None:
        ids_BT = pad([gap.ids for gap in gaps], self.tokenizer.pad_token_id or 0)
        lengths = torch.tensor([len(gap.ids) for gap in gaps])
        mask_BT = (torch.arange(ids_BT.shape[1])[None] < lengths[:, None]).long()
        device = next(self.model.parameters()).device
        with torch.inference_mode():
            logits_BTV = self.model(input_ids=ids_BT.to(device), attention_mask=mask_BT.to(device)).logits
            places = torch.tensor([gap.masks[len(gap.found)] for gap in gaps], device=device)
            logs_BV = logits_BTV[torch.arange(len(gaps), device=device), places].float().log_softmax(1)
            best = logs_BV.topk(min(_TRIED, logs_BV.shape[1]), dim=1)
        for gap, ids, logs in zip(gaps, best.indices.tolist(), best.values.exp().tolist(), strict=True):
            self._choose(gap, ids, logs)

    def _choose(self, gap: Gap, ids: Sequence[int], chances: Sequence[float]) -> None:
        """Draw one of the whole words among the likeliest; where there is none, the gap is given up."""
        whole = is_cjk(gap.word)
        known = [(one, chance) for one, chance in zip(ids, chances, strict=True) if self._fits(one, gap, whole)]
        if not known:
            gap.masks, gap.found = [], []
            return
        (chosen,) = gap.draw.choices([one for one, _ in known], [chance for _, chance in known])
        gap.ids[gap.masks[len(gap.found)]] = chosen
        gap.found.append(chosen)

    def _fits(self, token: int, gap: Gap, is_character: bool) -> bool:
        word = self.word_of(token)
        if is_character:
            return len(word) == 1 and is_cjk(word) and (len(gap.masks) > 1 or word != gap.word)
        return bool(word) and not is_cjk(word) and word.lower() != gap.word.lower() and len(word) > 1

    def word_of(self, token: int) -> str:
        """Give the word that a token is; empty where it is a part of one, or none at all."""
        if token not in self.words:
            self.words[token] = "" if token in self.tokenizer.all_special_ids else self._read(token)
        return self.words[token]

    def _read(self, token: int) -> str:
        word = str(self.tokenizer.decode([token])).strip()
        if not word.isalnum():
            return ""
        # A part of a word is written otherwise when it stands by itself, whatever mark the tokenizer has for that.
        ends = self.tokenizer.tokenize(f"a {word}")[-1:]
        return word if ends == [self.tokenizer.convert_ids_to_tokens(token)] else ""

    def replacement(self, gap: Gap) -> Edit | None:
        """Give the edit that a filled gap makes; None where nothing, or the word itself, was put there."""
        word = "".join(map(self.word_of, gap.found))
        if not word or word.lower() == gap.word.lower():
            return None
        return Edit(*gap.place, like_case(word, gap.word))


def masked_words(
    entry: Entry, fields: Sequence[str], *, base: Base, tokenizer: Any, device: str, cut: Cut | None
) -> Maker:
    """Give what copies rows with words that the base model proposes.

    Raises:
        PlanProblem: The base model cannot propose words.
    """
    proposals = load_proposals(base, tokenizer, device)
    share = float(entry.settings["share"])

    def make(records: Sequence[Record], chance: Callable[[Record], random.Random]) -> Copies:
        for group in in_groups(records, _AT_ONCE):
            gaps = [
                _gaps(record, fields, chance(record), proposals=proposals, share=share, cut=cut) for record in group
            ]
            proposals.fill([gap for each in gaps for own in each.values() for gap in own])
            yield from (_copy(record, own, proposals) for record, own in zip(group, gaps, strict=True))

    return make


def _gaps(
    record: Record, fields: Sequence[str], draw: random.Random, *, proposals: Proposals, share: float, cut: Cut | None
) -> dict[str, list[Gap]]:
    """Open the gaps of a record's texts, in order."""
    found: defaultdict[str, list[Gap]] = defaultdict(list)
    for name in fields:
        if not isinstance(text := record.fields.get(name), str):
            continue
        words = words_of(text, cut)
        known = [place for place in free_words(record, words) if proposals.can_replace(text[slice(*place)])]
        chosen = sorted(draw.sample(known, min(count_of(share, len(words)), len(known))))
        found[name] = [proposals.open_gap(text, words, place, random.Random(draw.random())) for place in chosen]
    return found


def _copy(record: Record, gaps: dict[str, list[Gap]], proposals: Proposals) -> Record | None:
    copy = record
    for name, own in gaps.items():
        if edits := list(_present(map(proposals.replacement, own))):
            copy = edit_record(copy, name, edits)
    return None if copy is record else copy


def _present(edits: Iterable[Edit | None]) -> Iterable[Edit]:
    return itertools.chain.from_iterable([edit] for edit in edits if edit is not None)


def load_proposals(base: Base, tokenizer: Any, device: str = "cpu") -> Proposals:
    """Build the base model as one that fills in masked words.

    Raises:
        PlanProblem: It has no trained head for that.
    """
    config = read_config(base.folder)
    reason = "it was not pretrained to fill in masked words"
    if is_masked(config) and tokenizer.mask_token is not None:
        model: Any = build_model(base.folder, "AutoModelForMaskedLM")
        if not (drawn := [name for name in model.drawn if not name.startswith(f"{model.base_model_prefix}.")]):
            return Proposals(model.to(device), tokenizer, longest_input(config, tokenizer))
        reason = f"its files lack the head for that ({', '.join(drawn[:2])})"
    raise PlanProblem(
        f"base model {base.name} cannot propose synonyms: {reason}",
        where=AUGMENT,
        do="give a table: augment=synonyms:table=FILE with lines word,synonym|synonym; or another base model",
    )

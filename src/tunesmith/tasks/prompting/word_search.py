"""Find words for labels whose names say nothing: those that a masked language model expects with one label's rows only.

A word counts when the model finds it likely (among the first hundred) in the label's rows, and is chosen by how much
likelier it is there than in the rows of the label where it is likeliest otherwise.

Sources: Gao et al. 2021 (LM-BFF), section 5.1, for the hundred likeliest words of a label's rows (there, the assignment
is chosen by accuracy and by tuning); Schick et al. 2020, Automatically Identifying Words That Can Serve as Labels, for
comparing with other labels. Letters: N rows, L labels, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import PlanProblem
from tunesmith.tasks.base import in_batches
from tunesmith.tasks.prompting.cloze import ClozeExample, mask_logits
from tunesmith.tasks.prompting.label_words import Words
from tunesmith.tasks.prompting.templates import LABEL, Template, encode_filled
from tunesmith.types import Record

if TYPE_CHECKING:
    import torch
    from torch import nn

_MOST_ROWS = 32  # of a label that are looked at
_LIKELIEST = 100  # words of a label that are looked at
_WORDS = 3  # for each label
_LONGEST = 256  # tokens of a row


def search_words(
    model: nn.Module,
    tokenizer: Any,
    template: Template,
    records: Sequence[Record],
    *,
    labels: Sequence[str],
    owned: Sequence[Sequence[str]],
) -> Words:
    """Give up to three words for each label, each of one token and each for one label only.

    Args:
        model: A masked language model.
        tokenizer: Of the model.
        template: The words are for its label; they are searched where it stands.
        records: Training rows.
        labels: What words are for.
        owned: The labels of each record.

    Raises:
        PlanProblem: A label is left without a word.
    """
    chosen = _some_rows(records, labels, owned)
    chances_NV = _mask_chances(model, tokenizer, template, [records[row] for row in chosen])
    usable_V = _whole_words(tokenizer, chances_NV.shape[1])
    has_NL = np.array([[label in owned[row] for label in labels] for row in chosen], dtype=bool)
    mean_LV = np.stack([chances_NV[has_N].mean(0) for has_N in has_NL.T])
    other_LV = np.stack([_other(chances_NV, has_NL, mean_LV, place) for place in range(len(labels))])
    found: dict[str, list[str]] = {label: [] for label in labels}
    taken: set[int] = set()
    for place, word in _by_contrast(mean_LV, mean_LV - other_LV, usable_V):
        text = tokenizer.decode([word]).strip()
        if word in taken or len(found[labels[place]]) >= _WORDS or not _is_written_so(text, word, template, tokenizer):
            continue
        found[labels[place]].append(text)
        taken.add(word)
    if empty := [label for label in labels if not found[label]]:
        raise PlanProblem(
            f"no word was found that the base model expects with rows of '{empty[0]}' only",
            where="label_words",
            do=f"say what the labels mean: --set label_words={empty[0]}=word|word,...",
        )
    return found


def _some_rows(records: Sequence[Record], labels: Sequence[str], owned: Sequence[Sequence[str]]) -> list[int]:
    """Give some rows of each label, the same ones whenever the rows are the same."""
    order = list(range(len(records)))
    random.Random(0).shuffle(order)
    chosen: set[int] = set()
    for label in labels:
        chosen.update([row for row in order if label in owned[row]][:_MOST_ROWS])
    return sorted(chosen)


def _mask_chances(model: nn.Module, tokenizer: Any, template: Template, records: Sequence[Record]) -> Any:
    """Give the log-likelihood (N, V) of every token in the place of one mask."""
    roles = [hole for hole in template.holes if hole != LABEL]
    values = [{**{role: str(one.fields[role]) for role in roles}, LABEL: tokenizer.mask_token} for one in records]
    longest = min(_LONGEST, int(tokenizer.model_max_length))
    filled = encode_filled([(template, each) for each in values], tokenizer, longest)
    examples = [
        ClozeExample(one.tokens, asked=(one.tokens,), masks=(one.label_places[:1],), record=record)
        for one, record in zip(filled, records, strict=True)
    ]
    found: list[Any] = [None] * len(examples)

    def keep(rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        chances_BV = mask_logits(model, batch).float().log_softmax(-1)[:, 0]
        for row, chances_V in zip(rows, chances_BV.cpu().numpy(), strict=True):
            found[row] = chances_V

    def make_batch(some: Sequence[Any]) -> dict[str, torch.Tensor]:
        from tunesmith.tasks.base import pad
        from tunesmith.tasks.prompting.asked import batch_several

        batch = batch_several(some, tokenizer)
        batch.pop("labels", None)
        return {**batch, "masks": pad([places for one in some for places in one.masks], 0)}

    in_batches(examples, keep, make_batch, model=model, batch_tokens=4096)
    return np.stack(found)


def _whole_words(tokenizer: Any, size: int) -> Any:
    """Tell which tokens (V) are whole words of letters, or Chinese characters; no pieces, marks or special tokens."""
    usable = np.zeros(size, dtype=bool)
    special = set(tokenizer.all_special_ids)
    for token in range(min(size, len(tokenizer))):
        text = tokenizer.convert_ids_to_tokens(token).lstrip("\u0120\u2581")
        word = tokenizer.decode([token]).strip()
        usable[token] = token not in special and not text.startswith("##") and any(map(str.isalpha, word))
    return usable


def _other(chances_NV: Any, has_NL: Any, mean_LV: Any, place: int) -> Any:
    """Give how likely words are (V) with the label that they are likeliest with besides this one.

    Where a row may have several labels, the rows without this one are what it is compared with.
    """
    if has_NL.sum(1).max() > 1:
        without = ~has_NL[:, place]
        return chances_NV[without].mean(0) if without.any() else np.full(chances_NV.shape[1], -np.inf)
    return np.delete(mean_LV, place, axis=0).max(0)


def _by_contrast(mean_LV: Any, contrast_LV: Any, usable_V: Any) -> list[tuple[int, int]]:
    """Give (label, word) of all words that count, the one with the largest contrast first."""
    found = []
    for place, mean_V in enumerate(mean_LV):
        likeliest = np.argsort(-np.where(usable_V, mean_V, -np.inf), kind="stable")[:_LIKELIEST]
        found += [(-float(contrast_LV[place, word]), place, int(word)) for word in likeliest if usable_V[word]]
    return [(place, word) for contrast, place, word in sorted(found) if contrast < 0]


def _is_written_so(text: str, word: int, template: Template, tokenizer: Any) -> bool:
    """Whether the word, put into the template, becomes this one token again."""
    values = {**dict.fromkeys(template.holes, ""), LABEL: text}
    (sentence,) = encode_filled([(template, values)], tokenizer, 1_000_000)
    return [sentence.tokens[place] for place in sentence.label_places] == [word]

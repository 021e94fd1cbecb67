"""Asked by likelihood: how likely a causal language model finds each label's words after the text.

A word's score is the mean log-likelihood of its tokens, less how likely the word is after a text without content: some
words are likelier than others whatever was said before.

Sources: Holtzman et al. 2021, Surface Form Competition (there, sums instead of means, and a text chosen for each task);
Zhao et al. 2021, Calibrate Before Use (there, shares among the labels). Letters in shapes: N prompts, B batch, K tokens
of a word, V vocabulary, W words, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Example
from tunesmith.tasks.base import pad
from tunesmith.tasks.prompting.asked import AskedTask
from tunesmith.tasks.prompting.cloze import log_mean
from tunesmith.tasks.prompting.templates import LABEL, Template, cut_values
from tunesmith.tasks.wording import Wording
from tunesmith.types import Record

if TYPE_CHECKING:
    import torch
    from torch import nn

MODEL_CLASS = "AutoModelForCausalLM"
_WINDOW = 1024  # tokens, where the model's configuration does not say
_PROBE = 8  # characters before a word that decide how it is written


@dataclass(frozen=True)
class PromptExample(Example):
    """A row as its first prompt, and what the holes of every template are filled with."""

    values: Mapping[str, str] = field(default_factory=dict)  # texts by role, cut to the plan's length


@dataclass(frozen=True)
class Likelihood(AskedTask):
    """A classification task asked by the likelihood of what follows."""

    pipeline: ClassVar[str] = "text-generation"

    def model_class(self, config: Any) -> str:
        """Give the class that writes on."""
        return MODEL_CLASS

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give each record as its first prompt, cut to `max_length` with the longest word behind it."""
        wording, template = Wording(tokenizer), self.wordings.templates[0]
        lead = lead_of(wording)
        room = max_length - len(lead) - max(map(len, word_tokens(self.wordings.words, template, wording)[0]))
        found: list[Example] = []
        for record, target in zip(records, self.targets(records, labels), strict=True):
            tokens, values, was_cut = cut_prompt(template, self.values_of(record), wording, room)
            found.append(PromptExample((*lead, *tokens), target, was_cut, record=record, values=values))
        return found

    def values_of(self, record: Record) -> dict[str, str]:
        """Give what the holes of a template are filled with, but for the label."""
        return {role: str(record.fields[role]) for role in self.roles}

    def scores(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Floats:
        """Give the mean over the templates (N, L), corrected by the labels' own likelihood unless that was refused."""
        wording = Wording(tokenizer)
        found = []
        for template in self.wordings.templates:
            words, owners = word_tokens(self.wordings.words, template, wording)
            room = self.room(model, wording) - max(map(len, words))
            prompts = self.prompts(model, examples, template, wording, room)
            flat = [prompt for each in prompts for prompt in each]
            chances_RW = word_chances(model, flat, words, filler=wording.filler, batch_tokens=batch_tokens)
            found.append(_corrected(label_scores(chances_RW, owners), [len(each) for each in prompts]))
        return np.asarray(np.mean(found, axis=0))

    def prompts(
        self, model: nn.Module, examples: Sequence[Example], template: Template, wording: Wording, room: int
    ) -> list[list[tuple[int, ...]]]:
        """Give the prompt of each row and, where scores are corrected, the same one about texts without content."""
        asked = [self.asked_of(example) for example in examples]
        lead = lead_of(wording)
        return [[(*lead, *cut_prompt(template, values, wording, room)[0]) for values in each] for each in asked]

    def asked_of(self, example: Example) -> list[Mapping[str, str]]:
        """Give the texts that a row's prompts are about: its own, and those without content."""
        own = example.values if isinstance(example, PromptExample) else {}
        empty = self.empty_records() if self.wordings.is_corrected else []
        return [own, *(self.values_of(record) for record in empty)]

    def room(self, model: nn.Module, wording: Wording) -> int:
        """Give how many tokens a prompt and its answer may have."""
        return window_of(model, wording) - len(lead_of(wording))


def _corrected(scores_RL: Floats, counts: Sequence[int]) -> Floats:
    """Take from the first prompt of each row what its other prompts, which say nothing, give: (N, L)."""
    rows, first = [], 0
    for count in counts:
        own = scores_RL[first]
        rows.append(own - log_mean(scores_RL[first + 1 : first + count]) if count > 1 else own)
        first += count
    return np.stack(rows) if rows else np.zeros((0, scores_RL.shape[-1]))


def cut_prompt(
    template: Template, values: Mapping[str, str], wording: Wording, room: int
) -> tuple[tuple[int, ...], dict[str, str], bool]:
    """Give the ids of a template up to its label, of at most `room` tokens; the cut texts; whether any was cut."""
    kept, was_cut = cut_values(template, values, lambda text: wording.ids([text])[0], room)
    return wording.ids([before_label(template, kept)])[0], kept, was_cut


def word_tokens(
    words: Mapping[str, Sequence[str]], template: Template, wording: Wording
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Give the ids of every word as it follows the template, and the place of its label.

    Raises:
        PlanProblem: The base model does not know a word.
    """
    stem = before_label(template, dict.fromkeys(template.holes, ""))[-_PROBE:]
    gap = " " if template.filled(dict.fromkeys(template.holes, ""))[0].endswith(" ") else ""
    found, owners = [], []
    for place, (label, each) in enumerate(words.items()):
        for word in each:
            alone, both = wording.ids([stem])[0], wording.ids([stem + gap + word])[0]
            is_apart = both[: len(alone)] == alone and len(both) > len(alone)
            ids = both[len(alone) :] if is_apart else wording.ids([word])[0]
            if not ids or wording.tokenizer.unk_token_id in ids:
                raise PlanProblem(
                    f"the label word '{word}' is not in the base model's vocabulary",
                    where="label_words",
                    do=f"name the label by words that it knows: --set label_words={label}=word|word,...",
                )
            found.append(tuple(ids))
            owners.append(place)
    return found, owners


def before_label(template: Template, values: Mapping[str, str]) -> str:
    """Give what stands before the label, without the spaces that belong to its word."""
    return template.filled({**values, LABEL: ""})[0].rstrip(" ")


def lead_of(wording: Wording) -> tuple[int, ...]:
    """Give what every prompt starts with: the tokenizer's lead, else one token to go on from."""
    return wording.source.lead or (wording.start,)


def window_of(model: nn.Module, wording: Wording) -> int:
    """Give how many tokens the model can read at once."""
    config = getattr(model, "module", model).config
    known = getattr(config, "max_position_embeddings", None) or _WINDOW
    return int(known)


def label_scores(chances_RW: Floats, owners: Sequence[int]) -> Floats:
    """Give the log of the mean over the words of each label: (R, L)."""
    count = max(owners) + 1
    places = np.array(owners)
    return np.stack(
        [
            np.logaddexp.reduce(chances_RW[:, places == label], axis=1) - np.log((places == label).sum())
            for label in range(count)
        ],
        axis=1,
    )


def word_chances(
    model: nn.Module,
    prompts: Sequence[tuple[int, ...]],
    words: Sequence[tuple[int, ...]],
    *,
    filler: int,
    batch_tokens: int,
) -> Floats:
    """Give the mean log-likelihood of each word after each prompt: (N, W), in the order given.

    A prompt goes through the model once, together with others of the very same length, so that nothing is padded
    before a word; the words then go on from its kept states. Prompts that stand twice are asked once.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids, each at least one.
        words: Token ids, each at least one.
        filler: Stands behind words that are shorter than others.
        batch_tokens: Most tokens of prompts in the model at once.
    """
    by_length: dict[int, list[tuple[int, ...]]] = {}
    for prompt in dict.fromkeys(prompts):
        by_length.setdefault(len(prompt), []).append(prompt)
    known: dict[tuple[int, ...], Floats] = {}
    for length, alike in by_length.items():
        at_once = max(1, batch_tokens // max(length, sum(map(len, words))))
        for first in range(0, len(alike), at_once):
            part = alike[first : first + at_once]
            known.update(zip(part, _chances(model, part, words, filler), strict=True))
    return np.stack([known[prompt] for prompt in prompts]) if prompts else np.zeros((0, len(words)))


def _chances(
    model: nn.Module, prompts: Sequence[tuple[int, ...]], words: Sequence[tuple[int, ...]], filler: int
) -> Floats:
    """Give the mean log-likelihood (B, W) of each word after prompts of one length."""
    import torch

    device = next(model.parameters()).device
    longest = max(map(len, words))
    ids_WK = pad(words, filler).to(device)
    is_there_WK = pad([[1] * len(word) for word in words], 0).to(device)
    with torch.inference_mode():
        read = model(input_ids=torch.tensor(prompts, device=device), use_cache=longest > 1)
        first_BV = read.logits[:, -1].float().log_softmax(-1)
        chances_BWK = first_BV[:, ids_WK[:, 0]].unsqueeze(-1)
        if longest > 1:
            later_BWK = _later_chances(model, read.past_key_values, ids_WK, rows=len(prompts))
            chances_BWK = torch.cat([chances_BWK, later_BWK], -1)
        mean_BW = (chances_BWK * is_there_WK).sum(-1) / is_there_WK.sum(-1)
    found: Floats = mean_BW.cpu().numpy().astype(np.float64)
    return found


def _later_chances(model: nn.Module, kept: Any, ids_WK: torch.Tensor, *, rows: int) -> torch.Tensor:
    """Give the log-likelihood (B, W, K - 1) of all tokens of each word but its first, going on from kept states."""
    kept.batch_repeat_interleave(len(ids_WK))
    read = model(input_ids=ids_WK[:, :-1].repeat(rows, 1), past_key_values=kept, use_cache=True)
    chances_RKV = read.logits.float().log_softmax(-1)
    found_RK = chances_RKV.gather(-1, ids_WK[:, 1:].repeat(rows, 1).unsqueeze(-1)).squeeze(-1)
    return found_RK.unflatten(0, (rows, len(ids_WK)))

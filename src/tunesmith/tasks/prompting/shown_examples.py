"""Asked by likelihood, after labelled examples: the training rows most like the text stand before it in the prompt.

Every label has its turn, so that a label with many near rows does not crowd the others out; the most similar row stands
last, next to the text. Texts are compared by TF-IDF, or by the mean of the model's own last states.

Sources: Liu et al. 2021, What Makes Good In-Context Examples for GPT-3 (there, without balance); Zhao et al. 2021 for
the correction by a text without content, here one for each row, after the same examples. Letters: N rows, R training
rows, F features.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import PlanProblem
from tunesmith.tasks import Example, Load
from tunesmith.tasks.nearest import fit_texts
from tunesmith.tasks.prompting.likelihood import MODEL_CLASS, Likelihood, PromptExample, cut_prompt, lead_of
from tunesmith.tasks.prompting.templates import LABEL, Template
from tunesmith.tasks.text_classification import mean_states
from tunesmith.tasks.wording import Wording
from tunesmith.types import Record

if TYPE_CHECKING:
    from torch import nn

TFIDF, STATES, CHANCE = "tfidf", "states", "chance"
NEARNESS = (TFIDF, STATES, CHANCE)

_ROWS_AT_ONCE = 256  # texts that are compared with all training rows at once
_MOST_OF_ROOM = 4  # an example may fill the fourth part of the prompt
_STATE_TOKENS = 256  # of a text that its state is the mean of
_APART = "\n\n"  # between examples


class Shelf:
    """The rows that may be shown, and what of them is worked out when first asked for."""

    def __init__(self, rows: Sequence[Record], texts: Sequence[str]) -> None:
        self.rows = tuple(rows)
        self.texts = list(texts)
        self._states: tuple[Any, Any] | None = None  # the model that they are of, and (R, H)

    @functools.cached_property
    def features(self) -> tuple[Any, Any]:
        """The vectoriser, and the rows under it (R, F)."""
        found: tuple[Any, Any] = fit_texts(self.texts)
        return found

    def likeness(self, texts: Sequence[str], nearness: str, model: nn.Module, tokenizer: Any) -> Any:
        """Give how near each training row is to each text: (N, R)."""
        if nearness == TFIDF:
            vectorizer, known_RF = self.features
            return (vectorizer.transform(list(texts)) @ known_RF.T).toarray()
        if nearness == STATES:
            body = getattr(model, "module", model).base_model
            if self._states is None or self._states[0] is not body:
                self._states = body, mean_states(body, self.texts, tokenizer, _STATE_TOKENS)
            return mean_states(body, list(texts), tokenizer, _STATE_TOKENS) @ self._states[1].T
        return np.array([_chances(text, len(self.rows)) for text in texts])


def _chances(text: str, count: int) -> list[float]:
    """Give numbers drawn by the text itself: the same text is always shown the same rows."""
    generator = random.Random(text)
    return [generator.random() for _ in range(count)]


@dataclass(frozen=True)
class ShownExamples(Likelihood):
    """A classification task asked by likelihood, after labelled examples."""

    shots: int = 16  # most examples in a prompt
    nearness: str = TFIDF
    rows: tuple[Record, ...] = ()
    shelf: Shelf | None = field(default=None, compare=False, repr=False)

    def with_rows(self, records: Sequence[Record]) -> ShownExamples:
        """Give the task with the rows that it may show."""
        texts = [self._text_of(self.values_of(record)) for record in records]
        return dataclasses.replace(self, rows=tuple(records), shelf=Shelf(records, texts))

    def _text_of(self, values: Mapping[str, str]) -> str:
        return "\n".join(values.values())

    def empty_records(self) -> list[Record]:
        """Give one row without content: each asked row has its own examples, so each more would cost a prompt."""
        return super().empty_records()[1:]

    def prompts(
        self, model: nn.Module, examples: Sequence[Example], template: Template, wording: Wording, room: int
    ) -> list[list[tuple[int, ...]]]:
        """Give the prompt of each row, with its examples, and the same one about a text without content."""
        lead, found = lead_of(wording), []
        shown = self._shown(examples, template, wording, room // _MOST_OF_ROOM)
        for example, ranked in zip(examples, self._ranked(model, examples, wording), strict=True):
            asked = [cut_prompt(template, values, wording, room)[0] for values in self.asked_of(example)]
            before = _as_many_as_fit((shown(place) for place in ranked), room - max(map(len, asked)), self.shots)
            found.append([(*lead, *before, *prompt) for prompt in asked])
        return found

    def _shown(self, examples: Sequence[Example], template: Template, wording: Wording, room: int) -> Any:
        """Give a function that gives a training row as an example, cut to `room` tokens; each is made once."""
        assert self.shelf is not None, "the rows come with the plan, and with the bundle"
        rows = self.shelf.rows

        @functools.cache
        def make(place: int) -> tuple[int, ...]:
            label = self.wordings.words[rows[place].target][0]
            tail = wording.ids([label + _APART])[0]
            values = cut_prompt(template, self.values_of(rows[place]), wording, max(1, room - len(tail)))[1]
            return wording.ids([template.filled({**values, LABEL: label})[0] + _APART])[0]

        return make

    def _ranked(self, model: nn.Module, examples: Sequence[Example], wording: Wording) -> Any:
        """Yield for each row the places of the training rows in the order in which they are to be shown."""
        assert self.shelf is not None
        for first in range(0, len(examples), _ROWS_AT_ONCE):
            part = examples[first : first + _ROWS_AT_ONCE]
            texts = [self._text_of(one.values) if isinstance(one, PromptExample) else "" for one in part]
            for example, near_R in zip(
                part, self.shelf.likeness(texts, self.nearness, model, wording.tokenizer), strict=True
            ):
                yield self._balanced(near_R, example.record)

    def _balanced(self, near_R: Any, asked: Record | None) -> list[int]:
        """Give places of rows: the nearest of each label, then the second nearest of each, and so on.

        The asked row itself, which is among them when training rows are answered, is left out.
        """
        assert self.shelf is not None
        rows, seen = self.shelf.rows, dict.fromkeys(self.wordings.words, 0)
        turns: list[tuple[int, int, int]] = []
        for place in np.argsort(-near_R, kind="stable").tolist():
            label = rows[place].target
            is_own = asked is not None and (rows[place].id, rows[place].origin) == (asked.id, asked.origin)
            if is_own or label not in seen:
                continue
            turns.append((seen[label], len(turns), place))
            seen[label] += 1
        return [place for _, _, place in sorted(turns)]

    def zero_shot(
        self, load: Load, tokenizer: Any, records: Sequence[Record], *, labels: Sequence[str], max_length: int
    ) -> Any:
        """Answer without examples: what they brought is the difference."""
        bare = Likelihood(self.inner, self.wordings)
        examples = bare.encode(records, tokenizer, labels=labels, max_length=max_length)
        return bare.answer(load(MODEL_CLASS), examples, tokenizer=tokenizer, labels=labels, batch_tokens=4096)


def _as_many_as_fit(shown: Any, room: int, most: int) -> list[int]:
    """Give the ids of examples, at most so many and of at most `room` tokens in all; the first of them stands last.

    One that does not fit is passed over: a shorter one may.
    """
    chosen: list[tuple[int, ...]] = []
    passed = 0
    for tokens in shown:
        if len(chosen) == most or passed > most:
            break
        if len(tokens) <= room:
            chosen.append(tokens)
            room -= len(tokens)
        else:
            passed += 1
    return [token for tokens in reversed(chosen) for token in tokens]


def demand_nearness(nearness: str) -> None:
    """Refuse a way of comparing that does not exist.

    Raises:
        PlanProblem: It is none of those known.
    """
    if nearness not in NEARNESS:
        raise PlanProblem(f"examples_by is '{nearness}'", where="examples_by", do=f"use one of: {', '.join(NEARNESS)}")

"""A sentence with holes for texts and a label, and its token ids with the texts cut to what the model can read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import ModelProblem, PlanProblem

LABEL = "label"
BETWEEN = "||"  # parts several templates in one option
_HOLE = re.compile(r"\{(text|text_a|text_b|label)\}")
_ROWS_AT_ONCE = 1000  # sentences that go to the tokenizer at once


@dataclass(frozen=True)
class Template:
    """A sentence with holes, e.g. "{text} It was {label}."."""

    text: str

    @property
    def holes(self) -> tuple[str, ...]:
        """The names of the holes, in their order."""
        return tuple(_HOLE.findall(self.text))

    def filled(self, values: Mapping[str, str]) -> tuple[str, dict[str, tuple[int, int]]]:
        """Give the sentence, and where in it (first character, one after the last) each value stands."""
        sentence, places, last = "", {}, 0
        for hole in _HOLE.finditer(self.text):
            sentence += self.text[last : hole.start()]
            value = values[hole.group(1)]
            places[hole.group(1)] = (len(sentence), len(sentence) + len(value))
            sentence += value
            last = hole.end()
        return sentence + self.text[last:], places


@dataclass(frozen=True)
class Sentence:
    """A filled template as token ids."""

    tokens: tuple[int, ...]
    label_places: tuple[int, ...]  # which of them are the label's
    was_cut: bool  # whether a text had to be cut


def read_templates(text: str, holes: Sequence[str], *, is_label_last: bool = False) -> list[Template]:
    """Read one template, or several parted by ||.

    Args:
        text: As the recipe has it.
        holes: The holes that each template needs, each once and no other.
        is_label_last: Whether nothing may follow the label: a causal model is asked how it goes on.

    Raises:
        PlanProblem: A template lacks a hole, or has one that cannot be filled.
    """
    found = [Template(part.strip()) for part in text.split(BETWEEN)]
    wanted = " and ".join("{" + hole + "}" for hole in holes)
    for template in found:
        if sorted(template.holes) != sorted(holes):
            raise PlanProblem(
                f"the template '{template.text}' has to have {wanted}, each once, and no other hole",
                where="template",
                do=f"write it with {wanted}; several templates are parted by {BETWEEN}",
            )
        if is_label_last and not template.text.endswith("{label}"):
            raise PlanProblem(
                f"the template '{template.text}' goes on after {{label}}; a causal model can only be asked at the end",
                where="template",
                do="put {label} last",
            )
    return found


def demand_offsets(tokenizer: Any) -> None:
    """Refuse tokenizers that cannot say which characters a token stands for.

    Raises:
        ModelProblem: It is one of the old kind, written in Python.
    """
    if not tokenizer.is_fast:
        raise ModelProblem(
            "the tokenizer of this base model does not tell where in the text its tokens stand",
            where=str(tokenizer.name_or_path),
            do="choose a base model with tokenizer.json, or a method that does not ask by templates",
        )


def encode_filled(
    asked: Sequence[tuple[Template, Mapping[str, str]]], tokenizer: Any, max_length: int
) -> list[Sentence]:
    """Give the ids of filled templates; where one is too long its texts are cut, the longest first, and nothing else.

    Args:
        asked: Templates with the values of their holes. In the label's value the mask token counts as such.
        tokenizer: Of the base model; its special tokens frame each sentence.
        max_length: Tokens, special ones included.

    Raises:
        PlanProblem: A template is too long for the model even without a text.
    """
    found: list[Sentence] = []
    for first in range(0, len(asked), _ROWS_AT_ONCE):
        part = asked[first : first + _ROWS_AT_ONCE]
        filled = [template.filled(values) for template, values in part]
        encoded = _tokenised([sentence for sentence, _ in filled], tokenizer)
        for row, (template, values) in enumerate(part):
            one = (encoded["input_ids"][row], encoded["offset_mapping"][row], filled[row][1])
            was_cut = len(one[0]) > max_length
            while len(one[0]) > max_length:  # at most a few times: tokens may part in another way where a text ends
                values = _cut(values, one[1], one[2], over=len(one[0]) - max_length, template=template)
                sentence, places = template.filled(values)
                again = _tokenised([sentence], tokenizer)
                one = (again["input_ids"][0], again["offset_mapping"][0], places)
            label = one[2].get(LABEL, (0, 0))
            found.append(Sentence(tuple(one[0]), tuple(_inside(one[1], label)), was_cut))
    return found


def _tokenised(sentences: list[str], tokenizer: Any) -> Any:
    return tokenizer(sentences, return_offsets_mapping=True, verbose=False)


def _inside(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    """Give the tokens that end inside a span; some tokenizers count the space before a word as part of it."""
    return [place for place, (start, end) in enumerate(offsets) if start < end and span[0] < end <= span[1]]


def _cut(
    values: Mapping[str, str],
    offsets: Sequence[tuple[int, int]],
    places: Mapping[str, tuple[int, int]],
    *,
    over: int,
    template: Template,
) -> dict[str, str]:
    """Take tokens away from the ends of the texts, one by one from the longest, and give all values."""
    inside = {hole: _inside(offsets, span) for hole, span in places.items() if hole != LABEL}
    left = {hole: len(tokens) for hole, tokens in inside.items()}
    for _ in range(over):
        longest = max(left, key=lambda hole: left[hole], default="")
        if not longest or left[longest] == 0:
            raise PlanProblem(
                f"the template '{template.text}' is longer than the model can read, even without a text",
                where="template",
                do="write a shorter one, use shorter label words, or raise max_length",
            )
        left[longest] -= 1
    kept = dict(values)
    for hole, count in left.items():
        if count < len(inside[hole]):
            end = offsets[inside[hole][count]][0] - places[hole][0]
            kept[hole] = values[hole][: max(0, end)].rstrip()
    return kept


def cut_values(
    template: Template, values: Mapping[str, str], count: Callable[[str], Sequence[int]], room: int
) -> tuple[dict[str, str], bool]:
    """Cut texts, the longest first, until what stands before the label has at most `room` tokens.

    Args:
        template: With its label last.
        values: Of all holes but the label.
        count: Gives the token ids of a text.
        room: Tokens.

    Returns:
        The values, and whether anything was cut. For tokenizers that do not tell where their tokens stand, so a text
        is halved until it fits and grown again: a dozen tokenisations, and only for texts that are too long.

    Raises:
        PlanProblem: The template is too long even without a text.
    """

    def size(shares: Mapping[str, int]) -> int:
        cut = {hole: value[: shares[hole]] for hole, value in values.items()}
        return len(count(template.filled({**cut, LABEL: ""})[0].rstrip(" ")))

    lengths = {hole: len(value) for hole, value in values.items()}
    if size(lengths) <= room:
        return dict(values), False
    if size(dict.fromkeys(values, 0)) > room:
        raise PlanProblem(
            f"the template '{template.text}' is longer than the model can read, even without a text",
            where="template",
            do="write a shorter one, use shorter label words, or raise max_length",
        )
    low, high = 0, max(lengths.values())  # characters that every text may have; the longest are cut first
    while high - low > 1:
        middle = (low + high) // 2
        fits = size({hole: min(length, middle) for hole, length in lengths.items()}) <= room
        low, high = (middle, high) if fits else (low, middle)
    return {hole: value[:low] for hole, value in values.items()}, True

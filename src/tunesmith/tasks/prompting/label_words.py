"""By which words a label goes: what the person says, the label's own name, or words that are known for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from tunesmith.errors import PlanProblem

AUTO, NAMES, SEARCH = "auto", "names", "search"
_CODE = re.compile(r"[\W_]*([A-Za-z]{0,2}[\W_]*\d+|[A-Za-z])[\W_]*|(label|class|category|标签|类别|类)[\W_]*\d+", re.I)

Words = dict[str, list[str]]
"""Label -> the words that it goes by; all count the same."""


def read_label_words(text: str, labels: Sequence[str]) -> Words:
    """Read "label=word|word, label=word", or the same as a JSON object.

    Raises:
        PlanProblem: It cannot be read, names a label that is none, or leaves one out.
    """
    do = "write label=word|word,label=word, or a JSON object of lists where names hold commas or equals signs"
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise PlanProblem(f"label_words is not JSON: {error}", where="label_words", do=do) from error
        pairs = [(str(label), [words] if isinstance(words, str) else words) for label, words in content.items()]
    else:
        pairs = []
        for part in filter(str.strip, text.split(",")):
            label, equals, words = part.partition("=")
            if not equals:
                raise PlanProblem(f"label_words: '{part.strip()}' has no word", where="label_words", do=do)
            pairs.append((label.strip(), words.split("|")))
    found = {label: [str(word).strip() for word in words if str(word).strip()] for label, words in pairs}
    if strange := [label for label in found if label not in labels]:
        what = f"label_words names '{strange[0]}', which is no label of the training rows"
        raise PlanProblem(what, where="label_words", do=f"the labels are: {', '.join(labels)}")
    if missing := [label for label in labels if not found.get(label)]:
        raise PlanProblem(f"label_words has no word for '{missing[0]}'", where="label_words", do=do)
    return {label: found[label] for label in labels}


def name_words(labels: Sequence[str]) -> Words:
    """Give each label its own name, read as words: "card_arrival" as "card arrival"."""
    return {label: [re.sub(r"[_\-./]+", " ", label).strip() or label] for label in labels}


def is_code(label: str) -> bool:
    """Whether a name says nothing about what it means: a number, a letter, "C12", "label_3"."""
    return _CODE.fullmatch(label.strip()) is not None


def demand_distinct(words: Mapping[str, Sequence[str]]) -> None:
    """Refuse words that stand for two labels.

    Raises:
        PlanProblem: Two labels share a word.
    """
    owner: dict[str, str] = {}
    for label, each in words.items():
        for word in each:
            if owner.setdefault(word, label) != label:
                raise PlanProblem(
                    f"the word '{word}' stands for two labels, '{owner[word]}' and '{label}'",
                    where="label_words",
                    do="give every label words of its own",
                )

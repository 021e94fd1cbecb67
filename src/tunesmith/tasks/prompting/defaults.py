"""Templates and words that are used where a person gives none, in English and in Chinese.

What is asked depends on what the labels are: how good something is, what two texts have to do with each other, or what
a text is about. Nothing here was tuned on data; sentences for feelings follow Gao et al. 2021 (LM-BFF), those for two
texts Schick & Schütze 2021 (PET).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.tasks.prompting.label_words import Words
from tunesmith.tasks.text_pair import alike_place

CLOZE, ENTAILMENT, EMBEDDING, LIKELIHOOD = "cloze", "entailment", "embedding", "likelihood"
WAYS = (CLOZE, ENTAILMENT, EMBEDDING, LIKELIHOOD)

FEELING, RELATION, TOPIC = "feeling", "relation", "topic"  # what labels may be about

_GOOD = {"positive", "pos", "good", "great", "正面", "积极", "好评", "正向", "褒义", "好", "正"}
_BAD = {"negative", "neg", "bad", "poor", "terrible", "负面", "消极", "差评", "负向", "贬义", "差", "坏", "负"}
_MIDDLE = {"neutral", "中性", "中评", "一般", "mixed"}
_FEELING_WORDS = {
    "en": (["great", "good"], ["terrible", "bad"], ["okay"]),
    "zh": (["好", "棒"], ["差", "糟"], ["一般"]),
}
_ENTAILED, _OPEN, _REFUTED = (
    {"entailment", "entailed", "entails", "蕴含"},
    {"neutral", "unknown", "中立", "中性"},
    {"contradiction", "contradicts", "矛盾"},
)
_RELATION_WORDS = {"en": (["Yes"], ["Maybe"], ["No"]), "zh": (["是", "对"], ["或"], ["不", "否"])}

_TEMPLATES: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]] = {
    CLOZE: {
        "en": {
            FEELING: ("{text} It was {label}.", "{text} All in all, {label}.", "Just {label}! {text}"),
            TOPIC: ("{text} This is about {label}.", "{label}: {text}", "A text about {label}: {text}"),
            RELATION: ("{text_a}? {label}, {text_b}", "{text_a} {label}, {text_b}"),
        },
        "zh": {
            FEELING: ("{text}。总之很{label}。", "真{label}！{text}", "觉得很{label}。{text}"),
            TOPIC: ("{text}。这段话说的是{label}。", "{label}：{text}", "下面是{label}的内容：{text}"),
            RELATION: ("{text_a}？{label}，{text_b}", "{text_a}。{label}，{text_b}"),
        },
    },
    ENTAILMENT: {
        "en": {FEELING: ("It was {label}.",), TOPIC: ("This text is about {label}.",)},
        "zh": {FEELING: ("总之很{label}。",), TOPIC: ("这段话说的是{label}。",)},
    },
    EMBEDDING: {
        "en": {FEELING: ("{label}",), TOPIC: ("{label}",)},
        "zh": {FEELING: ("{label}",), TOPIC: ("{label}",)},
    },
    LIKELIHOOD: {
        "en": {
            FEELING: ("{text}\nIt was {label}",),
            TOPIC: ("{text}\nTopic: {label}",),
            RELATION: ("{text_a}\n{text_b}\nAnswer: {label}",),
        },
        "zh": {
            FEELING: ("{text}\n总之很{label}",),
            TOPIC: ("{text}\n类别：{label}",),
            RELATION: ("{text_a}\n{text_b}\n回答：{label}",),
        },
    },
}


def kind_of(labels: Sequence[str], *, is_pair: bool) -> str:
    """Tell what the labels are about: a feeling, a relation of two texts, or a topic."""
    if is_pair:
        return RELATION
    known = _GOOD | _BAD | _MIDDLE
    return FEELING if all(label.strip().casefold() in known for label in labels) else TOPIC


def templates_for(way: str, language: str, kind: str) -> Sequence[str]:
    """Give the templates for a way of asking (see `WAYS`), a language (en, zh) and a kind of labels."""
    return _TEMPLATES[way][language][kind]


def known_words(labels: Sequence[str], language: str, kind: str) -> Words | None:
    """Give the words that are known for such labels; None where they are not."""
    if kind == FEELING:
        return _matched(labels, (_GOOD, _BAD, _MIDDLE), _FEELING_WORDS[language])
    if kind != RELATION:
        return None
    found = _matched(labels, (_ENTAILED, _OPEN, _REFUTED), _RELATION_WORDS[language])
    alike = alike_place(labels)
    if found is None and alike is not None:
        yes, _, no = _RELATION_WORDS[language]
        found = {label: list(yes if place == alike else no) for place, label in enumerate(labels)}
    return found


def _matched(labels: Sequence[str], sets: Sequence[set[str]], words: Sequence[Sequence[str]]) -> Words | None:
    """Give each label the words of the set of names that it is in; None unless each label is in one of its own."""
    places = [next((at for at, names in enumerate(sets) if label.strip().casefold() in names), -1) for label in labels]
    if -1 in places or len(set(places)) < len(labels):
        return None
    return {label: list(words[place]) for label, place in zip(labels, places, strict=True)}

"""Counts of characters: probabilities that add up, hand-worked discounts, prompts, and what was never seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tunesmith.tasks import character_ngrams
from tunesmith.tasks.character_ngrams import CharacterNgrams

TEXTS = ["abracadabra", "床前明月光", "cab", "", "bad cab"]


def chance(model: CharacterNgrams, before: str, mark: str) -> float:
    """Give the probability of one character (or of the end, for "") after others."""
    if mark:
        return math.exp(-(model.nats([before + mark], [len(before)])[0] - end(model, before + mark)))
    return math.exp(-end(model, before))


def end(model: CharacterNgrams, text: str) -> float:
    return float(model.nats([text], [len(text)])[0])


@pytest.mark.parametrize("before", ["", "a", "ab", "abr", "abracadab", "zzz", "床前", "cab"])
def test_the_probabilities_of_what_may_follow_add_up_to_one(before):
    model = CharacterNgrams().fit(TEXTS)
    known = sum(chance(model, before, mark) for mark in sorted(set("".join(TEXTS))))
    strange = chance(model, before, "\u2603") * (150_000 - len(set("".join(TEXTS))) - 1)
    assert known + chance(model, before, "") + strange == pytest.approx(1.0, abs=1e-6)


def test_single_characters_are_counted_by_hand():
    # Of order 1 only: a, b, b and two ends, so five events. One count of 1, two of 2: the discounts are all bounds.
    model = CharacterNgrams(order=1).fit(["ab", "b"])
    ones, twos = 1, 2
    share = ones / (ones + 2 * twos)
    one, two = max(1 - 2 * share * twos / ones, 0.1), 2 - 3 * share * 1 / twos
    given = one + 2 * two
    assert chance(model, "", "a") == pytest.approx((1 - one) / 5 + given / 5 / 150_000)
    assert chance(model, "", "b") == pytest.approx((2 - two) / 5 + given / 5 / 150_000)


def test_shorter_contexts_count_places_and_not_times():
    # "x" stands three times, always after "a"; "y" twice, after two different characters.
    model = CharacterNgrams(order=2).fit(["ax", "ax", "ax", "by", "cy"])
    assert chance(model, "q", "y") > chance(model, "q", "x")


def test_a_prompt_is_context_and_not_measured():
    model = CharacterNgrams().fit(["the cat sat", "the cat ran"])
    whole, rest = model.nats(["the cat sat", "the cat sat"], [0, 8])
    assert rest < whole
    assert model.nats(["the cat sat"], [8])[0] < model.nats(["sat"])[0]


def test_what_was_learnt_is_likelier_than_what_was_not():
    model = CharacterNgrams().fit(["春眠不觉晓", "处处闻啼鸟", "the birds sing"])
    nats = model.nats(["春眠不觉晓", "晓觉不眠春"])
    assert nats[0] < nats[1]
    assert np.isfinite(model.nats(["\u2603 never seen", ""])).all()


def test_it_stops_counting_where_it_says(monkeypatch):
    monkeypatch.setattr(character_ngrams, "MOST_CHARACTERS", 4)
    cut, short = CharacterNgrams().fit(["abcdef", "xyz"]), CharacterNgrams().fit(["abcd"])
    assert cut.nats(["abx"]) == pytest.approx(short.nats(["abx"]))

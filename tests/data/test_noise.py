"""Mistakes on purpose: what they change, and what they leave."""

from __future__ import annotations

import difflib

import pytest

from tunesmith.data.noise import NOISES, disturbed, letters_of

TEXTS = {
    "english": "The parcel that I ordered in May has still not arrived, and nobody answers my letters at all.",
    "chinese": "我五月份订购的包裹到现在还没有送到，写信给客服也一直没有人回复，真的非常失望。",
    "mixed": "我的 iPhone 昨天 broken 了，客服 said 要等 three 个星期。",
}
LETTERS = letters_of(list(TEXTS.values()))


def noisy(text: str, noise: str, strength: float, seed: int = 0) -> str:
    return disturbed(text, noise, strength, seed=seed, letters=LETTERS)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", TEXTS)
def test_the_same_seed_gives_the_same_mistakes_and_another_others(name, noise):
    text = TEXTS[name]
    assert noisy(text, noise, 0.2) == noisy(text, noise, 0.2) != text
    assert len({noisy(text, noise, 0.2, seed) for seed in range(5)}) > 1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("name", TEXTS)
def test_more_strength_changes_more(name, noise):
    likeness = [
        difflib.SequenceMatcher(None, TEXTS[name], noisy(TEXTS[name], noise, strength), autojunk=False).ratio()
        for strength in (0.0, 0.05, 0.2, 0.5)
    ]
    assert likeness[0] == 1.0
    assert likeness == sorted(likeness, reverse=True)
    assert likeness[-1] < 0.9


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("text", ["", " ", "a", "中", "!?", "\n"])
def test_tiny_texts_stay_texts(text, noise):
    found = noisy(text, noise, 1.0)
    assert isinstance(found, str)
    if noise.startswith("word"):
        assert found == text


def test_replaced_characters_keep_length_and_script():
    text = TEXTS["mixed"]
    found = noisy(text, "characters", 0.5)
    assert len(found) == len(text)
    changed = [(one, other) for one, other in zip(text, found, strict=True) if one != other]
    assert len(changed) == pytest.approx(0.5 * sum(one.isalnum() for one in text), abs=1)
    assert all((one > "\u3000") == (other > "\u3000") for one, other in changed)


def test_words_are_exchanged_or_left_out_and_no_others_come():
    words = TEXTS["english"].split()
    assert sorted(noisy(TEXTS["english"], "word swaps", 0.3).split()) == sorted(words)
    left = noisy(TEXTS["english"], "word deletions", 0.3)
    assert len(left.split()) == pytest.approx(0.7 * len(words), abs=1)
    waiting = iter(words)
    assert all(word in waiting for word in left.split()), "in their order"
    assert "  " not in left
    assert left == left.strip()
    assert len(noisy(TEXTS["english"], "word deletions", 1.0).split()) == 1
    assert set(noisy(TEXTS["chinese"], "word swaps", 0.3)) == set(TEXTS["chinese"])


def test_typos_are_slips_of_the_hand():
    """Each letter alone: beside it on the keyboard, gone, or twice."""
    seen = {noisy("g", "typos", 1.0, seed) for seed in range(60)}
    assert seen <= {"", "gg", *"rtyfhvbn"}
    assert {"", "gg"} < seen
    assert {noisy("G", "typos", 1.0, seed) for seed in range(60)} <= {"", "GG", *"RTYFHVBN"}

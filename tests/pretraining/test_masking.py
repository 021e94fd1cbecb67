"""Tests of `tunesmith.pretraining.masking`: shares, whole words, and a slow plain reference."""

from __future__ import annotations

import pytest
import torch

from tunesmith.pretraining.masking import choose_words, hide


def slow_choice(starts, may, chance, share):
    """The same rule, one row and one word at a time."""
    chosen = []
    for row_starts, row_may, row_chance in zip(starts.tolist(), may.tolist(), chance.tolist(), strict=True):
        words: list[list[int]] = []
        for place, is_start in enumerate(row_starts):
            if is_start:
                words.append([])
            words[-1].append(place)
        turns = sorted((row_chance[word[0]], word) for word in words if all(row_may[place] for place in word))
        row, used = [False] * len(row_starts), 0
        for _, word in turns:
            again = float((torch.tensor(row_chance[word[0]]) * 997.0) % 1.0) if len(word) > 1 else 0.5
            if used + len(word) * again <= share * sum(row_may):
                for place in word:
                    row[place] = True
            used += len(word)
        chosen.append(row)
    return torch.tensor(chosen)


def draw(rows: int, length: int, seed: int = 0, word_share: float = 0.6):
    generator = torch.Generator().manual_seed(seed)
    starts = torch.rand(rows, length, generator=generator) < word_share
    may = torch.ones(rows, length, dtype=torch.bool)
    may[:, 0] = may[:, -1] = False
    starts[:, 0] = starts[:, 1] = starts[:, -1] = True
    return starts, may, torch.rand(rows, length, generator=generator)


@pytest.mark.parametrize("word_share", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.15, 0.4])
def test_the_batch_is_chosen_as_a_slow_reference_chooses(word_share, share):
    starts, may, chance = draw(20, 50, seed=1, word_share=word_share)
    assert torch.equal(choose_words(starts, may, chance, share), slow_choice(starts, may, chance, share))


def test_words_are_chosen_whole_and_special_tokens_never():
    starts, may, chance = draw(50, 128)
    chosen = choose_words(starts, may, chance, 0.15)
    goes_on = ~starts[:, 1:]
    assert torch.equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])
    assert not (chosen & ~may).any()


def test_the_share_is_exact_for_tokens_and_unbiased_for_words():
    starts, may, chance = draw(200, 130)
    tokens = choose_words(torch.ones_like(starts), may, chance, 0.15)
    assert set(tokens.sum(1).tolist()) == {round(0.15 * 128)}
    words = choose_words(starts, may, chance, 0.15)
    assert abs(float(words.sum() / may.sum()) - 0.15) < 0.003


@pytest.mark.parametrize("size", [12, 30, 40])
def test_long_words_do_not_move_the_mean(size):
    starts, may, chance = draw(4000, 128)
    starts[:] = False
    starts[:, 0] = starts[:, -1] = True
    starts[:, 1::size] = True
    assert abs(float(choose_words(starts, may, chance, 0.15).sum() / may.sum()) - 0.15) < 0.01


def test_every_place_is_chosen_equally_often():
    starts, may, chance = draw(4000, 34, word_share=1.0)
    often = choose_words(starts, may, chance, 0.15).float().mean(0)[1:-1]
    assert float((often - 5 / 32).abs().max()) < 0.03


def test_eighty_ten_ten():
    tokens = torch.full((200, 100), 7)
    chosen = torch.rand(200, 100, generator=torch.Generator().manual_seed(1)) < 0.5
    chance = torch.rand(200, 100, 2, generator=torch.Generator().manual_seed(2))
    hidden = hide(tokens, chosen, chance, mask_id=4, ordinary=torch.arange(10, 30))
    assert torch.equal(hidden[~chosen], tokens[~chosen])
    of_chosen = hidden[chosen]
    assert abs(float((of_chosen == 4).float().mean()) - 0.8) < 0.015
    assert abs(float((of_chosen == 7).float().mean()) - 0.1) < 0.015
    others = of_chosen[(of_chosen != 4) & (of_chosen != 7)]
    assert set(others.tolist()) == set(range(10, 30))


def test_masks_follow_the_chance_and_nothing_else():
    starts, may, chance = draw(4, 60)
    assert torch.equal(choose_words(starts, may, chance, 0.2), choose_words(starts, may, chance.clone(), 0.2))
    assert not torch.equal(choose_words(starts, may, chance, 0.2), choose_words(starts, may, 1 - chance, 0.2))

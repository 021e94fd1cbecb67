"""Tests of `tunesmith.pretraining.spans`: the counts of the paper, and nothing lost."""

from __future__ import annotations

import pytest
import torch

from tunesmith.pretraining.spans import choose_spans, count_spans, raw_length, with_sentinels


def corrupt(rows: int, raw: int, seed: int = 0, share: float = 0.15, mean: float = 3.0):
    tokens = torch.arange(rows * raw).view(rows, raw) + 1000
    hidden, spans = count_spans(raw, share, mean)
    chance = torch.rand(rows, raw, 2, generator=torch.Generator().manual_seed(seed))
    is_hidden, is_start = choose_spans(chance, hidden, spans)
    sentinels = torch.arange(spans)
    return tokens, is_hidden, is_start, *with_sentinels(tokens, is_hidden, is_start, sentinels), spans


def restored(inputs: list[int], targets: list[int], spans: int) -> list[int]:
    """Put what follows each sentinel in the target back into the sentinel's place in the input."""
    parts: dict[int, list[int]] = {}
    for token in targets:
        if token < spans:
            parts[token] = []
            last = token
        else:
            parts[last].append(token)
    return [token for piece in inputs for token in (parts[piece] if piece < spans else [piece])]


@pytest.mark.parametrize("raw", [8, 33, 114, 568])
def test_input_and_target_together_are_the_text(raw):
    tokens, is_hidden, _, inputs, targets, spans = corrupt(20, raw)
    for row in range(20):
        assert restored(inputs[row].tolist(), targets[row].tolist(), spans) == tokens[row].tolist()
    hidden, _ = count_spans(raw, 0.15, 3.0)
    assert set(is_hidden.sum(1).tolist()) == {hidden}
    assert inputs.shape[1] == raw - hidden + spans
    assert targets.shape[1] == hidden + spans


def test_the_counts_are_those_of_t5():
    assert count_spans(568, 0.15, 3.0) == (85, 28)
    assert raw_length(512, 0.15, 3.0, ends=1) == 568  # as the paper's code has it for inputs of 512 tokens


@pytest.mark.parametrize("length", range(16, 300, 7))
@pytest.mark.parametrize("ends", [1, 2])
def test_the_corrupted_input_is_exactly_as_long_as_asked(length, ends):
    raw = raw_length(length, 0.15, 3.0, ends)
    hidden, spans = count_spans(raw, 0.15, 3.0)
    assert raw - hidden + spans + ends == length


def test_spans_are_apart_and_others_every_time():
    _, is_hidden, is_start, *_ = corrupt(50, 120)
    assert (is_start.sum(1) == count_spans(120, 0.15, 3.0)[1]).all()
    assert not is_hidden[:, 0].any()
    assert torch.equal(is_start[:, 1:], is_hidden[:, 1:] & ~is_hidden[:, :-1])
    assert len({tuple(row) for row in is_hidden.tolist()}) == 50


def test_every_cut_is_as_likely_as_any_other():
    """Six hidden tokens in three spans: ten ways to cut them."""
    chance = torch.rand(20_000, 12, 2, generator=torch.Generator().manual_seed(0))
    is_hidden, is_start = choose_spans(chance, 6, 3)
    ways: dict[tuple[int, ...], int] = {}
    for starts in is_start[is_hidden].view(-1, 6).tolist():
        ways[tuple(starts)] = ways.get(tuple(starts), 0) + 1
    assert len(ways) == 10
    assert all(abs(count - 2000) < 200 for count in ways.values())

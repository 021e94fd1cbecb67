"""Which spans of a block are hidden from an encoder-decoder, and the input and target that come of it.

All rows of a batch have as many hidden tokens and spans as their length says, so inputs and targets are full and need
no padding. Letters: B rows, R raw tokens, S spans.

Source: Raffel et al. 2020, section 3.1.4 and 3.3.4 (15% in spans of mean length 3, a sentinel for each);
Lewis et al. 2020, section 2.2 (text infilling: one mask for each span, the whole text as target; their span lengths
are drawn from a Poisson distribution and may be 0, ours are at least 1 and sum up to the share exactly).
"""

from __future__ import annotations

import torch

CHANCES = 2  # independent draws that a token needs: is it a border between hidden spans, between kept ones


def count_spans(raw: int, share: float, mean: float) -> tuple[int, int]:
    """Give how many tokens of `raw` are hidden, and in how many spans (at least 1, and some token is always kept)."""
    hidden = min(max(round(raw * share), 1), raw - 1)
    spans = min(max(round(hidden / mean), 1), hidden, raw - hidden)
    return hidden, spans


def raw_length(length: int, share: float, mean: float, ends: int) -> int:
    """Give the raw tokens whose corrupted input has exactly `length` tokens, with `ends` special ones besides."""
    raw = length - ends
    while True:
        hidden, spans = count_spans(raw, share, mean)
        if raw - hidden + spans + ends >= length:
            return raw
        raw += 1


def choose_spans(chance_BR2: torch.Tensor, hidden: int, spans: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw spans: every way to cut the hidden tokens, and the kept ones, into `spans` parts is as likely as any other.

    Kept and hidden parts take turns, a kept one first.

    Returns:
        (B, R) booleans: whether a token is hidden; and whether a hidden span starts with it.
    """
    rows, raw, _ = chance_BR2.shape
    hidden_BS = _cut(chance_BR2[..., 0], hidden, spans)
    kept_BS = _cut(chance_BR2[..., 1], raw - hidden, spans)
    ends = torch.stack([kept_BS, hidden_BS], -1).flatten(1).cumsum(1)  # (B, 2S): where each part ends
    borders = torch.zeros(rows, raw + 1, dtype=torch.long)
    borders.scatter_(1, ends, 1)
    part_BR = borders[:, :raw].cumsum(1)  # number of the part that a token is in; odd parts are hidden
    is_hidden_BR = part_BR % 2 == 1
    is_start_BR = is_hidden_BR & (borders[:, :raw] == 1)
    return is_hidden_BR, is_start_BR


def _cut(chance_BR: torch.Tensor, items: int, parts: int) -> torch.Tensor:
    """Cut `items` into `parts` lengths (B, S), each at least 1, by drawing parts - 1 of the items - 1 borders."""
    rows = len(chance_BR)
    borders = chance_BR[:, : items - 1].argsort(1)[:, : parts - 1].sort(1).values + 1
    edges = torch.cat([torch.zeros(rows, 1).long(), borders, torch.full((rows, 1), items)], 1)
    return edges.diff(dim=1)


def with_sentinels(
    tokens_BR: torch.Tensor, is_hidden_BR: torch.Tensor, is_start_BR: torch.Tensor, sentinels_S: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the input, with a sentinel for each hidden span, and the target, the sentinels with what they hide.

    Args:
        tokens_BR: Raw tokens.
        is_hidden_BR: Whether a token is hidden.
        is_start_BR: Whether a hidden span starts with it.
        sentinels_S: Ids; where all are the same, this is the input of text infilling.

    Returns:
        Input (B, R - hidden + S) and target (B, hidden + S), both without special tokens at their ends.
    """
    rows = len(tokens_BR)
    number_BR = (is_start_BR.long().cumsum(1) - 1).clamp(min=0)
    sentinel_BR = sentinels_S[number_BR]
    inputs = torch.where(is_start_BR, sentinel_BR, tokens_BR)[~is_hidden_BR | is_start_BR].view(rows, -1)
    both = torch.stack([sentinel_BR, tokens_BR], -1)
    targets = both[torch.stack([is_start_BR, is_hidden_BR], -1)].view(rows, -1)
    return inputs, targets

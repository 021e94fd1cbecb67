"""Which tokens are hidden from a masked-language model, whole words at a time, and what stands in their place.

All of it works on a batch at once and takes its chance as an argument, so that training draws new masks in every epoch
and validation always the same. Letters: B rows, T tokens, V vocabulary.

Source: Devlin et al. 2019, section 3.1 (15%; 80% [MASK], 10% another token, 10% as it was); Cui et al. 2021 (whole
words in Chinese). As in the published code, the 80/10/10 is drawn for each token of a word by itself.
"""

from __future__ import annotations

import torch

CHANCES = 3  # independent draws that a token needs: is it hidden, by what kind of token, by which
_MASKED, _SWAPPED = 0.8, 0.1
_DIGITS = 997.0


def choose_words(starts_BT: torch.Tensor, may_BT: torch.Tensor, chance_BT: torch.Tensor, share: float) -> torch.Tensor:
    """Choose whole words, in random order, until `share` of the tokens of each row is reached.

    The word that crosses the limit is taken with the chance that equals its share before the limit, so that long words
    do not move the mean (a row of a few very long words may then have more hidden, or nothing). With every token a
    word, exactly round(share * n) of n tokens are chosen.

    Args:
        starts_BT: Whether a word starts at this token.
        may_BT: Whether the token may be hidden (it is not special). A word is all tokens to the next start.
        chance_BT: Uniform in 0..1; a word takes its first token's.
        share: Of the tokens that may be hidden, 0..1.

    Returns:
        (B, T) booleans.
    """
    rows, length = starts_BT.shape
    word_BT = starts_BT.long().cumsum(1)  # from 0 (what stands before the first start) to the number of words
    first_BW = torch.full((rows, length + 2), 2.0)  # the last place takes what no word starts with
    first_BW.scatter_(1, word_BT.masked_fill(~starts_BT, length + 1), chance_BT)
    turn_BT = first_BW.gather(1, word_BT).masked_fill(~may_BT, 3.0)
    order_BT = turn_BT.argsort(dim=1, stable=True)
    rank_BT = torch.empty_like(order_BT)
    rank_BT.scatter_(1, order_BT, torch.arange(length).expand(rows, length).contiguous())
    middle_BW = torch.zeros(rows, length + 2).scatter_add_(1, word_BT, (rank_BT + 0.5) * may_BT)
    size_BW = torch.zeros(rows, length + 2).scatter_add_(1, word_BT, may_BT.float())
    middle_BT = (middle_BW / size_BW.clamp(min=1)).gather(1, word_BT)  # of the word, on the line of ranks
    size_BT = size_BW.gather(1, word_BT)
    # Another chance of the same word: digits of its first one that its place in the order does not depend on.
    again_BT = torch.where(size_BT > 1, (turn_BT * _DIGITS) % 1.0, 0.5)
    limit_B1 = share * may_BT.sum(1, keepdim=True)
    return may_BT & (middle_BT + (again_BT - 0.5) * size_BT <= limit_B1)


def hide(
    tokens_BT: torch.Tensor, chosen_BT: torch.Tensor, chance_BT2: torch.Tensor, *, mask_id: int, ordinary: torch.Tensor
) -> torch.Tensor:
    """Put [MASK] in the place of 80% of the chosen tokens, another token in 10%, and leave 10%.

    Args:
        tokens_BT: Token ids.
        chosen_BT: Which of them are to be predicted.
        chance_BT2: Uniform in 0..1: what kind of replacement, and which token.
        mask_id: Of [MASK].
        ordinary: Ids that may stand in: all that are not special.
    """
    kind_BT, which_BT = chance_BT2.unbind(-1)
    others_BT = ordinary[(which_BT * len(ordinary)).long().clamp(max=len(ordinary) - 1)]
    is_masked_BT = chosen_BT & (kind_BT < _MASKED)
    is_swapped_BT = chosen_BT & (kind_BT >= _MASKED) & (kind_BT < _MASKED + _SWAPPED)
    return torch.where(is_masked_BT, mask_id, torch.where(is_swapped_BT, others_BT, tokens_BT))

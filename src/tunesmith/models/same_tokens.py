"""Whether two tokenizers read alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def same_tokens(one: Any, other: Any, texts: Sequence[str]) -> bool:
    """Whether two tokenizers read alike: the same vocabulary, and the same ids for some texts."""
    if one.get_vocab() != other.get_vocab():
        return False
    return all(one(text)["input_ids"] == other(text)["input_ids"] for text in texts)

"""When two texts count as the same: one normal form, and a short key for it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from typing import Any


def normalise_text(text: str) -> str:
    """Give the form in which texts are compared: NFKC, case folded, white space collapsed to single spaces.

    The form is stable: normalising it again changes nothing.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    while True:
        # Folding can undo NFKC and the other way round (a few Greek and combining letters): repeat until both hold.
        folded = unicodedata.normalize("NFKC", " ".join(unicodedata.normalize("NFKC", text).casefold().split()))
        if folded == text:
            return folded
        text = folded


def text_key(text: str) -> int:
    """Give a 64-bit key of the normal form; among ten million texts, two unlike ones share a key by 3 in a million."""
    return _key(normalise_text(text))


def fields_key(fields: Mapping[str, Any]) -> int:
    """Give a 64-bit key over all fields of a record in their normal form."""
    return _key("\x1e".join(f"{role}\x1f{normalise_text(str(fields[role]))}" for role in sorted(fields)))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")

"""Where words begin in a row of token ids, for tokenizers of all kinds; and in Chinese text, by jieba.

Three facts about each entry of a vocabulary decide, so that a whole batch is decided at once:
- inside: it never begins a word (##ing; bytes in the middle of a character);
- joins: it goes on with a word whose letters stand right before it (ing, where a new word would be Ġing or ▁ing);
- is_open: it ends in such letters.
A Chinese character is a word by itself unless words come from a segmenter.
"""

from __future__ import annotations

import logging
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers

from tunesmith.errors import MissingExtra


@dataclass(frozen=True)
class WordRules:
    """The three facts, each (V) boolean, and which entries are special tokens."""

    inside_V: torch.Tensor
    joins_V: torch.Tensor
    is_open_V: torch.Tensor
    special_V: torch.Tensor

    def starts(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Give (B, T) booleans: whether a word starts here. A special token is a word; after one, a word starts."""
        goes_on_BT = self.inside_V[tokens_BT]
        goes_on_BT[:, 1:] |= self.joins_V[tokens_BT[:, 1:]] & self.is_open_V[tokens_BT[:, :-1]]
        special_BT = self.special_V[tokens_BT]
        goes_on_BT &= ~special_BT
        goes_on_BT[:, 1:] &= ~special_BT[:, :-1]
        goes_on_BT[:, 0] = False
        return ~goes_on_BT


def find_word_rules(tokenizer: Any) -> WordRules:
    """Read the facts off a tokenizer's vocabulary: WordPiece by ##, byte-level BPE by bytes, SentencePiece by ▁."""
    size = len(tokenizer)
    entries = [str(entry) for entry in tokenizer.convert_ids_to_tokens(range(size))]
    special = set(tokenizer.all_special_ids)
    kind = _kind(entries)
    facts = np.zeros((4, size), dtype=bool)
    for index, entry in enumerate(entries):
        if index in special:
            facts[3, index] = True
        elif kind == "##":
            facts[0, index] = entry.startswith("##")
        elif kind == "Ġ":
            facts[:3, index] = _byte_facts(_bytes_of(entry))
        elif kind == "▁":
            facts[1, index] = _is_letter(entry[:1])
            facts[2, index] = _is_letter(entry[-1:])
    return WordRules(*torch.from_numpy(facts))


def _kind(entries: list[str]) -> str:
    counts = {mark: sum(entry.startswith(mark) for entry in entries) for mark in ("##", "Ġ", "▁")}
    kind = max(counts, key=lambda mark: counts[mark])
    return kind if counts[kind] > len(entries) // 200 or kind == "Ġ" else ""


def _alphabet() -> dict[str, int]:
    """Give the byte behind each character of byte-level BPE: those that print stand for themselves, in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _alphabet()
assert set(_BYTES) == set(pre_tokenizers.ByteLevel.alphabet())


def _bytes_of(entry: str) -> bytes:
    return bytes(_BYTES[character] for character in entry if character in _BYTES)


def _byte_facts(data: bytes) -> tuple[bool, bool, bool]:
    """Give (inside, joins, is_open) of an entry by its bytes; 10xxxxxx goes on with a character."""
    if not data:
        return False, False, False
    inside = data[0] & 0xC0 == 0x80
    first = data.decode("utf-8", "ignore")[:1] if not inside else ""
    last = data.decode("utf-8", "ignore")[-1:]
    return inside, _is_letter(first), _is_letter(last)


def _is_letter(character: str) -> bool:
    """Whether the character makes words with its neighbours: letters and digits, but no Chinese ones or Kana."""
    return character.isalnum() and not unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


def load_segmenter() -> Callable[[str], Iterator[int]]:
    """Give a function that yields where the words of a text start, in characters, by jieba.

    Raises:
        MissingExtra: jieba is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is older than today's regular expressions and packaging
            import jieba  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtra(
            "masking by segmentation needs jieba, which is not installed",
            where="masking",
            do="pip install 'tunesmith[chinese]', or use --masking whole-word",
        ) from error
    jieba.setLogLevel(logging.ERROR)
    segmenter = jieba.Tokenizer()
    with tempfile.TemporaryDirectory() as private:  # it would read a cache that anybody may have put into /tmp
        segmenter.tmp_dir = private
        segmenter.initialize()

    def starts(text: str) -> Iterator[int]:
        for _, start, _ in segmenter.tokenize(text):
            yield start

    return starts

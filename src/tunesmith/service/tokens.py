"""Count tokens for the `usage` that OpenAI's clients read, with the tokenizer that lies in the run."""

from __future__ import annotations

import asyncio
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.service.answering import ServedModel

_CHARACTERS_OF_A_TOKEN = 4  # where a run has no tokenizer file that can be read without its model


@dataclass(frozen=True)
class Counting:
    """How a run counts."""

    tokenizer: Any  # of `tokenizers`; None where there is none
    most_new_tokens: int  # that its answers may have where a request says nothing; 0: nobody knows

    def count(self, text: str) -> int:
        """Give the tokens of a text, without special ones; about a quarter of its characters where nobody can count."""
        if not text:
            return 0
        if self.tokenizer is None:
            return max(1, math.ceil(len(text) / _CHARACTERS_OF_A_TOKEN))
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


async def counting_of(model: ServedModel) -> Counting:
    """Give how a model counts; read once for each bundle, in a thread, because vocabularies are large."""
    return await asyncio.to_thread(_read, model.run, model.bundle)


@functools.lru_cache(maxsize=8)
def _read(run: Path, bundle: str) -> Counting:
    return Counting(_tokenizer(run / "tokenizer.json"), _most_new_tokens(run / "plan.json"))


def _tokenizer(path: Path) -> Any:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # the library raises bare Exception; the model itself, which answers, may read it otherwise
        return None


def _most_new_tokens(path: Path) -> int:
    try:
        most = json.loads(path.read_text(encoding="utf-8"))["options"]["max_new_tokens"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return most if isinstance(most, int) else 0

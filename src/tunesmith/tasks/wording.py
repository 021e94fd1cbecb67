"""Between text and token ids for models that write: what frames a text, where it may be cut, how ids become text again.

The tokenizer knows the folder that it was read from; the model's configuration stands beside it and tells whether the
model reads and writes in one stream (causal) or has an encoder that reads and a decoder that writes.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import PlanProblem

_CJK = r"\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_NEEDLESS_SPACE = re.compile(rf"(?<=[{_CJK}]) +| +(?=[{_CJK}])")
_ROWS_AT_ONCE = 1000  # texts that go to the tokenizer at once


def base_class(config: Any) -> str | None:
    """Give the Transformers auto class by which a base model writes; None where it has no way to.

    An encoder such as BERT can be built as a causal model, but was never one; only a configuration that calls it a
    decoder makes it so.
    """
    from transformers.models.auto import modeling_auto as known

    kind = str(getattr(config, "model_type", ""))
    if getattr(config, "is_encoder_decoder", False) and kind in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForSeq2SeqLM"
    is_encoder = kind in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not is_encoder:
        return "AutoModelForCausalLM"
    return None


def is_causal(tokenizer: Any) -> bool:
    """Whether the model beside the tokenizer reads and writes in one stream of tokens.

    Raises:
        PlanProblem: No configuration stands beside it.
    """
    path = Path(str(tokenizer.name_or_path)) / "config.json"
    if not path.is_file():
        raise PlanProblem(
            "the tokenizer does not tell which model it belongs to: there is no config.json beside it",
            where=str(tokenizer.name_or_path),
            do="load the tokenizer from the folder of the model",
        )
    return not _has_encoder(str(path), path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _has_encoder(path: str, written: int) -> bool:
    """Read the configuration anew only when it was written anew: every row asks."""
    from transformers.models.auto import modeling_auto as known

    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if "is_encoder_decoder" in content:
        return bool(content["is_encoder_decoder"])
    return content.get("model_type") in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


@dataclass(frozen=True)
class Frame:
    """The special tokens that a tokenizer puts around one text."""

    lead: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.lead) + len(self.tail)


class Wording:
    """How one tokenizer and its model frame what is read and what is written.

    Causal: the text that is read has the lead of the tokenizer, or else at least one token to start from; what is
    written follows bare and ends with the end token. Encoder-decoder: both texts are framed as the tokenizer does it,
    and what is written ends with the end token in any case.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.is_causal = is_causal(tokenizer)
        self.end = _end_token(tokenizer)
        source, target = _frame(tokenizer), _frame(tokenizer, is_target=True)
        if self.is_causal:
            self.source, self.target = Frame(source.lead), Frame((), (self.end,))
        else:
            has_end = target.tail[-1:] == (self.end,)
            self.source = source
            self.target = target if has_end else Frame(target.lead, (*target.tail, self.end))
        self._joins_by_space = _joins_by_space(tokenizer)

    @property
    def start(self) -> int:
        """What a causal model writes from where there is nothing to read."""
        begin = self.tokenizer.bos_token_id
        return self.end if begin is None else int(begin)

    @property
    def filler(self) -> int:
        """What stands where a batch has nothing; masks hide it, so that it may be the end token too."""
        filler = self.tokenizer.pad_token_id
        return self.end if filler is None else int(filler)

    def ids(self, texts: Sequence[str], *, is_target: bool = False) -> list[tuple[int, ...]]:
        """Give the ids of each text without any special token: "<|endoftext|>" in a row is text like any other."""
        found: list[tuple[int, ...]] = []
        for first in range(0, len(texts), _ROWS_AT_ONCE):
            found += map(tuple, _bare(self.tokenizer, list(texts[first : first + _ROWS_AT_ONCE]), is_target))
        return found

    def text(self, ids: Sequence[int]) -> str:
        """Give the text of written ids up to the end token, without special tokens.

        Tokenizers that part all tokens by spaces lose where Chinese had none: no space stands beside a Chinese or
        Japanese character then.
        """
        written = list(ids)
        if self.end in written:
            written = written[: written.index(self.end)]
        text = str(self.tokenizer.decode(written, skip_special_tokens=True))
        return _NEEDLESS_SPACE.sub("", text) if self._joins_by_space else text


def _bare(tokenizer: Any, texts: list[str], is_target: bool) -> Any:
    return tokenised_as_text(tokenizer, **({"text_target": texts} if is_target else {"text": texts}))["input_ids"]


def tokenised_as_text(tokenizer: Any, **given: Any) -> Any:
    """Give what the tokenizer makes of texts in which nothing is a special token, whatever they spell.

    A row could else end its own answer, or speak for somebody else.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    try:
        return tokenizer(**given, add_special_tokens=False, verbose=False, split_special_tokens=True)
    finally:
        if backend is not None:  # the setting outlives the call
            backend.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))


def _frame(tokenizer: Any, *, is_target: bool = False) -> Frame:
    """Find what the tokenizer puts before and after a text by giving it one."""
    name = "text_target" if is_target else "text"
    framed = tuple(tokenizer(**{name: "a"})["input_ids"])
    bare = tuple(tokenizer(**{name: "a"}, add_special_tokens=False)["input_ids"])
    if not bare:  # a vocabulary that does not know the text and leaves it out
        begins = {tokenizer.bos_token_id, tokenizer.cls_token_id}
        return Frame(tuple(i for i in framed if i in begins), tuple(i for i in framed if i not in begins))
    place = next((at for at in range(len(framed)) if framed[at : at + len(bare)] == bare), 0)
    return Frame(framed[:place], framed[place + len(bare) :])


def _end_token(tokenizer: Any) -> int:
    """Give the token that ends what is written: the tokenizer's end token, else its separator.

    Raises:
        PlanProblem: It has neither.
    """
    for name in ("eos_token_id", "sep_token_id"):
        if (token := getattr(tokenizer, name, None)) is not None:
            return int(token)
    raise PlanProblem(
        "the tokenizer of this base model has no end token, so that an answer could never end",
        where=str(tokenizer.name_or_path),
        do='add "eos_token" to its tokenizer_config.json',
    )


def _joins_by_space(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.decoder).__name__ in {"NoneType", "WordPiece"}

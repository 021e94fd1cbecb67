"""A tokenizer without Transformers: `tokenizer.json` behind the few calls that tasks make of a Transformers tokenizer.

It gives the same ids, offsets and windows. Only what the tasks here use is there; anything else is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "tokenizer.json"


@dataclass(frozen=True)
class Facts:
    """What a tokenizer knows besides its vocabulary and rules."""

    pad_token_id: int
    cls_token_id: int | None
    model_max_length: int
    truncation_side: str  # right or left
    has_segments: bool  # whether the model asks which text of a pair a token belongs to
    splits_special_tokens: bool  # whether "[SEP]" in a text is read as words


class Encoded(dict[str, Any]):
    """What a call gives: lists by name, and where each token came from."""

    def __init__(self, entries: Mapping[str, Any], encodings: Sequence[Any]) -> None:
        super().__init__(entries)
        self._encodings = encodings

    def sequence_ids(self, row: int) -> list[int | None]:
        """Give for each token of a row the text that it comes from: 0, 1, or None for special ones."""
        return list(self._encodings[row].sequence_ids)


class FastTokenizer:
    """Texts to ids. Not for several threads at once: how it cuts is kept in the library's object."""

    is_fast = True

    def __init__(self, backend: Any, facts: Facts) -> None:
        self.facts = facts
        self.pad_token_id = facts.pad_token_id
        self.cls_token_id = facts.cls_token_id
        self.model_max_length = facts.model_max_length
        self._backend = backend
        backend.no_padding()
        backend.encode_special_tokens = facts.splits_special_tokens

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @property
    def unk_token_id(self) -> int | None:
        """What stands for a piece that the vocabulary lacks; None where it lacks nothing."""
        name = getattr(self._backend.model, "unk_token", None)
        return None if name is None else self._backend.token_to_id(name)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Give how many tokens stand around a text, or around two."""
        return int(self._backend.num_special_tokens_to_add(pair))

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        truncation: bool | str = False,
        max_length: int | None = None,
        stride: int = 0,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_special_tokens_mask: bool = False,
        return_attention_mask: bool = True,
        return_token_type_ids: bool | None = None,
        verbose: bool = True,
    ) -> Encoded:
        """Encode one text or several, alone or in pairs; see Transformers for what each argument means."""
        self._cut(truncation, max_length, stride)
        is_one = isinstance(text, str)
        found = self._backend.encode_batch(_together(text, text_pair), add_special_tokens=add_special_tokens)
        groups = [[each, *each.overflowing] if return_overflowing_tokens else [each] for each in found]
        encodings = [encoding for group in groups for encoding in group]
        entries: dict[str, Any] = {"input_ids": [encoding.ids for encoding in encodings]}
        wants_segments = self.facts.has_segments if return_token_type_ids is None else return_token_type_ids
        if wants_segments:
            entries["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        if return_attention_mask:
            entries["attention_mask"] = [encoding.attention_mask for encoding in encodings]
        if return_special_tokens_mask:
            entries["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        if return_offsets_mapping:
            entries["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if return_overflowing_tokens:
            entries["overflow_to_sample_mapping"] = [row for row, group in enumerate(groups) for _ in group]
        elif is_one:
            entries = {name: rows[0] for name, rows in entries.items()}
        return Encoded(entries, encodings)

    def _cut(self, truncation: bool | str, max_length: int | None, stride: int) -> None:
        """Set how texts are cut, where that is another way than the last time."""
        if truncation is False:
            if self._backend.truncation is not None:
                self._backend.no_truncation()
            return
        strategy = "longest_first" if truncation is True else truncation
        length = self.model_max_length if max_length is None else max_length
        wanted = {"max_length": length, "stride": stride, "strategy": strategy, "direction": self.facts.truncation_side}
        if self._backend.truncation != wanted:
            self._backend.enable_truncation(**wanted)


def _together(text: str | Sequence[str], text_pair: str | Sequence[str] | None) -> list[Any]:
    """Give what the library takes: texts, or pairs of them. One text beside an empty one is a text alone."""
    if isinstance(text, str):
        return [(text, text_pair)] if text_pair else [text]
    return list(text) if text_pair is None else list(zip(text, text_pair, strict=True))


def open_tokenizer(path: Path, facts: Facts) -> FastTokenizer:
    """Open a tokenizer.json; raises ModelProblem where its expressions would never end."""
    from tokenizers import Tokenizer

    from tunesmith.models.tokenizer_trial import demand_tame

    demand_tame(path)
    return FastTokenizer(Tokenizer.from_file(str(path)), facts)


def facts_of(tokenizer: Any) -> Facts:
    """Give what a fast Transformers tokenizer knows besides its vocabulary and rules."""
    return Facts(
        pad_token_id=int(tokenizer.pad_token_id),
        cls_token_id=tokenizer.cls_token_id,
        model_max_length=int(min(tokenizer.model_max_length, 2**31)),
        truncation_side=str(tokenizer.truncation_side),
        has_segments="token_type_ids" in tokenizer.model_input_names,
        splits_special_tokens=bool(tokenizer.split_special_tokens),
    )


def write_tokenizer(tokenizer: Any, path: Path) -> None:
    """Write the rules of a fast Transformers tokenizer as it is now, which its own files need not say alone."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(path))

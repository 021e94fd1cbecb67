"""Two texts to be compared: how they are read, and how each is encoded by itself (bi-encoder).

A cross-encoder reads both texts at once, as one input. A bi-encoder turns each into the mean of its last states, and
the cosine of the two tells how alike they are; the states of many texts can be kept and compared later. What turns the
cosine into an answer are two numbers in the model's configuration, `cosine_scale` and `cosine_offset`, so that the
model stays a plain `AutoModel`.

Source: Reimers & Gurevych 2019, Sentence-BERT. Letters: N pairs, B batch, T tokens, H hidden.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tunesmith.data.layout import Cells
from tunesmith.data.normalise import fields_key, normalise_text
from tunesmith.data.store import in_groups
from tunesmith.errors import PlanProblem
from tunesmith.metrics import Floats
from tunesmith.tasks import Example, Load
from tunesmith.tasks.engine import Arrays, padded_inputs
from tunesmith.tasks.text_classification import ENCODE_ROWS, encode_texts, mean_states
from tunesmith.types import Problem, Record

if TYPE_CHECKING:
    import torch
    from torch import nn

ENCODERS = ("cross", "bi")

SIDES = {"text_a": "text", "text_b": "text"}
"""The roles of the two texts."""


@dataclasses.dataclass(frozen=True)
class TwoTexts(Example):
    """A pair whose sides go through the model one beside the other."""

    other: tuple[int, ...] = ()  # the second text's ids; `tokens` are the first's

    @property
    def length(self) -> int:
        """Tokens that go through the model: both sides are padded to the longer one."""
        return 2 * max(len(self.tokens), len(self.other))


def demand_encoder(encoder: str) -> None:
    """Refuse an encoder that does not exist.

    Raises:
        PlanProblem: Neither cross nor bi.
    """
    if encoder not in ENCODERS:
        raise PlanProblem(f"encoder is '{encoder}'", where="encoder", do=f"use one of: {', '.join(ENCODERS)}")


def headless_class(config: Any) -> str:
    """Give the Transformers auto class of a model without a head, for texts encoded apart.

    Raises:
        PlanProblem: The model also has a decoder, which would have to be given something to write.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise PlanProblem(
            f"a base model of kind '{config.model_type}' cannot encode texts apart: it reads and writes",
            where="encoder",
            do="use encoder=cross, or an encoder such as BERT or RoBERTa",
        )
    return "AutoModel"


def read_pair(cells: Cells) -> dict[str, Any]:
    """Give both texts; a text beside itself is remarked on."""
    first, second = cells.text("text_a"), cells.text("text_b")
    if first.strip() == second.strip():
        cells.note("identical-pair", "both texts are the same", "nothing, if it is meant; else mend one of them")
    return {"text_a": first, "text_b": second}


def pair_of(record: Record) -> tuple[str, str]:
    """Give the two texts of a record."""
    return str(record.fields["text_a"]), str(record.fields["text_b"])


def sides_of(records: Iterable[Record]) -> tuple[list[str], list[str]]:
    """Give all first texts and all second texts."""
    pairs = [pair_of(record) for record in records]
    return [first for first, _ in pairs], [second for _, second in pairs]


def swapped_conflicts(records: Sequence[Record]) -> Iterator[Problem]:
    """Give one remark on the pairs that also stand the other way round with another target.

    For entailment both may be right; for likeness one of the two is wrong.
    """
    here, turned, is_lower = array("Q"), array("Q"), bytearray()
    for record in records:
        first, second = map(normalise_text, pair_of(record))
        here.append(fields_key({"a": first, "b": second}))
        turned.append(fields_key({"a": second, "b": first}))
        is_lower.append(first < second)
    keys, firsts = np.unique(np.array(here, dtype=np.uint64), return_index=True)  # of each pair its first row
    lower = np.sort(firsts[np.frombuffer(is_lower, dtype=bool)[firsts]])
    wanted = np.array(turned, dtype=np.uint64)[lower]
    has_other = np.isin(wanted, keys)
    others = firsts[np.searchsorted(keys, wanted[has_other])]
    both = zip(lower[has_other].tolist(), others.tolist(), strict=True)
    pairs = ((records[place], records[other]) for place, other in both)
    found = [(one, other) for one, other in pairs if one.target != other.target]
    if found:
        one, other = found[0]
        what = (
            f"{len(found)} pairs also stand the other way round with another target, "
            f"e.g. '{one.target}' in row {one.origin.row} and '{other.target}' in row {other.origin.row}"
        )
        do = "nothing where the order matters (entailment); where it does not, give both the same target"
        yield Problem("note", "swapped-pair", what, do, one.origin, 2 * len(found))


def encode_apart(records: Sequence[Record], tokenizer: Any, max_length: int) -> Iterator[TwoTexts]:
    """Give the ids of both sides of each record, each side cut to `max_length` by itself; without targets."""
    for some in in_groups(records, ENCODE_ROWS):
        one_side, other_side = (encode_texts(side, tokenizer, max_length) for side in sides_of(some))
        for record, one, other in zip(some, one_side, other_side, strict=True):
            yield TwoTexts(one.tokens, None, one.was_cut or other.was_cut, record=record, other=other.tokens)


def encode_joined(records: Sequence[Record], tokenizer: Any, max_length: int) -> Iterator[Example]:
    """Give the ids of each pair as one input, the longer text cut first; without targets."""
    for some in in_groups(records, ENCODE_ROWS):
        yield from encode_texts([pair_of(record) for record in some], tokenizer, max_length)


def inputs_apart(examples: Sequence[Example], tokenizer: Any) -> dict[str, npt.NDArray[np.int64]]:
    """Pad all first texts and, below them, all second ones: `input_ids` and `attention_mask` (2B, T)."""
    pairs = [example for example in examples if isinstance(example, TwoTexts)]
    rows = [*(example.tokens for example in pairs), *(example.other for example in pairs)]
    return padded_inputs([Example(row) for row in rows], tokenizer)


def cosines(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Give the cosine (B) of the mean last states of both sides of each pair."""
    from torch.nn import functional

    states_BTH = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state.float()
    mask_BT1 = batch["attention_mask"].unsqueeze(-1).float()
    mean_BH = functional.normalize((states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1), dim=1)
    first_BH, second_BH = mean_BH.chunk(2)
    return (first_BH * second_BH).sum(1)


def read_cosines(inputs: Arrays, outputs: Arrays) -> Floats:
    """Give the cosine (B) of both sides of each pair as `cosines` does, from what a model gave."""
    mask_BT1 = inputs["attention_mask"][:, :, None].astype(np.float32)
    mean_BH = (outputs["last_hidden_state"] * mask_BT1).sum(1) / mask_BT1.sum(1)
    mean_BH /= np.maximum(np.linalg.norm(mean_BH, axis=1, keepdims=True), 1e-12)
    first_BH, second_BH = np.split(mean_BH, 2)
    found: Floats = (first_BH * second_BH).sum(1)
    return found


def untrained_cosines(load: Load, tokenizer: Any, records: Sequence[Record], max_length: int) -> Floats:
    """Give the cosine (N) of the mean last states of the base model as it came."""
    body = load("AutoModel")
    first_NH, second_NH = (mean_states(body, side, tokenizer, max_length) for side in sides_of(records))
    found: Floats = np.asarray((first_NH * second_NH).sum(1), dtype=np.float64)
    return found


def config_of(model: nn.Module) -> Any:
    """Give the model's configuration, also where the model is wrapped for several processes."""
    return getattr(model, "module", model).config

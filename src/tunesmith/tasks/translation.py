"""A text in one language, the same in another.

An encoder-decoder reads the source as it is, without a prefix. A causal model reads the source, a line with `=>`, and
writes on the next line.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tunesmith.data.layout import Cells, Form
from tunesmith.metrics import Floats, texts
from tunesmith.tasks import Answered, Baseline
from tunesmith.tasks.generation import Generation
from tunesmith.tasks.nearest import nearest_places
from tunesmith.tasks.wording import is_causal
from tunesmith.types import Record, Splits

_CUE = "\n=>\n"
_BLEU_SUMS = 10  # the first columns of the statistics; chrF has the others
_STRANGE_RATIO = 4.0  # one side has so many times the characters of the other, a Chinese one counting three
_LEAST_WIDTH = 40  # of the longer side; short texts differ that much for good reasons
_WIDE = "\u2e80"  # from here on a character is about a word's third of Latin letters


@dataclass(frozen=True)
class Translation(Generation):
    """Translation by an encoder-decoder or a causal model."""

    name: ClassVar[str] = "translation"
    forms: ClassVar[Sequence[Form]] = (Form({"source": "text"}, {"target": "text"}),)
    main: ClassVar[str] = "chrf"
    noisy_fields: ClassVar[tuple[str, ...]] = ("source",)
    metrics: ClassVar[tuple[str, ...]] = ("chrf", "bleu")
    pipeline: ClassVar[str] = "translation"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the source."""
        return {"source": cells.text("source")}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the translation, or all of them where the row has several."""
        found = cells.texts("target")
        source = str(fields["source"])
        if any(text.strip() == source.strip() for text in found):
            cells.note(
                "copy", f"source and translation are the same: '{source[:50]}'", "remove the row if it should not be"
            )
        widths = sorted((_width(source), _width(found[0])))
        if widths[1] >= _LEAST_WIDTH and widths[1] > _STRANGE_RATIO * widths[0]:
            what = f"source and translation differ much in length: '{source[:40]}' and '{found[0][:40]}'"
            cells.note("length-ratio", what, "check that the row is a translation and whole")
        return found[0] if len(found) == 1 else found

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the source."""
        return str(fields["source"])

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the source; for a causal model with the line that asks for its translation."""
        return self.text_of(fields) + self.cue(fields, tokenizer)

    def cue(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give what a causal model is asked by."""
        return _CUE if is_causal(tokenizer) else ""

    def text_statistics(self, records: Sequence[Record], values: Sequence[str]) -> Floats:
        """Give the sums for BLEU and chrF (N, 28); BLEU splits Chinese by characters."""
        references = [self.references(record.target) for record in records]
        bleu_NS = texts.bleu_statistics(references, values)
        return np.concatenate([bleu_NS, texts.chrf_statistics(references, values)], axis=1)

    def text_values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give chrF and BLEU from sums (..., 28)."""
        return {
            **texts.chrf_values(sums[..., _BLEU_SUMS:]),
            **texts.bleu_values(sums[..., :_BLEU_SUMS]),
        }

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer with the source itself, and with the translation of the training source that is most like it."""
        copies: list[Answered] = [(self.text_of(record.fields), None, {}) for record in splits.test]
        start = time.perf_counter()
        train, test = ([self.text_of(record.fields) for record in part] for part in (splits.train, splits.test))
        places = nearest_places(train, test)
        near: list[Answered] = [(self.completion(splits.train[int(place)].target), None, {}) for place in places]
        return [Baseline("copy", copies, 0.0), Baseline("nearest", near, time.perf_counter() - start)]


def _width(text: str) -> int:
    return sum(3 if character >= _WIDE else 1 for character in text.strip())


TASK = Translation()

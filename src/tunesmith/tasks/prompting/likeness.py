"""Asked by likeness: the label whose words lie nearest to the text, by the mean of an encoder's last states.

Letters in shapes: N rows, W words, L labels, H width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tunesmith.metrics import Floats
from tunesmith.tasks import Example
from tunesmith.tasks.prompting.asked import AskedTask
from tunesmith.tasks.prompting.templates import LABEL
from tunesmith.tasks.text_classification import encode_texts, mean_states, states_of
from tunesmith.types import Record

if TYPE_CHECKING:
    from torch import nn

_SHARPNESS = 20.0  # as in `TextClassification.zero_shot`


@dataclass(frozen=True)
class Likeness(AskedTask):
    """A classification task asked by likeness of text and label."""

    pipeline: ClassVar[str] = "feature-extraction"

    def model_class(self, config: Any) -> str:
        """Give the class without a head."""
        return "AutoModel"

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, labels: Sequence[str], max_length: int
    ) -> list[Example]:
        """Give the token ids of each text, and what a loss would compare with."""
        targets = self.targets(records, labels)
        encoded = encode_texts([str(record.fields["text"]) for record in records], tokenizer, max_length)
        return [
            dataclasses.replace(example, target=target, record=record)
            for record, target, example in zip(records, targets, encoded, strict=True)
        ]

    def scores(
        self, model: nn.Module, examples: Sequence[Example], *, tokenizer: Any, labels: Sequence[str], batch_tokens: int
    ) -> Floats:
        """Give 20 times the cosine of text and label (N, L); for several labels, above the mean of all labels.

        A label lies at the mean of its words, put into each template.
        """
        places_LH = []
        for words in self.wordings.words.values():
            texts = [template.filled({LABEL: word})[0] for template in self.wordings.templates for word in words]
            mean_H = mean_states(model, texts, tokenizer, _longest(tokenizer)).mean(0)
            places_LH.append(mean_H / max(float(np.linalg.norm(mean_H)), 1e-12))
        scores_NL: Floats = _SHARPNESS * states_of(model, examples, tokenizer, batch_tokens) @ np.stack(places_LH).T
        return scores_NL - scores_NL.mean(1, keepdims=True) if self.is_multi_label else scores_NL


def _longest(tokenizer: Any) -> int:
    return min(512, int(tokenizer.model_max_length))

"""A short text that says what a long one says: an abstract, a headline.

An encoder-decoder reads the document as it is. A causal model reads the document, a line with `TL;DR:` (`摘要：` after
a Chinese one), and writes on the next line. Of a document that is too long the beginning is read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.data.layout import Cells, Form
from tunesmith.metrics import Floats, texts
from tunesmith.metrics.answers import is_chinese
from tunesmith.tasks import Answered, Baseline
from tunesmith.tasks.generation import Generation
from tunesmith.tasks.wording import is_causal
from tunesmith.types import Record, Splits

_CUES = {False: "\nTL;DR:\n", True: "\n摘要：\n"}  # the English one as in Radford et al. 2019, section 3.6
_SENTENCE = re.compile(r".+?(?:[.!?]+[\"'”’)]*(?=\s+[^a-z\s]|\s*$)|[。！？]+[”’」』）]*|\n|$)", re.DOTALL)
_CLAUSE = re.compile(r"[^，,；;：:。！？!?]+[，,；;：:。！？!?]*")
_CJK_ENDS = "，,；;：:。！？!? "


@dataclass(frozen=True)
class Summarisation(Generation):
    """Summaries and headlines by an encoder-decoder or a causal model."""

    name: ClassVar[str] = "summarisation"
    forms: ClassVar[Sequence[Form]] = (Form({"document": "text"}, {"summary": "text"}),)
    main: ClassVar[str] = "rouge_l"
    noisy_fields: ClassVar[tuple[str, ...]] = ("document",)
    metrics: ClassVar[tuple[str, ...]] = ("rouge_l", "rouge_1", "rouge_2")
    pipeline: ClassVar[str] = "summarization"

    def read_input(self, cells: Cells) -> dict[str, Any]:
        """Give the document: one text, or its sentences where the file lists them."""
        sentences = cells.texts("document")
        return {"document": sentences[0] if len(sentences) == 1 else sentences}

    def read_target(self, cells: Cells, fields: Mapping[str, Any]) -> Any:
        """Give the summary, or all of them where the row has several."""
        found = cells.texts("summary")
        document = self.text_of(fields).strip()
        if len(found[0].strip()) > len(document):
            what = f"the summary is longer than its document: '{found[0][:60]}'"
            cells.note("long-summary", what, "check that the columns are not the wrong way round")
        if len(found[0].strip()) >= 10 and document.startswith(found[0].strip()):
            what = f"the summary is the beginning of the document: '{found[0][:60]}'"
            cells.note("lead-summary", what, "take the summary out of the document, or copying is what is learnt")
        return found[0] if len(found) == 1 else found

    def text_of(self, fields: Mapping[str, Any]) -> str:
        """Give the document in one piece."""
        document = fields["document"]
        if isinstance(document, str):
            return document
        return ("" if is_chinese("".join(document)) else " ").join(document)

    def source(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give the document; for a causal model with the line that asks for its summary."""
        return self.text_of(fields) + self.cue(fields, tokenizer)

    def cue(self, fields: Mapping[str, Any], tokenizer: Any) -> str:
        """Give what a causal model is asked by."""
        return _CUES[is_chinese(self.text_of(fields))] if is_causal(tokenizer) else ""

    def text_statistics(self, records: Sequence[Record], values: Sequence[str]) -> Floats:
        """Give the sums for ROUGE (N, 4): the best reference counts, and Chinese is compared by characters."""
        return texts.rouge_statistics([self.references(record.target) for record in records], values)

    def text_values(self, sums: Floats) -> Mapping[str, Floats]:
        """Give ROUGE-1, ROUGE-2 and ROUGE-L from sums (..., 4)."""
        return texts.rouge_values(sums)

    def baselines(self, splits: Splits, *, labels: Sequence[str], seed: int) -> Sequence[Baseline]:
        """Answer with how the document begins: its first sentence, or its first clauses in Chinese."""
        start = time.perf_counter()
        lengths = sorted(len(self.completion(record.target)) for record in splits.train)
        usual = lengths[len(lengths) // 2]
        answers: list[Answered] = [(lead(record.fields["document"], usual), None, {}) for record in splits.test]
        return [Baseline("lead", answers, time.perf_counter() - start)]


def lead(document: str | Sequence[str], usual: int) -> str:
    """Give how a document begins.

    Args:
        document: One text, or its sentences.
        usual: Characters of a usual summary. Chinese sentences run on: of them the clauses up to this length are
            taken, the first one in any case.
    """
    first = document if isinstance(document, str) else document[0]
    match = _SENTENCE.match(first.strip())
    sentence = match[0].strip() if match else first.strip()
    if not is_chinese(sentence):
        return sentence if isinstance(document, str) else first.strip()
    clauses = _CLAUSE.findall(sentence)
    taken = clauses[0] if clauses else sentence
    for clause in clauses[1:]:
        if len(taken) + len(clause) > usual:
            break
        taken += clause
    return taken.rstrip(_CJK_ENDS)


TASK = Summarisation()

"""What the peers that use Transformers directly have in common: rows encoded, a model with a fresh head, a score."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import read

IGNORED = -100


class Encoded:
    """A slice as Transformers' own examples encode it, and the model that learns it."""

    def __init__(self, job: dict[str, Any]) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(int(job["threads"]))
        self.job = job
        self.is_tagged = job["kind"] == "token-classification"
        content = {part: read(job[part]) for part in ("train", "valid", "test")}
        targets = [target for _, target in content["train"]]
        self.labels = sorted({tag for tags in targets for tag in tags} if self.is_tagged else set(targets))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(job["model_folder"])
        self.rows = {part: self._encode(some) for part, some in content.items()}
        self.tokens = sum(len(row["input_ids"]) for row in self.rows["train"])

    def _encode(self, content: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]]:
        place = {label: index for index, label in enumerate(self.labels)}
        encoded = self.tokenizer(
            [row[0] for row in content],
            truncation=True,
            max_length=int(self.job["max_length"]),
            is_split_into_words=self.is_tagged,
        )
        examples = []
        for index, (_, target) in enumerate(content):
            names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
            example = {name: encoded[name][index] for name in names}
            if self.is_tagged:
                words = encoded.word_ids(index)
                starts = [word is not None and word != (words[i - 1] if i else None) for i, word in enumerate(words)]
                example["labels"] = [
                    place.get(target[word], IGNORED) if is_start else IGNORED
                    for word, is_start in zip(words, starts, strict=True)
                ]
            else:
                example["labels"] = place.get(target, -1)  # a label that training never saw is always a mistake
            examples.append(example)
        return examples

    def model(self) -> Any:
        """Give the model with a fresh head, drawn from the job's seed."""
        torch.manual_seed(int(self.job["seed"]))
        kind = "TokenClassification" if self.is_tagged else "SequenceClassification"
        names = dict(enumerate(self.labels))
        return getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
            self.job["model_folder"],
            num_labels=len(self.labels),
            id2label=names,
            label2id={label: index for index, label in names.items()},
            dtype=torch.float32,
        )

    def collator(self, **options: Any) -> Any:
        """Give what makes a batch: padded to its longest row, unless told otherwise."""
        kind = (
            transformers.DataCollatorForTokenClassification if self.is_tagged else transformers.DataCollatorWithPadding
        )
        return kind(self.tokenizer, **options)

    def score(self, model: Any, part: str) -> float:
        """Give accuracy over texts, or entity F1 over BIO tags. Rows of like length are answered together."""
        rows = self.rows[part]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
        collate, was_training = self.collator(), model.training
        model.eval()
        answered: list[Any] = [None] * len(rows)
        for start in range(0, len(order), 64):
            places = order[start : start + 64]
            batch = collate([rows[place] for place in places])
            batch.pop("labels")
            with torch.inference_mode():
                answers = model(**batch).logits.argmax(-1).tolist()
            for place, answer in zip(places, answers, strict=True):
                answered[place] = answer
        model.train(was_training)
        if not self.is_tagged:
            right = sum(answer == row["labels"] for answer, row in zip(answered, rows, strict=True))
            return right / len(rows)
        return self._entity_f1(answered, rows)

    def _entity_f1(self, answered: list[list[int]], rows: list[dict[str, Any]]) -> float:
        found, true = set(), set()
        for number, (answer, row) in enumerate(zip(answered, rows, strict=True)):
            kept = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
            found |= {(number, *span) for span in spans([self.labels[answer[place]] for place in kept])}
            true |= {(number, *span) for span in spans([self.labels[row["labels"][place]] for place in kept])}
        return 2 * len(found & true) / max(1, len(found) + len(true))


def spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Give (first, last, label) of each entity of BIO tags; an I that does not go on with anything begins one."""
    open_span: list[Any] | None = None
    done = []
    for place, tag in enumerate([*tags, "O"]):
        kind, _, label = tag.partition("-")
        if open_span is not None and (kind != "I" or label != open_span[2]):
            done.append(tuple(open_span))
            open_span = None
        if kind in {"B", "I"}:
            open_span = [place, place, label] if open_span is None else [open_span[0], place, label]
    return done

"""What the rows looked like that a model was made from: what later windows are compared with.

It is made once for each bundle, and kept in one safetensors file: numbers, the tokenizer, no texts. What is asked is
compared with training and validation rows; what is answered, only with rows that the model did not learn from, of which
it is not surer than of others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith import metrics
from tunesmith.bundle.atomic import explain_os_errors, write_file
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import Bundle, sureness
from tunesmith.errors import BundleProblem, DataProblem, TunesmithError
from tunesmith.models.find import find_base
from tunesmith.monitoring.embedding import (
    Embedder,
    GivenVectors,
    HashedCharacters,
    TokenTable,
    learn_characters,
    learn_given,
    read_tokens,
    weighted,
)
from tunesmith.monitoring.observed import Observed
from tunesmith.monitoring.traits import Traits, categories_of, measure, no_traits
from tunesmith.types import Record

MOST_INPUTS = 2000
"""Rows for what is asked. With 800 of AG News the domain classifier saw a shift as well; 2,000 vary less by draw."""
MOST_OUTPUTS = 1000
"""Rows that the model answers: a minute of one core for a small encoder, at most."""
_FORMAT = 1


@dataclass(frozen=True)
class Reference:
    """What rows of the usual kind look like."""

    bundle: str  # id of the bundle that answered
    origin: str  # "training data", or "first requests"
    categories: tuple[str, ...]  # of the answers; none where they are free text or numbers
    embedder: Embedder
    inputs: Traits
    outputs: Traits
    accuracy: float | None  # of the answers to the rows of `outputs`, where it is known
    ece: float | None  # their expected calibration error
    at: float  # seconds since 1970

    def save(self, path: Path) -> None:
        """Write it as one file, all or nothing; raises MachineProblem."""
        from safetensors.numpy import save

        facts = {
            "format": _FORMAT,
            "bundle": self.bundle,
            "origin": self.origin,
            "categories": self.categories,
            "kind": self.embedder.kind,
            "accuracy": self.accuracy,
            "ece": self.ece,
            "at": self.at,
            **({"unknown": self.embedder.unknown} if isinstance(self.embedder, TokenTable) else {}),
        }
        arrays = {**self.inputs.arrays("inputs."), **self.outputs.arrays("outputs."), **_embedder_arrays(self.embedder)}
        metadata = {"facts": json.dumps(facts, ensure_ascii=False)}
        if isinstance(self.embedder, TokenTable):
            metadata["tokenizer"] = self.embedder.tokenizer
        with explain_os_errors(path, "keeping the reference"):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, save(arrays, metadata=metadata))


def read_reference(path: Path) -> Reference:
    """Read what `Reference.save` wrote.

    Raises:
        BundleProblem: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata["facts"])
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']}")
        return Reference(
            bundle=str(facts["bundle"]),
            origin=str(facts["origin"]),
            categories=tuple(map(str, facts["categories"])),
            embedder=_embedder(facts, metadata, arrays),
            inputs=Traits.of_arrays(arrays, "inputs."),
            outputs=Traits.of_arrays(arrays, "outputs."),
            accuracy=facts["accuracy"],
            ece=facts["ece"],
            at=float(facts["at"]),
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleProblem(
            f"what this model's data looked like cannot be read: {type(error).__name__}",
            where=str(path),
            do="remove the file; it is made again when the model is served",
        ) from error


def _embedder_arrays(embedder: Embedder) -> dict[str, Any]:
    if isinstance(embedder, TokenTable):
        return {"table": embedder.table_VD, "weights": embedder.weights_V}
    if isinstance(embedder, HashedCharacters):
        return {"weights": embedder.weights_B}
    return {"mean": embedder.mean_H, "axes": embedder.axes_HD}


def _embedder(facts: Mapping[str, Any], metadata: Mapping[str, str], arrays: Mapping[str, Any]) -> Embedder:
    if facts["kind"] == "tokens":
        return TokenTable(metadata["tokenizer"], arrays["table"], arrays["weights"], int(facts["unknown"]))
    if facts["kind"] == "characters":
        return HashedCharacters(arrays["weights"])
    return GivenVectors(arrays["mean"], arrays["axes"])


def reference_of(bundle: Bundle) -> Reference:
    """Look at the rows that a bundle was made from; it answers its validation rows anew for this.

    Takes from seconds to a minute, and the memory of the model: a service calls it in a process of its own.

    Raises:
        DataProblem: The rows are no longer where they were, or have changed.
    """
    valid = _spaced(part_rows(bundle, "valid"), MOST_OUTPUTS)
    asked = _spaced([*part_rows(bundle, "train"), *valid], MOST_INPUTS)
    texts = [bundle.task.text_of(record.fields) for record in asked]
    table = _token_table(bundle)
    embedder = learn_characters(texts) if table is None else weighted(table, texts)
    answered = _answered(bundle, valid)
    categories = categories_of(answered, bundle.labels)
    accuracy, ece = _quality(bundle, valid, answered)
    return Reference(
        bundle=bundle.id,
        origin="training data",
        categories=categories,
        embedder=embedder,
        inputs=measure([Observed(text) for text in texts], embedder, categories),
        outputs=measure(answered, embedder, categories),
        accuracy=accuracy,
        ece=ece,
        at=time.time(),
    )


def empty_reference(bundle: Bundle) -> Reference | None:
    """Give what of a reference can be had where the rows are gone: the way to embed, for rows that are yet to come.

    Returns:
        A reference without rows; None where the model has no table of token embeddings.
    """
    table = _token_table(bundle)
    if table is None:
        return None
    nothing = no_traits(table.table_VD.shape[1])
    return Reference(bundle.id, "nothing yet", (), table, nothing, nothing, None, None, time.time())


def reference_of_served(
    rows: Sequence[Observed], *, bundle: str, labels: Sequence[str] = (), table: TokenTable | None = None
) -> Reference:
    """Take the first rows that were served as the usual kind, where nothing is known of the training data.

    Args:
        rows: What was served first.
        bundle: Id of the bundle that answered.
        labels: Of the bundle; empty where it has none.
        table: Of the model, where it is known.
    """
    widths = {0 if row.embedding is None else len(row.embedding) for row in rows}
    texts = [row.text for row in rows]
    embedder: Embedder
    if len(widths) == 1 and 0 not in widths:
        embedder = learn_given(np.array([row.embedding for row in rows], dtype=np.float32))
    else:
        embedder = learn_characters(texts) if table is None else weighted(table, texts)
    categories = categories_of(rows, labels)
    traits = measure(rows, embedder, categories)
    return Reference(bundle, "first requests", categories, embedder, traits, traits, None, None, time.time())


def _token_table(bundle: Bundle) -> TokenTable | None:
    """Take the model's own token embeddings: of the run, or of its base where the run holds only what was learnt."""
    found = read_tokens(bundle.path, bundle.path)
    delta = bundle.facts.get("delta") or {}
    if found is None and delta.get("base"):
        try:
            return read_tokens(bundle.path, find_base(str(delta["base"])).folder)
        except TunesmithError:  # the base is gone; the bundle itself says so when it has to answer
            return None
    return found


def _spaced(records: Sequence[Record], most: int) -> list[Record]:
    """Give at most so many records, evenly spaced over the file."""
    step = max(1.0, len(records) / most)
    return [records[int(place * step)] for place in range(min(most, len(records)))]


def _answered(bundle: Bundle, records: Sequence[Record]) -> list[Observed]:
    if not records:
        raise DataProblem("this run has no validation rows", where=str(bundle.path), do="train with validation rows")
    predictions = bundle.predictions(records)
    return [
        Observed.of(prediction, bundle.task.text_of(record.fields))
        for record, prediction in zip(records, predictions, strict=True)
    ]


def _quality(
    bundle: Bundle, records: Sequence[Record], answered: Sequence[Observed]
) -> tuple[float | None, float | None]:
    """Give accuracy and calibration error of answers that are labels; None where they are not."""
    if bundle.task.target_kind != "label" or any(row.confidence is None for row in answered):
        return None, None
    confidence_N, is_right_N = sureness(bundle.task, records, [(row.category, row.confidence, {}) for row in answered])
    return float(is_right_N.mean()), metrics.calibration(confidence_N, is_right_N)[1]

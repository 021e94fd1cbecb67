"""Copies that were translated into another language and back, by two finished translation runs.

Source: Sennrich et al. 2016, who translate to gain pairs; Edunov et al. 2018, for drawing the tokens (`temperature`)
instead of taking the likeliest ones, which gives more various texts.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tunesmith.bundle.load import Bundle, load
from tunesmith.data.augment.entries import AUGMENT, Entry
from tunesmith.data.augment.making import Copies, Maker
from tunesmith.data.store import in_groups
from tunesmith.errors import PlanProblem
from tunesmith.types import Record

_TASK = "translation"
_AT_ONCE = 256  # rows whose texts are translated together


def back_translator(entry: Entry, fields: Sequence[str]) -> Maker:
    """Give what copies rows by translating their texts there and back.

    Args:
        entry: Names the two runs.
        fields: The texts that are translated.

    Raises:
        BundleProblem: A run is missing, unfinished or damaged.
        PlanProblem: A run was not made for translation.
    """
    there, back = (_opened(str(entry.settings[name]), name) for name in ("there", "back"))
    warmth = float(entry.settings["temperature"])
    options: dict[str, Any] = {"do_sample": True, "temperature": warmth, "num_beams": 1} if warmth else {}

    def make(records: Sequence[Record], chance: Callable[[Record], random.Random]) -> Copies:
        for group in in_groups(records, _AT_ONCE):
            texts = {str(record.fields[name]) for record in group for name in fields if record.fields.get(name)}
            middle = _translated(there, sorted(text for text in texts if text.strip()), options)
            final = _translated(back, sorted({text for text in middle.values() if text}), options)
            known = {text: final.get(other, "") for text, other in middle.items()}
            yield from (_copy(record, fields, known) for record in group)

    return make


def _opened(path: str, name: str) -> Bundle:
    bundle = load(path)
    if bundle.plan.task != _TASK:
        raise PlanProblem(
            f"the run that should translate '{name}' was made for {bundle.plan.task}",
            where=f"{AUGMENT}: {path}",
            do="give a run of task translation: tunesmith train PAIRS --task translation --model MODEL",
        )
    return bundle


def _translated(bundle: Bundle, texts: Sequence[str], options: dict[str, Any]) -> dict[str, str]:
    """Give what the run writes to each text, without space at its ends; texts it says nothing to are left out."""
    records = [bundle.record(text, row) for row, text in enumerate(texts, 1)]
    answers: Iterator[Any] = (answer.value for answer in bundle.predictions(records, **options))
    return {text: str(value).strip() for text, value in zip(texts, answers, strict=True) if value}


def _copy(record: Record, fields: Sequence[str], known: dict[str, str]) -> Record | None:
    texts = {name: known.get(str(record.fields.get(name)), "") for name in fields}
    found = {name: text for name, text in texts.items() if text and text != record.fields[name]}
    return dataclasses.replace(record, fields={**record.fields, **found}) if found else None

"""Rows that outlive their file: what a bundle keeps, personal data masked, so that an update can replay them.

A kept row holds its cells as a labelled file would, by role, so that every task reads it back as it reads a file.

Source: Rolnick et al. 2019 for replay against forgetting; the buffer is a class-balanced reservoir, as in Chaudhry et
al. 2019, section 4.2, but drawn by a hash of the row's id, so that adding rows never depends on their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.layout import Form
from tunesmith.data.mask import Masker
from tunesmith.types import to_json

FILE = "kept_rows.jsonl"
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class KeptRow:
    """One labelled row, as it would stand in a file."""

    id: str
    part: str  # train, valid or test: it stays there in every later update
    step: int  # the update that brought it; 0 for the first training
    cells: Mapping[str, Any]  # role -> value, inputs and targets
    feedback: str = ""  # id of the feedback that it comes from, if any: what a deletion looks for
    by: str = ""  # who gave that feedback


def write_kept(rows: Iterable[KeptRow]) -> bytes:
    """Give rows as lines of JSON."""
    lines = (json.dumps(to_json(row), ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "surrogatepass")


def read_kept(path: Path) -> list[KeptRow]:
    """Read what `write_kept` gave."""
    with path.open(encoding="utf-8", errors="surrogatepass") as file:
        return [KeptRow(**json.loads(line)) for line in file if line.strip()]


def reservoir(
    rows: Sequence[KeptRow],
    *,
    most_per_label: int,
    share: float,
    seed: int,
    labels_of: Callable[[KeptRow], tuple[str, ...]],
    left: Collection[str] = (),
    least: int = 0,
) -> list[KeptRow]:
    """Choose rows so that each label has `most_per_label` of them, or this share of its rows where that is more.

    Where that would leave fewer than `least` rows in all, labels share so many instead: what one with few rows does not
    need of its part, those with more have.

    Which rows are chosen depends on their ids and the seed alone: a row that leaves makes room for one other, and what
    was chosen before stays chosen as long as its label has room. Rows without labels count as one label.

    Args:
        rows: To choose from.
        most_per_label: Rows of each label.
        share: Of each label's rows (0..1).
        seed: Of the choice.
        labels_of: The labels of a row; one that has several counts for its rarest.
        left: Ids of rows that an earlier choice of this kind has left. Where they are more than `least`, and a label
            has more than `most_per_label` of them, each stands for as many rows as the share says.
        least: Rows in all that are kept where there are so many.
    """
    of_row = [labels_of(row) or ("",) for row in rows]
    counts: dict[str, int] = {}
    for labels in of_row:
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
    by_label: dict[str, list[KeptRow]] = {}
    for row, labels in zip(rows, of_row, strict=True):
        by_label.setdefault(min(labels, key=lambda label: (counts[label], label)), []).append(row)
    chosen: set[tuple[str, str]] = set()
    earlier, room = set(left), least
    for place, some in enumerate(sorted(by_label.values(), key=len)):
        part = room // (len(by_label) - place)
        room -= min(part, len(some))
        drawn = sum(row.id in earlier for row in some)
        is_by_share = share and drawn > most_per_label and len(earlier) > least
        seen = len(some) + (drawn / share - drawn if is_by_share else 0)
        most = max(most_per_label, part, round(share * seen))
        chosen |= {(row.part, row.id) for row in sorted(some, key=lambda row: _lot(row, seed))[:most]}
    return [row for row in rows if (row.part, row.id) in chosen]


def _lot(row: KeptRow, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{row.id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def thinned(rows: Sequence[KeptRow], most: int) -> list[KeptRow]:
    """Give at most so many of the rows, evenly spaced."""
    step = max(1.0, len(rows) / most)
    return [rows[int(place * step)] for place in range(min(most, len(rows)))]


def masked(row: KeptRow, forms: Sequence[Form], masker: Masker) -> KeptRow:
    """Give the row without personal data; places in its target are moved along with the text."""
    targets = {role for form in forms for role in form.targets}
    inputs = {role: value for role, value in row.cells.items() if role not in targets}
    answers = {role: masker.mask_answer(inputs, value) for role, value in row.cells.items() if role in targets}
    return dataclasses.replace(row, cells={**masker.mask_fields(inputs), **answers})

"""Make the copies: which rows, how often, what is left out, and an account of all of it.

Only training rows are copied, after the split. A copy that reads like a validation or test row is left out, and one
that reads like a training row or an earlier copy too: it would teach nothing, or the wrong label.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.data.augment.edits import Edit, edit_record, free_words
from tunesmith.data.augment.entries import Entry
from tunesmith.data.augment.random_edits import count_of, delete_words, replace_words, swap_words
from tunesmith.data.augment.synonym_table import SynonymTable
from tunesmith.data.augment.words import Cut, words_of
from tunesmith.data.normalise import fields_key
from tunesmith.data.store import Records, choose
from tunesmith.types import Augmentation, Record, Splits

UNCHANGED = "nothing in it could be changed"
HELD_OUT = "reads like a validation or test row"
REPEATED = "reads like a training row or another copy"

_SAMPLES = 3
_SHOWN = 200  # characters of a text in a sample

Copies = Iterator[Record | None]
"""One for each row in turn: its copy, with the row's own id; None where nothing could be changed."""

Maker = Callable[[Sequence[Record], Callable[[Record], random.Random]], Copies]
"""Copies rows once. The chance of a row is a function of it alone, so that no other row has a say in its copy."""

GroupOf = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Made:
    """What augmentation gave."""

    rows: Sequence[Record]
    account: tuple[Augmentation, ...]  # one for each entry, in order


def edit_maker(entry: Entry, fields: Sequence[str], *, cut: Cut | None, table: SynonymTable | None = None) -> Maker:
    """Give what copies rows by words left out, exchanged, or replaced from a table.

    Args:
        entry: Of kind delete, swap or synonyms.
        fields: The texts that may be changed; each is changed by itself.
        cut: How Chinese is cut into words; None: into characters.
        table: For synonyms.
    """
    share = float(entry.settings["share"])

    def edits_of(record: Record, name: str, draw: random.Random) -> list[Edit]:
        text = str(record.fields[name])
        words = words_of(text, cut)
        if table is not None:
            matches = table.matches(text, words)
            free = set(free_words(record, [place for place, _ in matches]))
            known = [match for match in matches if match[0] in free]
            return replace_words(text, known, count_of(share, len(words)), draw)
        change = delete_words if entry.kind == "delete" else swap_words
        return change(text, free_words(record, words), share, draw)

    def make(records: Sequence[Record], chance: Callable[[Record], random.Random]) -> Copies:
        for record in records:
            draw, copy = chance(record), record
            for name in fields:
                if isinstance(record.fields.get(name), str) and (edits := edits_of(record, name, draw)):
                    copy = edit_record(copy, name, edits)
            yield None if copy is record else copy

    return make


def make_rows(
    entries: Sequence[Entry],
    makers: Sequence[Maker | None],
    splits: Splits,
    *,
    seed: int,
    fields: Sequence[str],
    group_of: GroupOf = lambda fields: fields,
) -> Made:
    """Copy training rows.

    Args:
        entries: What was asked for.
        makers: One for each entry; None for what makes no rows (mixup).
        splits: Of the run; its training rows are copied, the others are only compared with.
        seed: Of the run.
        fields: The texts that may be changed, for samples.
        group_of: Gives the fields that rows share which a split keeps in one part: a copy must not cross it.
    """
    held_out = {fields_key(group_of(record.fields)) for part in (splits.valid, splits.test) for record in part}
    seen = {fields_key(record.fields) for record in splits.train}
    numbers: Counter[str] = Counter()  # copies of each kind so far: what ids end in
    found, account = Records(), []
    for place, (entry, maker) in enumerate(zip(entries, makers, strict=True)):
        left_out, samples, rows = Counter[str](), list[tuple[str, str]](), 0
        for copy in range(0 if maker is None else int(entry.settings.get("copies", 1))):
            assert maker is not None
            numbers[entry.kind] += 1
            label = f"{seed}/{place}/{entry.kind}/{copy}"
            chosen = _chosen(splits.train, float(entry.settings["rows"]), label)
            made = maker(chosen, functools.partial(_chance, label))
            for record, other in zip(chosen, made, strict=True):
                if why := _why_not(other, held_out, seen, group_of):
                    left_out[why] += 1
                    continue
                assert other is not None
                seen.add(fields_key(other.fields))
                found.append(dataclasses.replace(other, id=f"{record.id}~{entry.kind}{numbers[entry.kind]}"))
                rows += 1
                if len(samples) < _SAMPLES:
                    samples.append((_shown(record, fields), _shown(other, fields)))
        account.append(Augmentation(entry.kind, dict(entry.settings), rows, dict(left_out), tuple(samples)))
    return Made(found.settled(), tuple(account))


def _why_not(other: Record | None, held_out: set[int], seen: set[int], group_of: GroupOf) -> str:
    """Say why a copy is not used; empty where it is."""
    if other is None or not all(str(value).strip() for value in other.fields.values() if isinstance(value, str)):
        return UNCHANGED
    if fields_key(group_of(other.fields)) in held_out:
        return HELD_OUT
    return REPEATED if fields_key(other.fields) in seen else ""


def _chosen(records: Sequence[Record], share: float, label: str) -> Sequence[Record]:
    if share >= 1:
        return records
    count = max(1, int(share * len(records) + 0.5))
    return choose(records, sorted(random.Random(f"{label}/rows").sample(range(len(records)), count)))


def _chance(label: str, record: Record) -> random.Random:
    return random.Random(f"{label}/{record.id}")


def _shown(record: Record, fields: Sequence[str]) -> str:
    return " | ".join(str(record.fields[name])[:_SHOWN] for name in fields if name in record.fields)


def with_rows(records: Sequence[Record], more: Sequence[Record]) -> Sequence[Record]:
    """Give the records and those made of them, in one sequence; on disk where they are many."""
    both = Records()
    for part in (records, more):
        for record in part:
            both.append(record)
    return both.settled()

"""Rows that nobody has labelled, read one by one: each text once, none that is labelled already, all else counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunesmith import data
from tunesmith.bundle.evaluate import columns_for
from tunesmith.bundle.kept_rows import places_of
from tunesmith.bundle.load import Bundle
from tunesmith.data.first_rows import FirstRows
from tunesmith.data.normalise import fields_key
from tunesmith.errors import DataProblem, TunesmithError
from tunesmith.tasks import Task
from tunesmith.types import Origin, Record, Rejected

_LABELLED = ("data", "valid", "test")  # files of a plan that hold labels
_MOST_REJECTED = 20  # unreadable rows that are told one by one; all are counted


class KnownTexts:
    """Which texts stand in which part, by 64-bit keys of their normal form: eight bytes each.

    Args:
        task: Says which fields a split keeps in one part: rows that share them are known.
        parts: Name -> its records, e.g. those of train, valid and test.
    """

    def __init__(self, task: Task, parts: Mapping[str, Iterable[Record]]) -> None:
        self._task = task
        self._keys = {name: self._sorted(records) for name, records in parts.items()}

    def _sorted(self, records: Iterable[Record]) -> npt.NDArray[np.uint64]:
        keys = (fields_key(self._task.group_of(record.fields)) for record in records)
        return np.unique(np.fromiter(keys, dtype=np.uint64))

    def part_of(self, fields: Mapping[str, Any]) -> str:
        """Give the part in which the text of a row stands; empty where it stands in none."""
        key = np.uint64(fields_key(self._task.group_of(fields)))
        for name, keys in self._keys.items():
            place = int(np.searchsorted(keys, key))
            if place < len(keys) and keys[place] == key:
                return name
        return ""


class UnlabelledRows:
    """The rows of a file as records without targets. Iterate as often as needed: each time the file is read anew.

    After a pass `counts` says what became of every row: `rows`, `used`, `unreadable`, `repeated` (its text stood
    earlier in the file), and `in PART` for each part of `known` (its text is there).

    Args:
        source: The opened file.
        columns: Of the inputs; a column of labels is not looked at.
        task: Reads the inputs.
        known: Texts that are left out.
    """

    def __init__(self, source: data.Source, columns: data.Columns, task: Task, known: KnownTexts) -> None:
        self.source, self.columns, self.task, self.known = source, columns, task, known
        self.counts: Counter[str] = Counter()
        self.rejected: list[Rejected] = []  # the first ones

    def __iter__(self) -> Iterator[Record]:
        self.counts, self.rejected, seen = Counter(), [], FirstRows()
        for row, found in self.source.rows():
            self.counts["rows"] += 1
            record = self._read(row, found)
            if isinstance(record, Rejected):
                self.counts["unreadable"] += 1
                self.rejected += [record] if len(self.rejected) < _MOST_REJECTED else []
                continue
            if part := self.known.part_of(record.fields):
                self.counts[f"in {part}"] += 1
            elif seen.note(f"{fields_key(record.fields):x}", row) != row:
                self.counts["repeated"] += 1
            else:
                self.counts["used"] += 1
                yield record

    def _read(self, row: int, found: dict[str, Any] | data.BadRow) -> Record | Rejected:
        origin = Origin(self.source.path, row)
        if isinstance(found, data.BadRow):
            return Rejected(origin, found.kind, found.reason, found.do, found.fields)
        cells = data.Cells(found, self.columns.roles)
        try:
            return Record(f"{self.source.sha256[:8]}-{row}", self.task.read_input(cells), None, origin)
        except data.Fault as fault:
            return Rejected(origin, fault.kind, fault.reason, fault.do, {})

    def demand_rows(self) -> None:
        """Refuse a file of which, after a pass, no row could be read.

        Raises:
            DataProblem: With the reason of the first row.
        """
        if self.counts["unreadable"] < self.counts["rows"]:
            return
        first = f"; the first: {self.rejected[0].reason}" if self.rejected else ""
        raise DataProblem(
            f"none of the {self.counts['rows']} rows can be read{first}",
            where=str(self.rejected[0].origin) if self.rejected else self.source.path,
            do=f"look at them with: tunesmith inspect {self.source.path}",
        )


def open_unlabelled(
    bundle: Bundle, path: str | Path, known: KnownTexts, *, columns: Mapping[str, str] | None = None
) -> UnlabelledRows:
    """Open a file of rows to be answered by a bundle, with the columns of its training where the file has them."""
    source = data.read(path)
    found = columns_for(bundle, source, columns or {}, needs_targets=False)
    return UnlabelledRows(source, found, bundle.task, known)


def labelled_rows(bundle: Bundle, more: Sequence[str | Path] = ()) -> tuple[dict[str, UnlabelledRows], list[str]]:
    """Find the files that a run was made of, and others with labels; their labels are not looked at.

    Args:
        bundle: Of the run.
        more: Files that were labelled since.

    Returns:
        Name -> rows, for each file that is still there; and a sentence for each that is not, or has changed.
    """
    found: dict[str, UnlabelledRows] = {}
    said: list[str] = []
    for part, file in bundle.plan.data["files"].items():
        if part not in _LABELLED:
            continue
        path = next((place for place in places_of(bundle, part) if _is_same(place, file["sha256"])), None)
        if path is None:
            said.append(
                f"{file['path']}, the {part} file of the run, is gone or has changed: its texts are not left out"
            )
        else:
            found["training file" if part == "data" else f"{part} file"] = _open_bare(bundle, path)
    for given in more:
        found[Path(given).name] = _open_bare(bundle, given)
    return found, said


def _open_bare(bundle: Bundle, path: str | Path) -> UnlabelledRows:
    return open_unlabelled(bundle, path, KnownTexts(bundle.task, {}))


def _is_same(path: str, sha256: str) -> bool:
    try:
        return data.read(path).sha256 == sha256
    except (TunesmithError, OSError):  # it may be in the other place
        return False

"""Records in order: in memory while they are few, on disk once they are many, and a sequence in both cases.

The file on disk has no name, so that nothing is left of it when the process ends, however it ends. It stands in the
system's folder for temporary files (TMPDIR). What it holds never comes from elsewhere, so pickles are safe here. It is
read, not mapped: mapped pages would count as this process's memory.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

from tunesmith.errors import MachineProblem
from tunesmith.types import Origin, Record

MOST_IN_MEMORY = 20_000
"""Records, or examples, up to which they stay in memory: some 30 MiB with sentences. A record from disk costs about 5
microseconds, which is nothing beside a training step and something beside a hundred thousand of them."""

_AT_ONCE = 256  # pieces that are read together
_BLOCK_BYTES = 1 << 20

Item = TypeVar("Item")


class EntryFile:
    """Pieces of bytes, appended once and then read in any order, by any thread.

    Args:
        path: A file that is there already, to be read; else the pieces go to a file without a name.
        sizes: Bytes of each piece of that file.
    """

    def __init__(self, path: Path | None = None, sizes: Iterable[int] = ()) -> None:
        self._lock = threading.Lock()
        with _explained():
            # Open as long as this lives: its name, if it had one, may be gone by then.
            self._file: Any = path.open("rb", buffering=0) if path else tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._waiting = bytearray()  # appended and not yet written
        self._starts = array("Q", itertools.accumulate(sizes, initial=0))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def sizes(self) -> array[int]:
        """Bytes of each piece."""
        return array("I", (end - start for start, end in itertools.pairwise(self._starts)))

    def append(self, entry: bytes) -> None:
        """Add a piece.

        Raises:
            MachineProblem: The disk is full.
        """
        self._waiting += entry
        self._starts.append(self._starts[-1] + len(entry))
        if len(self._waiting) > _BLOCK_BYTES:
            self._write()

    def read(self, place: int) -> bytes:
        """Give one piece."""
        return self._span(self._starts[place], self._starts[place + 1])

    def iterate(self, places: Iterable[int]) -> Iterator[bytes]:
        """Give the pieces at these places; neighbours are read together."""
        for group in in_groups(places, _AT_ONCE):
            first, last = group[0], group[-1] + 1
            if last - first > 2 * len(group) or min(group) < first or max(group) >= last:
                yield from map(self.read, group)
                continue
            start = self._starts[first]
            block = self._span(start, self._starts[last])
            for place in group:
                yield block[self._starts[place] - start : self._starts[place + 1] - start]

    def blocks(self) -> Iterator[bytes]:
        """Give all pieces in large blocks, e.g. for a copy."""
        for start in range(0, self._starts[-1], _BLOCK_BYTES):
            yield self._span(start, min(start + _BLOCK_BYTES, self._starts[-1]))

    def _span(self, start: int, end: int) -> bytes:
        if self._waiting:
            self._write()
        with self._lock:
            try:
                self._file.seek(start)
                found: bytes = self._file.read(end - start)
            except OSError as error:
                raise _failure(error) from error
        if len(found) != end - start:
            raise _failure(OSError(errno.EIO, os.strerror(errno.EIO)))
        return found

    def _write(self) -> None:
        with self._lock, _explained():
            self._file.seek(0, os.SEEK_END)
            view = memoryview(bytes(self._waiting))
            while view:
                view = view[self._file.write(view) :]
            self._waiting.clear()


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(error) from error


def _failure(error: OSError) -> MachineProblem:
    return MachineProblem(
        f"the temporary file of the rows failed: {error.strerror or error}",
        where=tempfile.gettempdir(),
        do="free some space there, or name a folder on another disk with the environment variable TMPDIR",
    )


class Records(Sequence[Record]):
    """Records that are appended one by one; `settled` gives them for reading."""

    def __init__(self, most_in_memory: int = MOST_IN_MEMORY) -> None:
        self._most = most_in_memory
        self._held: list[Record] = []
        self._file: EntryFile | None = None

    def append(self, record: Record) -> None:
        """Add a record; the one that is too much for memory takes all others to disk."""
        if self._file is None and len(self._held) < self._most:
            self._held.append(record)
            return
        if self._file is None:
            self._file = EntryFile()
            for held in self._held:
                self._file.append(_pack(held))
            self._held = []
        self._file.append(_pack(record))

    def settled(self) -> Sequence[Record]:
        """Give a tuple where all are in memory, else this."""
        return tuple(self._held) if self._file is None else self

    def __len__(self) -> int:
        return len(self._held) if self._file is None else len(self._file)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Record]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return choose(self, range(*place.indices(len(self))))
        place = range(len(self))[place]
        return self._held[place] if self._file is None else _unpack(self._file.read(place))

    def __iter__(self) -> Iterator[Record]:
        return self.iterate(range(len(self)))

    def iterate(self, places: Iterable[int]) -> Iterator[Record]:
        """Give the records at these places (0 and more)."""
        return map(self._held.__getitem__, places) if self._file is None else map(_unpack, self._file.iterate(places))


class Chosen(Sequence[Record]):
    """Some of the records of a store, in an order of their own; costs eight bytes for each."""

    def __init__(self, records: Records, places: array[int]) -> None:
        self.records, self.places = records, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Record]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Chosen(self.records, self.places[place])
        return self.records[self.places[place]]

    def __iter__(self) -> Iterator[Record]:
        return self.records.iterate(self.places)


def choose(records: Sequence[Record], places: Iterable[int]) -> Sequence[Record]:
    """Give the records at these places (0 and more): a tuple of what is in memory, a view of what is on disk."""
    if isinstance(records, Chosen):
        return Chosen(records.records, array("Q", (records.places[place] for place in places)))
    if isinstance(records, Records):
        return Chosen(records, array("Q", places))
    return tuple(records[place] for place in places)


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Give the items in lists of `size` (the last may be shorter)."""
    waiting = iter(items)
    while group := list(itertools.islice(waiting, size)):
        yield group


def _pack(record: Record) -> bytes:
    origin = record.origin
    return pickle.dumps((record.id, dict(record.fields), record.target, origin.path, origin.row), protocol=5)


def _unpack(entry: bytes) -> Record:
    record_id, fields, target, path, row = pickle.loads(entry)
    return Record(record_id, fields, target, Origin(path, row))

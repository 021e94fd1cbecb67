"""Examples that are encoded once: in memory while few, on disk once many, and found again by who needs the same ones.

FOLDER/KEY/                    FOLDER is `encoded` in the run's own folder, or one that several runs share
  train.bin, valid.bin, ...    one entry for each example: its ids (two or four bytes each), then the rest as JSON
  train-sizes.bin, ...         bytes of each entry, four bytes each
  train-lengths.bin, ...       tokens of each example, four bytes each
  facts.json                   the length at which texts were cut, counts
  manifest.json                hashes; written last, so a folder that has it is whole

The key is a hash of all that decides the ids: rows, labels, task and its options, tokenizer, and the lengths asked for.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from filelock import FileLock

import tunesmith
from tunesmith.bundle.atomic import demand_space, explain_os_errors, find_damage, write_folder, write_json
from tunesmith.data.store import MOST_IN_MEMORY, EntryFile, choose
from tunesmith.models.find import key_of
from tunesmith.tasks import Example, Task
from tunesmith.tasks.base import BaseTask
from tunesmith.tasks.batching import lengths_of
from tunesmith.tasks.pairs import TwoTexts
from tunesmith.training.plan import choose_max_length
from tunesmith.training.recipe import AUTO
from tunesmith.types import Record, Splits

PARTS = ("train", "valid", "test")
LEAST_KEPT = 2_000
"""Examples from which they are worth a file: fewer are encoded anew in a third of a second."""

_COUNT = struct.Struct("<I")


class Encoded(Sequence[Example]):
    """Examples on disk, one for each record; made when they are asked for, from twelve bytes of memory each."""

    def __init__(self, entries: EntryFile, lengths: array[int], kind: str, *, cut: int, records: Sequence[Record]):
        self.entries, self.lengths, self.kind = entries, lengths, kind
        self.cut = cut  # examples of which something was cut off
        self._records = records

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Example]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return list(self._iterate(range(*place.indices(len(self)))))
        place = range(len(self))[place]
        return _unpack(self.entries.read(place), self.kind, self._records[place])

    def __iter__(self) -> Iterator[Example]:
        return self._iterate(range(len(self)))

    def _iterate(self, places: range) -> Iterator[Example]:
        records = choose(self._records, places) if len(places) < len(self) else self._records
        for entry, record in zip(self.entries.iterate(places), records, strict=True):
            yield _unpack(entry, self.kind, record)


class Packing:
    """Takes examples one by one; more than `most_in_memory` of them go to disk.

    Args:
        records: Theirs, in order.
        kind: Of array for the ids: "H" (two bytes) or "I" (four).
        most_in_memory: Examples.
    """

    def __init__(self, records: Sequence[Record], kind: str, most_in_memory: int = MOST_IN_MEMORY) -> None:
        self._records, self._kind = records, kind
        self._held: list[Example] = []
        self._entries = EntryFile() if len(records) > most_in_memory else None
        self._lengths, self._cut = array("I"), 0

    def append(self, example: Example) -> None:
        """Take the next example."""
        if self._entries is None:
            self._held.append(example)
            return
        self._entries.append(_pack(example, self._kind))
        self._lengths.append(example.length)
        self._cut += example.was_cut

    def settled(self) -> Sequence[Example]:
        """Give what was taken: a list, or what is on disk."""
        if self._entries is None:
            return self._held
        return Encoded(self._entries, self._lengths, self._kind, cut=self._cut, records=self._records)


def _pack(example: Example, kind: str) -> bytes:
    other = example.other if isinstance(example, TwoTexts) else None
    rest = json.dumps([example.target, example.was_cut, example.segments, other], separators=(",", ":"))
    return _COUNT.pack(len(example.tokens)) + array(kind, example.tokens).tobytes() + rest.encode()


def _unpack(entry: bytes, kind: str, record: Record) -> Example:
    (count,) = _COUNT.unpack_from(entry)
    ids = array(kind)
    end = _COUNT.size + count * ids.itemsize
    ids.frombytes(entry[_COUNT.size : end])
    target, was_cut, segments, other = json.loads(entry[end:])
    target = tuple(target) if isinstance(target, list) else target
    if other is None:
        return Example(tuple(ids), target, was_cut, tuple(segments), record)
    return TwoTexts(tuple(ids), target, was_cut, tuple(segments), record, tuple(other))


def is_by_row(task: Task) -> bool:
    """Whether the task encodes each record for itself, into one example: `encoding` says so, and gives them one by one.

    A subclass that encodes in its own way (`encode`), or looks at the examples to settle its options, has to be asked
    for all of them at once.
    """
    order = type(task).__mro__

    def owner(name: str) -> type | None:
        return next((kind for kind in order if name in vars(kind)), None)

    streaming, whole = owner("encoding"), owner("encode")
    is_streamed = streaming is not None and whole is not None and issubclass(streaming, whole)
    return is_streamed and owner("resolved") is BaseTask


@dataclass(frozen=True)
class Encoding:
    """All three parts as examples."""

    task: Task  # with nothing left open
    parts: Mapping[str, Sequence[Example]]
    max_length: int  # tokens at which texts are cut
    key: str = ""  # empty where it cannot be found again: a task of one's own, or one that does not encode row by row
    kind: str = "I"

    def keep(self, folder: Path) -> None:
        """Write the examples where an `Encoder` finds them, unless they are there; a few are left out.

        Raises:
            MachineProblem: The disk is full.
        """
        if not self.key or sum(map(len, self.parts.values())) < LEAST_KEPT:
            return
        target = folder / self.key
        with explain_os_errors(folder, "making the folder of encoded rows"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{self.key}.lock"):
            if not find_damage(target):
                return
            shutil.rmtree(target, ignore_errors=True)
            demand_space(folder, sum(sum(lengths_of(part)) for part in self.parts.values()) * array(self.kind).itemsize)
            write_folder(target, self._write)

    def _write(self, folder: Path) -> None:
        facts: dict[str, Any] = {"max_length": self.max_length, "kind": self.kind}
        for name, examples in self.parts.items():
            packed = examples
            if not isinstance(packed, Encoded):
                packing = Packing([], self.kind, most_in_memory=-1)
                for example in examples:
                    packing.append(example)
                packed = packing.settled()
            assert isinstance(packed, Encoded)
            with (folder / f"{name}.bin").open("wb") as file:
                file.writelines(packed.entries.blocks())
            (folder / f"{name}-sizes.bin").write_bytes(packed.entries.sizes.tobytes())
            (folder / f"{name}-lengths.bin").write_bytes(packed.lengths.tobytes())
            facts[name] = {"cut": packed.cut}
        write_json(folder / "facts.json", facts)


@dataclass(frozen=True)
class Encoder:
    """What encodes the rows of a run, and all that decides how."""

    task: Task
    tokenizer: Any
    tokenizer_sha256: str  # over the base model's files, those of the tokenizer among them
    labels: Sequence[str]
    limit: int  # most tokens that the model reads
    max_length: Any  # as the recipe asks it, or "auto"
    most_in_memory: int = field(default=MOST_IN_MEMORY, compare=False)

    def encode(self, splits: Splits, folder: Path | None = None) -> Encoding:
        """Encode all parts, or find them in a folder where an earlier run kept them.

        Raises:
            PlanProblem: `max_length` is more than the model can read.
        """
        if not is_by_row(self.task):
            return self._encode_at_once(splits)
        key = self._key(splits)
        if folder is not None and key and not find_damage(folder / key):
            return self._found(folder / key, splits)
        longest = min(self.limit, self.task.longest) if self.max_length == AUTO else int(self.max_length)
        train = self._encode_part(splits.train, min(longest, self.limit))
        max_length = choose_max_length(self.max_length, lengths_of(train), self.limit, self.task.longest)
        train = self._cut_back(train, splits.train, max_length) if max_length < longest else train
        rest = {part: self._encode_part(getattr(splits, part), max_length) for part in PARTS[1:]}
        return Encoding(self.task, {"train": train, **rest}, max_length, key, self._kind)

    def _encode_at_once(self, splits: Splits) -> Encoding:
        """Encode with a task that needs to see all rows, or makes several examples of one; these stay in memory."""
        task, settings = self.task, {"tokenizer": self.tokenizer, "labels": self.labels}
        train = task.encode(splits.train, max_length=self.limit, **settings)
        max_length = choose_max_length(self.max_length, lengths_of(train), self.limit, task.longest)
        self.tokenizer.model_max_length = max_length
        if max_length != self.limit:
            train = task.encode(splits.train, max_length=max_length, **settings)
        resolved = task.resolved(train)
        if resolved != task:  # what it has decided may change what is read: all rows are read as later ones will be
            task = resolved
            train = task.encode(splits.train, max_length=max_length, **settings)
        rest = {part: task.encode(getattr(splits, part), max_length=max_length, **settings) for part in PARTS[1:]}
        return Encoding(task, {"train": train, **rest}, max_length)

    def _encode_part(self, records: Sequence[Record], max_length: int) -> Sequence[Example]:
        packing = Packing(records, self._kind, self.most_in_memory)
        for example in self._encoding(records, max_length):
            packing.append(example)
        return packing.settled()

    def _encoding(self, records: Sequence[Record], max_length: int) -> Iterator[Example]:
        task: Any = self.task
        found: Iterator[Example] = task.encoding(records, self.tokenizer, labels=self.labels, max_length=max_length)
        return found

    def _cut_back(self, examples: Sequence[Example], records: Sequence[Record], most: int) -> Sequence[Example]:
        """Encode again what is longer than `most` tokens; all else is the same at any larger limit."""
        if not examples:
            return examples
        sides = 2 if isinstance(examples[0], TwoTexts) else 1  # the length of two texts is twice the longer side
        long = array("Q", (place for place, length in enumerate(lengths_of(examples)) if length > sides * most))
        if not long:
            return examples
        anew = zip(long, self._encoding(choose(records, long), most), strict=True)
        packing = Packing(records, self._kind, self.most_in_memory)
        place, shorter = next(anew)
        for here, example in enumerate(examples):
            if here == place:
                # The target may depend on all rows together (a score's place in their range): it stays.
                packing.append(dataclasses.replace(shorter, target=example.target))
                place, shorter = next(anew, (-1, shorter))
            else:
                packing.append(example)
        return packing.settled()

    @property
    def _kind(self) -> str:
        largest = max(len(self.tokenizer), *(self.tokenizer.get_vocab().values() or (0,)))
        return "H" if largest < 2**16 else "I"

    def _key(self, splits: Splits) -> str:
        """Give a hash over all that decides the ids; none for a task whose code may change meanwhile."""
        kind = type(self.task)
        if not kind.__module__.startswith("tunesmith."):
            return ""
        options = {name: getattr(self.task, name) for name in self.task.options}
        lengths = (self.limit, self.max_length, self.task.longest)
        made_of = (tunesmith.__version__, f"{kind.__module__}.{kind.__qualname__}", options, self.tokenizer_sha256)
        return key_of(splits.fingerprint, made_of, tuple(self.labels), lengths)

    def _found(self, folder: Path, splits: Splits) -> Encoding:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        kind, parts = facts["kind"], {}
        for part in PARTS:
            sizes, lengths = array("I"), array("I")
            sizes.frombytes((folder / f"{part}-sizes.bin").read_bytes())
            lengths.frombytes((folder / f"{part}-lengths.bin").read_bytes())
            entries, records = EntryFile(folder / f"{part}.bin", sizes), getattr(splits, part)
            found = Encoded(entries, lengths, kind, cut=facts[part]["cut"], records=records)
            parts[part] = list(found) if len(found) <= self.most_in_memory else found
        return Encoding(self.task, parts, facts["max_length"], folder.name, kind)

"""The corpus as token ids on disk: a stream for training and one for validation, read through a memory map.

corpus/tokens-KEY/
  train.bin, valid.bin      ids in file order, two or four bytes each, the separator after every document
  train-words.bin, ...      with masking by segmentation: one byte a token, 1 where a word starts
  facts.json                counts
  manifest.json             hashes; written last, so a folder that has it is whole

The key is a hash of all that decides the ids. A run that is resumed or repeated in its folder finds them there.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tunesmith.bundle.atomic import demand_space, find_damage, write_folder, write_json
from tunesmith.models.find import key_of
from tunesmith.pretraining.corpus import CorpusFile, Held, read_documents
from tunesmith.pretraining.words import load_segmenter

PARTS = ("train", "valid")
_BATCH_CHARACTERS = 2_000_000  # that are tokenised at once
_BATCH_DOCUMENTS = 2000

Ids = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Stream:
    """One part of the corpus as ids."""

    ids: Ids  # a memory map
    words: npt.NDArray[np.uint8] | None  # 1 where a word starts; None where the ids alone tell
    documents: int
    characters: int
    unknown: int  # tokens that the vocabulary lacks


@dataclass(frozen=True)
class Tokens:
    """Both parts."""

    train: Stream
    valid: Stream
    leaks: int  # training documents left out because the validation file holds them
    key: str


@dataclass(frozen=True)
class Separator:
    """What stands between documents, and before the first."""

    after: int
    first: int | None = None


def tokenise(
    files: Sequence[CorpusFile],
    *,
    valid: Sequence[CorpusFile],
    held: Held,
    tokenizer: Any,
    separator: Separator,
    is_segmented: bool,
    folder: Path,
    report: Callable[[str], None] = lambda text: None,
) -> Tokens:
    """Turn the corpus into ids on disk, or find them there.

    Args:
        files: The corpus; documents that `held` names go to validation (or, with `valid`, nowhere: they leak).
        valid: Files of the validation part; empty where it is held out from the corpus.
        held: Who is held out.
        tokenizer: A fast one; text that looks like a special token is taken as text.
        separator: Ids that stand between documents.
        is_segmented: Also keep where words start, as jieba cuts them.
        folder: Where token folders live (the run's `corpus`).
        report: Told now and then how far it is.

    Raises:
        MissingExtra: jieba is needed and not installed.
        MachineProblem: The disk is full.
    """
    backend = _backend(tokenizer)
    given = [[(file.sha256, file.mode) for file in group] for group in (files, valid)]
    key = key_of(given, held.seed, held.share, held.keys, backend.to_str(), vars(separator), is_segmented)
    target = folder / f"tokens-{key}"
    if find_damage(target):
        folder.mkdir(parents=True, exist_ok=True)
        demand_space(folder, 2 * sum(Path(file.path).stat().st_size for file in [*files, *valid]))
        writer = _Writer(backend, tokenizer.unk_token_id, separator, is_segmented)
        parts = _assign(files, valid, held)
        shutil.rmtree(target, ignore_errors=True)
        write_folder(target, lambda temporary: writer.write(temporary, parts, report))
    return _open(target, key)


def _backend(tokenizer: Any) -> Tokenizer:
    """Give a copy of the tokenizer's core without cutting, padding, and special tokens in text."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _assign(files: Sequence[CorpusFile], valid: Sequence[CorpusFile], held: Held) -> Iterator[tuple[str, str]]:
    """Give every document with its part: train, valid, or leak."""
    for text, key in read_documents(files):
        yield ("train" if not held.has(key) else "leak" if valid else "valid"), text
    for text, _ in read_documents(valid):
        yield "valid", text


class _Writer:
    """Encodes documents in batches and adds their ids to the files of their parts."""

    def __init__(self, backend: Tokenizer, unknown_id: int | None, separator: Separator, is_segmented: bool) -> None:
        self.backend, self.separator = backend, separator
        self.unknown_id = -1 if unknown_id is None else unknown_id
        self.kind: Any = np.uint16 if backend.get_vocab_size() <= 2**16 else np.uint32
        self.word_starts = load_segmenter() if is_segmented else None
        self.counts: Counter[str] = Counter()

    def write(self, folder: Path, documents: Iterator[tuple[str, str]], report: Callable[[str], None]) -> None:
        """Write all files of the folder but its manifest."""
        names = [f"{part}{kind}.bin" for part in PARTS for kind in ("", "-words")[: 2 if self.word_starts else 1]]
        files: dict[str, IO[bytes]] = {name: (folder / name).open("wb") for name in names}
        try:
            for part in PARTS if self.separator.first is not None else ():
                self._add(files, part, np.array([self.separator.first]), np.ones(1, dtype=np.uint8))
            for batch in _batches(documents):
                self._encode(files, batch)
                done = sum(self.counts[f"{part}-characters"] for part in PARTS)
                report(f"tokenised {done / 1e6:,.1f} million characters")
        finally:
            for file in files.values():
                file.close()
        write_json(folder / "facts.json", {"bytes": np.dtype(self.kind).itemsize, **self.counts})

    def _encode(self, files: dict[str, IO[bytes]], batch: list[tuple[str, str]]) -> None:
        self.counts["leaks"] += sum(part == "leak" for part, _ in batch)
        batch = [item for item in batch if item[0] != "leak"]
        texts = [text for _, text in batch]
        if self.word_starts is None:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        else:
            encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        for (part, text), encoding in zip(batch, encodings, strict=True):
            ids = np.array([*encoding.ids, self.separator.after])
            self._add(files, part, ids, self._words(text, encoding))
            self.counts[f"{part}-documents"] += 1
            self.counts[f"{part}-characters"] += len(text)
            self.counts[f"{part}-unknown"] += int((ids == self.unknown_id).sum())

    def _words(self, text: str, encoding: Any) -> npt.NDArray[np.uint8] | None:
        """Mark the tokens with which a word of the segmenter starts, and the separator."""
        if self.word_starts is None:
            return None
        places = set(self.word_starts(text))
        marks = [bool(places.intersection(range(start, max(end, start + 1)))) for start, end in encoding.offsets]
        return np.array([*marks, True], dtype=np.uint8)

    def _add(self, files: dict[str, IO[bytes]], part: str, ids: Any, words: npt.NDArray[np.uint8] | None) -> None:
        files[f"{part}.bin"].write(ids.astype(self.kind).tobytes())
        if self.word_starts is not None and words is not None:
            files[f"{part}-words.bin"].write(words.tobytes())
        self.counts[f"{part}-tokens"] += len(ids)


def _batches(documents: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """Group documents so that neither their number nor their characters grow large."""
    while batch := list(itertools.islice(documents, 1)):
        size = len(batch[0][1])
        while size < _BATCH_CHARACTERS and len(batch) < _BATCH_DOCUMENTS and (item := next(documents, None)):
            batch.append(item)
            size += len(item[1])
        yield batch


def _open(folder: Path, key: str) -> Tokens:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    kind: Any = np.uint16 if facts["bytes"] == 2 else np.uint32

    def stream(part: str) -> Stream:
        words = folder / f"{part}-words.bin"
        return Stream(
            _map(folder / f"{part}.bin", kind),
            _map(words, np.uint8) if words.is_file() else None,
            documents=facts.get(f"{part}-documents", 0),
            characters=facts.get(f"{part}-characters", 0),
            unknown=facts.get(f"{part}-unknown", 0),
        )

    return Tokens(stream("train"), stream("valid"), facts.get("leaks", 0), key)


def _map(path: Path, kind: Any) -> Any:
    """Map a file of numbers; an empty file cannot be mapped and is an empty array."""
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.zeros(0, dtype=kind)

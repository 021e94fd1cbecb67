"""Cut a data set of a folder into small files that all contestants read, and count their tokens.

A set is a folder with `train`, `test` and perhaps `dev`, as CSV, JSON Lines (text, label) or CoNLL, also packed (.gz).
Where a part is missing it is cut from the training rows, which lose it. Rows come from a seeded shuffle; texts that
stand twice are taken once, so that nobody has to drop any.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ENDINGS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".conll", ".conll.gz")
_PARTS = {"train": ("train",), "valid": ("dev", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class Slice:
    """Three files of one set, and what is in them."""

    name: str
    kind: str  # "text-classification" or "token-classification"
    files: dict[str, str]  # part -> path; {"text", "label"} as CSV, or CoNLL
    rows: dict[str, int]

    def job(self) -> dict[str, Any]:
        """Give what a contestant has to know."""
        return {"set": self.name, "kind": self.kind, **self.files}


def find_set(root: Path, name: str) -> Path:
    """Give the folder of that name in `root`, or one level deeper; `root` itself where it has the name."""
    places = [root] if root.name == name else [root / name, *sorted(root.glob(f"*/{name}"))]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise SystemExit(f"there is no data set '{name}' in {root} or in the folders there")
    return found


def cut(root: Path, name: str, out: Path, *, rows: int, test_rows: int, seed: int = 13) -> Slice:
    """Write `train`, `valid` and `test` of a set as plain files and give them."""
    folder = find_set(root, name)
    parts = {part: _read_part(folder, names) for part, names in _PARTS.items()}
    is_tagged = any(isinstance(row[0], list) for row in parts["train"])
    pools = {part: _distinct(content, seed) for part, content in parts.items()}
    limits = {"train": rows, "valid": test_rows, "test": test_rows}
    for part in ("valid", "test"):
        if not pools[part]:  # at most a fifth of the training rows
            count = min(test_rows, len(pools["train"]) // 5)
            pools[part], pools["train"] = pools["train"][:count], pools["train"][count:]
    held_out = {_key(row) for part in ("valid", "test") for row in pools[part]}
    pools["train"] = [row for row in pools["train"] if _key(row) not in held_out]
    out.mkdir(parents=True, exist_ok=True)
    chosen = {part: pool[: limits[part]] for part, pool in pools.items()}
    write = _write_conll if is_tagged else _write_csv
    files = {part: str(write(out / f"{name}-{part}", content)) for part, content in chosen.items()}
    kind = "token-classification" if is_tagged else "text-classification"
    return Slice(name, kind, files, {part: len(content) for part, content in chosen.items()})


def count_tokens(path: str, model: str, max_length: int) -> int:
    """Give the real tokens of a file's rows, special ones included, cut to `max_length`; padding is none."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = read(path)
    is_tagged = isinstance(rows[0][0], list)
    texts = [row[0] for row in rows]
    return sum(min(len(each.ids), max_length) for each in tokenizer.encode_batch(texts, is_pretokenized=is_tagged))


def read(path: str | Path) -> list[tuple[Any, Any]]:
    """Give the rows of a file: (text, label), or (words, tags)."""
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        if kind == ".csv":
            return [(row["text"], row["label"]) for row in csv.DictReader(file)]
        if kind == ".jsonl":
            return [(row["text"], str(row["label"])) for row in map(json.loads, file)]
        blocks = file.read().replace("\r\n", "\n").split("\n\n")
    lines = [[line.split() for line in block.split("\n") if line.strip()] for block in blocks]
    return [([line[0] for line in block], [line[-1] for line in block]) for block in lines if block]


def _read_part(folder: Path, names: tuple[str, ...]) -> list[tuple[Any, Any]]:
    paths = [folder / f"{name}{ending}" for name in names for ending in _ENDINGS]
    return next((read(path) for path in paths if path.is_file()), [])


def _key(row: tuple[Any, Any]) -> str:
    text = " ".join(row[0]) if isinstance(row[0], list) else row[0]
    return " ".join(text.split()).casefold()


def _distinct(content: list[tuple[Any, Any]], seed: int) -> list[tuple[Any, Any]]:
    kept = {_key(row): row for row in reversed(content)}
    order = sorted(kept)
    random.Random(seed).shuffle(order)
    return [kept[key] for key in order]


def _write_csv(stem: Path, content: list[tuple[Any, Any]]) -> Path:
    path = stem.with_suffix(".csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *content])
    return path


def _write_conll(stem: Path, content: list[tuple[Any, Any]]) -> Path:
    path = stem.with_suffix(".conll")
    blocks = ["\n".join(f"{word} {tag}" for word, tag in zip(*row, strict=True)) for row in content]
    path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path

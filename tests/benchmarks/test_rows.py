"""All contestants read the same rows, and real tokens are counted."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest


def test_parts_share_no_text_and_no_text_stands_twice(benchmark_modules: Any, tmp_path: Path) -> None:
    rows = benchmark_modules("rows")
    folder = tmp_path / "sets" / "small"
    folder.mkdir(parents=True)
    lines = [f"text {index},label{index % 3}" for index in range(40)] + ["TEXT  1,label1", "text 2,label2"]
    (folder / "train.csv.gz").write_bytes(gzip.compress("\n".join(["text,label", *lines]).encode()))
    (folder / "test.csv").write_text("text,label\ntext 3,label0\nother,label1\n", encoding="utf-8")
    cut = rows.cut(tmp_path, "small", tmp_path / "out", rows=25, test_rows=5)
    assert cut.kind == "text-classification"
    assert cut.rows == {"train": 25, "valid": 5, "test": 2}
    texts = {part: [text for text, _ in rows.read(path)] for part, path in cut.files.items()}
    everything = [" ".join(text.split()).casefold() for part in texts.values() for text in part]
    assert len(everything) == len(set(everything)) == 32
    again = rows.cut(tmp_path, "small", tmp_path / "again", rows=25, test_rows=5)
    assert rows.read(again.files["train"]) == rows.read(cut.files["train"])


def test_tagged_rows_stay_tagged(benchmark_modules: Any, data: Path, tmp_path: Path) -> None:
    rows = benchmark_modules("rows")
    cut = rows.cut(data, "tagged", tmp_path / "out", rows=30, test_rows=9)
    assert cut.kind == "token-classification"
    words, tags = rows.read(cut.files["train"])[0]
    assert len(words) == len(tags)
    assert {"O"} < {tag for _, tags in rows.read(cut.files["train"]) for tag in tags}


def test_tokens_are_real_ones_up_to_the_cut(benchmark_modules: Any, data: Path, toy_base: Path, tmp_path: Path) -> None:
    rows = benchmark_modules("rows")
    path = tmp_path / "three.csv"
    path.write_text("text,label\na1 a2,x\na1 a2 a3 a4 a5 a6,y\na1,x\n", encoding="utf-8")
    assert rows.count_tokens(str(path), str(toy_base), 32) == (2 + 2) + (6 + 2) + (1 + 2)
    assert rows.count_tokens(str(path), str(toy_base), 5) == 4 + 5 + 3


def test_an_unknown_set_is_named(benchmark_modules: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no data set 'absent'"):
        benchmark_modules("rows").find_set(tmp_path, "absent")

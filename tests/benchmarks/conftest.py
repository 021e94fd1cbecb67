"""The toy world as a data set in a folder, and benchmarks whose contestants run in the test's own process."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toy_world

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import a file of `benchmarks/` by name; what it imported is forgotten after the test."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "contestants"))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.fixture
def data(toy_data: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of data sets: one of labelled texts, one of tagged words, one of plain text."""
    folder = tmp_path / "data"
    for name, source in (("train", "train"), ("dev", "valid"), ("test", "test")):
        (folder / "toy").mkdir(parents=True, exist_ok=True)
        shutil.copy(toy_data[source], folder / "toy" / f"{name}.csv")
    (folder / "tagged").mkdir()
    for name, count, seed in (("train", 64, 1), ("dev", 16, 2)):
        blocks = []
        for text, _ in toy_world.rows(count, seed=seed):
            tags = ["O" if word.startswith("the") else f"B-{word[0]}" for word in text.split()]
            blocks.append("\n".join(f"{word} {tag}" for word, tag in zip(text.split(), tags, strict=True)))
        (folder / "tagged" / f"{name}.conll").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    (folder / "corpora" / "words").mkdir(parents=True)
    lines = [text for text, _ in toy_world.rows(400, seed=5)]
    (folder / "corpora" / "words" / "input.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def in_process(benchmark_modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Let contestants run here, one after the other, without a process of their own: importing torch costs seconds."""
    import transformers
    from accelerate.state import AcceleratorState

    contest, entry = benchmark_modules("contest"), benchmark_modules("entry")
    level = transformers.utils.logging.get_verbosity()

    def run_once(contestant: Any, job: dict[str, Any], *, number: int, case: str) -> Any:
        module = benchmark_modules(contestant.script)
        work = next(getattr(module, name) for name in ("train", "measure", "answer", "search") if hasattr(module, name))
        scratch = tmp_path / f"scratch-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        clock = entry.Clock()
        AcceleratorState._reset_state(reset_partial_state=True)
        try:
            values, reason = work(json.loads(json.dumps({**job, **contestant.options, "scratch": str(scratch)}))), ""
        except (entry.NotRun, ImportError) as problem:
            values, reason = {}, str(problem)
        return contest.Run(contestant.name, number, values, clock.cpu, clock.wall, 1.0, not_run=reason, case=case)

    monkeypatch.setattr(contest, "run_once", run_once)
    yield contest
    transformers.utils.logging.set_verbosity(level)
    AcceleratorState._reset_state(reset_partial_state=True)

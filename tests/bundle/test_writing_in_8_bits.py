"""A run that answers in words, exported to 8-bit weights: measured, kept where it costs little, and set back."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tasks.writers import make_t5
from tunesmith.bundle import export as export_module
from tunesmith.bundle.export import export
from tunesmith.bundle.load import load
from tunesmith.bundle.writing_in_8_bits import Written
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, PlanProblem


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A run that has learnt a little translation from a fresh model, and its rows."""
    place = tmp_path_factory.mktemp("run")
    toy = importlib.import_module("toys.translation")
    rows = toy.rows("train", 48)
    base = make_t5(place / "base", [text for row in rows for text in row.values()])
    data = write_rows(place / "rows.jsonl", rows)
    flags = [*("--task", "translation", "--model", str(base), "--out", str(place / "run"), "--quiet")]
    flags += [f"--set={name}" for name in ("epochs=2", "learning_rate=3e-3", "max_new_tokens=12", "threads=1")]
    assert main(["train", str(data), *flags]) == 0
    return place / "run", write_rows(place / "measured.jsonl", toy.rows("test", 24))


def test_a_run_that_writes_is_exported_measured_and_set_back(made: Any) -> None:
    run, rows = made
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != "manifest.json"}
    found = export(run, quantize="int8", tolerance=100.0, data=rows, threads=1)
    assert found.chosen == "torch int8"
    assert found.rows == 24
    plain, small = found.table
    assert (plain.name, plain.loss, plain.agreement, plain.is_chosen) == ("torch", 0.0, 1.0, False)
    assert small.is_chosen
    assert 0 <= small.agreement <= 1
    assert math.isnan(small.difference)
    assert min(plain.milliseconds, small.milliseconds, plain.rows_per_second, small.rows_per_second) > 0
    opened = load(run)
    assert opened.settings == {"weights": "int8"}
    assert opened.task.weights == "int8"
    assert opened.exported is None
    assert load(run, engine="torch").task.weights == "float"
    source = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])["source"]
    answered = opened.predict(source)[0].value
    assert answered == load(run, engine="torch").predict(source, weights="int8")[0].value
    assert {name: (run / name).read_bytes() for name in before} == before
    assert export(run, engine="torch").chosen == "torch"
    assert load(run).settings == {}
    assert not (run / "exports").exists() or not any((run / "exports").iterdir())


def test_damaged_weights_are_told_though_the_run_is_exported(made: Any) -> None:
    run, rows = made
    export(run, quantize="int8", tolerance=100.0, data=rows, threads=1)
    weights = run / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-4] + b"1234")
        with pytest.raises(BundleProblem, match=r"model\.safetensors"):
            load(run)
    finally:
        weights.write_bytes(content)
        export(run, engine="torch")


def test_8_bits_that_lose_too_much_are_refused(made: Any, monkeypatch: Any) -> None:
    run, rows = made
    dear = (Written("float", 9.0, 1.0, 0.0, 1.0), Written("int8", 5.0, 2.0, 1.24, 0.9))
    monkeypatch.setattr(export_module, "measure", lambda *_: dear)
    manifest = (run / "manifest.json").read_bytes()
    with pytest.raises(PlanProblem) as caught:
        export(run, quantize="int8", data=rows)
    assert str(caught.value) == (
        "PlanProblem: 8-bit weights lose 1.24 points of chrf on 24 rows, more than 0.5. The run is as it was\n"
        "  where: quantize\n"
        "  do:    use --quantize none, allow more with --tolerance 1.3, or measure on more rows: --data FILE"
    )
    assert (run / "manifest.json").read_bytes() == manifest
    assert export(run, quantize="auto", data=rows).chosen == "torch"
    slow = (Written("float", 5.0, 1.0, 0.0, 1.0), Written("int8", 9.0, 2.0, 0.0, 1.0))
    monkeypatch.setattr(export_module, "measure", lambda *_: slow)
    assert export(run, quantize="auto", data=rows).chosen == "torch", "auto takes 8 bits only where they are faster"


def test_what_cannot_be_is_refused(made: Any) -> None:
    run, rows = made
    with pytest.raises(BundleProblem) as caught:
        export(run, data=rows)
    assert caught.value.do == f"let it write with 8-bit weights: tunesmith export {run} --quantize int8"
    with pytest.raises(PlanProblem, match="runs of task translation write with torch, not with engine 'onnx'"):
        export(run, engine="onnx", quantize="int8", data=rows)

"""Each benchmark runs from its options to its JSON on the toy world, and its contestants do the same work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore")  # peers are used as they come


@pytest.fixture
def run(benchmark_modules: Any, in_process: Any, data: Path, toy_base: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """Call a benchmark's `main` with the toy's options and give its JSON."""

    def call(name: str, *more: str, sets: str = "toy") -> dict[str, Any]:
        out = tmp_path / "out"
        shared = ["--data", str(data), "--sets", sets, "--model", str(toy_base), "--rounds", "1", "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [name, *shared, "--rows", "96", *more])
        benchmark_modules(name).main()
        found: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        return found

    return call


def _values(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert not [each for each in result["runs"] if each["not_run"]]
    return {each["contestant"]: each["values"] for each in result["runs"]}


def test_training_speed_counts_the_same_tokens_for_all(run: Any) -> None:
    result = run(
        "training_speed", "--only", "tutorial", "HF", "full", "peak", "--set", "max_length=32", "peak_seconds=0.1"
    )
    values = _values(result)
    assert {
        "HF Trainer, dynamic padding",
        "HF Trainer, grouped",
        "HF Trainer, grouped, bf16",
        "tutorial loop",
        "tunesmith full",
        "tunesmith full, float32",
        "matrix peak",
    } == set(values)
    ours, theirs = values["tunesmith full"], values["HF Trainer, dynamic padding"]
    assert ours["rows"] == theirs["rows"] == 96
    assert ours["steps"] == theirs["steps"] == values["tutorial loop"]["steps"] == 6
    assert ours["tokens"] == theirs["tokens"] == values["tutorial loop"]["tokens"]
    names = {each["name"]: each for each in result["figures"]}
    assert names["tunesmith full / HF Trainer, grouped"]["goal"] == "1.6"
    assert float(names["tunesmith full / HF Trainer, dynamic padding"]["limit"].replace(",", "")) > 0


def test_training_speed_of_tagged_words(run: Any) -> None:
    options = ("--only", "grouped", "full", "--set", "max_length=32", "epochs=4")
    values = _values(run("training_speed", *options, sets="tagged"))
    assert values["tunesmith full"]["tokens"] == values["HF Trainer, grouped"]["tokens"]
    assert 0 < values["tunesmith full"]["test"] <= 1
    assert 0 < values["HF Trainer, grouped"]["test"] <= 1


def test_accuracy_gives_differences_seed_by_seed(run: Any) -> None:
    options = ("--only", "grouped", "full", "--rounds", "2", "--set", "max_length=32", "epochs=2", "learning_rate=1e-3")
    result = run("accuracy", *options)
    found = {each["name"]: each for each in result["figures"]}
    difference = found["tunesmith full - HF Trainer, grouped, best epoch"]
    assert difference["rounds"] == 2
    assert "95% interval" in difference["unit"]
    curves = [each["values"]["curve"] for each in result["runs"] if each["contestant"] == "HF Trainer, grouped"]
    assert [len(curve) for curve in curves] == [2, 2]  # the Trainer is looked at once an epoch
    assert {each["round"] for each in result["runs"]} == {0, 1}


def test_time_to_score_finds_when_the_target_is_reached(run: Any) -> None:
    options = ("--only", "full", "--set", "max_length=32", "rates=1e-3", "epochs=6", "looks=1")
    result = run("time_to_score", *options)
    names = [each["name"] for each in result["figures"]]
    assert any(name.startswith("HF Trainer, grouped: training") for name in names)
    assert any(name.startswith("tunesmith full / HF Trainer, grouped: process") for name in names)
    [target] = result["targets"].values()
    assert 0.3 < target <= 0.98


def test_pretraining_speed_takes_the_same_tokens(run: Any) -> None:
    sizes = ("steps=4", "size=tiny", "max_length=16", "batch_size=8")
    values = _values(run("pretraining_speed", "--set", *sizes, sets="words"))
    assert values["tunesmith pretrain"]["tokens"] == 4 * 8 * 16
    assert values["HF Trainer, masked language modelling"]["tokens"] == 4 * 8 * 16


@pytest.mark.slow
def test_few_labels_draws_other_rows_each_round(run: Any) -> None:
    options = ("--only", "full", "HF", "--rounds", "2", "--set", "shots=4", "max_length=32", "epochs=2")
    result = run("few_labels", *options)
    assert {each["values"]["rows"] for each in result["runs"]} == {12}
    assert {each["name"] for each in result["figures"]} >= {"tunesmith full: accuracy", "HF Trainer: training"}


def test_answering_compares_the_answers(run: Any, toy_run: Any) -> None:
    options = ("--only", "pipeline", "tunesmith$", "--set", f"run={toy_run.path}", "count=5", "bulk=30")
    result = run("answering", *options)
    done = {each["contestant"]: each["values"] for each in result["runs"] if not each["not_run"]}
    assert done["pipeline"]["same"] == done["tunesmith"]["same"] == 1.0
    assert done["pipeline"]["batch_size"] in {1, 8, 16, 32, 64, 128}
    names = {each["name"] for each in result["figures"]}
    assert "one by one: tunesmith against the pipeline" in names


def test_a_feature_that_is_not_there_is_told(
    benchmark_modules: Any, in_process: Any, data: Path, toy_base: Path
) -> None:
    rows = benchmark_modules("rows")
    cut = rows.cut(data, "toy", data / "cut", rows=32, test_rows=20)
    job = {**cut.job(), "model": str(toy_base), "max_length": 32, "threads": 1, "seed": 0, "tokens_per_epoch": 1}
    unknown = in_process.Contestant("ours", "tunesmith_train", {"recipe": {"no_such_key": 1}})
    [run] = in_process.contest([unknown], job, rounds=2)
    assert "no recipe key 'no_such_key'" in run.not_run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answering", "cold_start", "first_model", "sweep", "training_speed"])
def test_benchmarks_start_processes_of_their_own(name: str, data: Path, toy_base: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--data", str(data), "--sets", "toy", "--rounds", "1"]
    command += ["--model", str(toy_base), "--rows", "64", "--out", str(tmp_path)]
    more = {"sweep": ["--set", "trials=2", "epochs=2"], "training_speed": ["--only", "full", "grouped"]}
    more["answering"] = ["--set", "count=5", "bulk=40"]
    done = subprocess.run([*command, *more.get(name, [])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {each["contestant"]: each["not_run"] for each in result["runs"] if each["not_run"]} == {}

"""Contestants are run fairly, and nothing that fails is left out in silence."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = """
import json, sys, time
job = json.load(open(sys.argv[1]))
if job.get("missing"):
    print("no module named " + job["missing"])
    sys.exit(3)
if job.get("broken"):
    raise ValueError("it broke")
began = time.process_time()
while time.process_time() - began < job.get("work", 0):
    pass
json.dump({"speed": job["speed"], "threads": __import__("os").environ["OMP_NUM_THREADS"]}, open(sys.argv[2], "w"))
"""


@pytest.fixture
def contest(benchmark_modules: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    (tmp_path / "contestants").mkdir()
    (tmp_path / "contestants" / "counts.py").write_text(_SCRIPT, encoding="utf-8")
    module = benchmark_modules("contest")
    monkeypatch.setattr(module, "HERE", tmp_path)
    return module


def test_rounds_are_interleaved_and_every_other_one_goes_backwards(contest: Any) -> None:
    field = [contest.Contestant(name, "counts", {"speed": 1}) for name in ("a", "b", "c")]
    runs = contest.contest(field, {"threads": 1}, rounds=2)
    assert [run.contestant for run in runs] == ["a", "b", "c", "c", "b", "a"]
    assert [run.round for run in runs] == [0, 0, 0, 1, 1, 1]
    assert runs[0].values == {"speed": 1, "threads": "1"}


def test_cpu_seconds_are_those_of_the_whole_process(contest: Any) -> None:
    [run] = contest.contest([contest.Contestant("a", "counts", {"speed": 1, "work": 0.3})], {"threads": 1}, rounds=1)
    assert 0.3 <= run.cpu_seconds < 2.0
    assert run.memory_mib > 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"missing": "setfit"}, "no module named setfit"), ({"broken": 1}, "failed with status 1: ValueError: it broke")],
)
def test_who_cannot_run_is_named_once_with_the_reason(contest: Any, options: dict[str, Any], reason: str) -> None:
    field = [contest.Contestant("a", "counts", options), contest.Contestant("b", "counts", {"speed": 1})]
    runs = contest.contest(field, {"threads": 1}, rounds=2)
    assert [(run.contestant, run.not_run) for run in runs] == [("a", reason), ("b", ""), ("b", "")]


def test_ratios_are_taken_inside_a_round(contest: Any) -> None:
    def run(name: str, number: int, speed: float, **more: Any) -> Any:
        return contest.Run(name, number, {"speed": speed}, 1.0, 1.0, 1.0, **more)

    runs = [run("a", 0, 2.0), run("b", 0, 1.0), run("a", 1, 9.0), run("b", 1, 3.0), run("a", 2, 8.0)]
    runs.append(contest.Run("b", 2, {}, 1.0, 1.0, 1.0, not_run="it broke"))
    [found] = contest.ratio(runs, "a", "b", value="speed", goal="2")
    assert (found.value, found.low, found.high, found.rounds) == (2.5, 2.0, 3.0, 2)
    assert contest.ratio(runs, "a", "absent", value="speed") == []


def test_results_hold_every_run_and_the_machine(contest: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    arguments = ["bench", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "epochs=2"]
    monkeypatch.setattr(sys, "argv", arguments)
    options = contest.arguments("about", rounds=3)
    assert options.set == {"epochs": "2"}
    runs = [contest.Run("a", 0, {}, 1.0, 1.0, 1.0, not_run="it broke")]
    path = contest.keep("speed", options, runs, contest.figure("f", [1.0, 3.0, 2.0]))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["runs"][0]["not_run"] == "it broke"
    assert content["machine"]["cores"] == os.cpu_count()
    assert (content["figures"][0]["value"], content["figures"][0]["high"]) == (2.0, 3.0)
    told = capsys.readouterr().out
    assert "|  | f | 2 times | 1 to 3 | 3 |  |  |" in told
    assert "not run: a: it broke" in told

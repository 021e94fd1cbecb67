"""`sweep` and `compare-methods`: what is seen while they work and at their end, at 80 columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from made_up import make_gain
from tunesmith.cli import main, search_progress
from tunesmith.cli.search_progress import SearchProgress
from tunesmith.cli.search_tables import methods_lines, sweep_lines
from tunesmith.cli.tables import render
from tunesmith.search.compare import MethodComparison, MethodLine
from tunesmith.search.found import Found, SweepOptions
from tunesmith.search.method_runs import MethodRun
from tunesmith.search.report import render_sweep
from tunesmith.search.study import Trial
from tunesmith.types import Difference, Event

SETTINGS = {"method": "lora", "learning_rate": 0.001234, "batch_size": 32, "epochs": 12, "lora_rank": 16}


def trial(number: int, value: float | None, state: str = "complete", reason: str = "") -> Trial:
    return Trial(number, state, value, 0.5, SETTINGS, 75.0, 0.4, reason, f"run{number}", number == 0)


def found(*trials: Trial, importance: dict[str, float] | None = None) -> Found:
    class Bundle:
        path, gain = Path("runs/toy-sweep/best"), make_gain(["a", "b"])
        plan = type("Plan", (), {"task": "text-classification"})

    best = max((each for each in trials if each.state == "complete"), key=lambda each: each.value)
    curve = tuple((each.number, each.value, best.value) for each in trials if each.state == "complete")
    space = {"lora": {"learning_rate": "FloatDistribution(high=0.003, log=True, low=0.0003, step=None)"}}
    return Found(
        *(Path("runs/toy-sweep"), "toy-1", "sqlite:///trials.db", "accuracy", ("lora",), space, trials, best, curve),
        *(importance or {}, "epochs: 3\n", 100.0, "20 trials were made"),
        bundle=Bundle(),
    )


TRIALS = (
    trial(0, 0.81),
    trial(1, 0.9),
    trial(2, 0.7, "pruned", "others did better after as much training"),
    trial(3, None, "failed", "out of memory"),
    *(trial(number, 0.8) for number in range(4, 14)),
)


def test_what_a_sweep_ends_with_fits_the_terminal():
    text = render(sweep_lines(found(*TRIALS, importance={"learning_rate": 0.75, "lora_rank": 0.25})))
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[1][:2] == ["1", "90.0%"]
    assert "  and 6 more trials (report.html lists all)" in text
    assert "learning_rate    75%" in text
    assert "The best of 14 trials reached Accuracy 90.0% on the validation rows; the recipe\nas it was, 81.0%." in text
    assert "test rows that no trial saw" in text


def test_the_page_of_a_sweep_tells_states_and_reasons():
    page = render_sweep(found(*TRIALS, importance={"learning_rate": 0.75, "lora_rank": 0.25}))
    for words in ("failed: out of memory", "pruned: others did better", "as without the search, complete", "0.00123"):
        assert words in page
    assert "learning_rate mattered most" in page
    assert "<script" not in page


@pytest.mark.parametrize("number", [0, 999])
def test_the_live_line_fits_the_terminal(number):
    progress = SearchProgress(SweepOptions(trials=1000, budget_seconds=36_000.0), "accuracy", is_quiet=False)
    progress.over, progress.best, progress.pruned = number, "100.0% (trial 998)", 500
    progress.here, progress.seconds = 3, 90.0
    line = progress.describe(Event("step", 3.0, 12_345, {"loss": 0.123}))
    assert line.startswith(f"trial {number + 1}/1000  step 12345  loss 0.123  best 100.0% (trial 998)  500 given up")
    assert len(line) <= 79


def test_every_trial_leaves_a_line(capsys):
    progress = SearchProgress(SweepOptions(trials=5), "accuracy", is_quiet=False)
    values = {"trials": 2.0, "pruned": 1.0, "value": 0.9, "best": 0.9, "best_trial": 1.0, "trial_seconds": 62.0}
    progress.take(Event("trial", 70.0, 1, values, "complete: learning_rate=0.001 batch_size=32"))
    progress.take(Event("trial", 80.0, 2, {**values, "value": 0.5}, "pruned (others did better): learning_rate=0.1"))
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "trial 1  *  90.0%  complete   1:02  learning_rate=0.001 batch_size=32"
    assert lines[1].startswith("trial 2     50.0%  pruned     1:02  learning_rate=0.1")
    assert progress.seconds_left() == pytest.approx(3 * 62.0)


def test_quiet_is_quiet(capsys):
    progress = SearchProgress(SweepOptions(), "accuracy", is_quiet=True)
    progress.take(Event("note", 0.0, text="something"))
    progress.close()
    assert capsys.readouterr().err == ""
    assert search_progress._WIDTH == 79


def method_line(method: str, value: float | None, difference: Difference | None = None) -> MethodLine:
    state = "declined" if value is None else "done"
    run = MethodRun(
        *(method, 0, state, Path(method), "the base has no mask. Do: choose another base"),
        trainable=1_234_567,
        parameters=22_713_216,
        training_seconds=3_725.0,
        training_cpu_seconds=7_000.0,
        memory_mib=12_345.0,
        bundle_bytes=438_000_000,
        learnt_bytes=1_300_000,
    )
    return MethodLine(method, (run,), value, None if value is None else (value - 0.02, value + 0.02), difference)


def test_what_a_comparison_ends_with_fits_the_terminal():
    worse = Difference("accuracy", -0.121, (-0.2, -0.05), 500)
    lines = (method_line("contrastive", 0.912), method_line("top-layers", 0.791, worse), method_line("pet", None))
    compared = MethodComparison(Path("m"), "text-classification", "minilm", "accuracy", (0,), {}, lines, {}, 1.0)
    text = render(methods_lines(compared))
    assert max(map(len, text.splitlines())) <= 80, text
    row = ["contrastive", "91.2%", "89.2", "to", "93.2%", "5.44%", "1:02:05", "1:56:40", "12,345", "438", "1.3"]
    assert row in [each.split() for each in text.splitlines()]
    assert "top-layers - contrastive: −12.1 (−20.0 to −5.0) points; clear" in text
    assert "pet declined: the base has no mask. Do: choose another base" in text


# the commands


@pytest.fixture
def given(toy_options):
    values = {**toy_options, "epochs": 1, "threads": 1, "method": "top-layers"}
    return [str(values.pop("data")), *(f"--set={name}={value}" for name, value in values.items())]


@pytest.mark.slow
def test_sweep_prints_what_was_found_and_what_to_type_next(given, tmp_path, capsys):
    out = tmp_path / "sweep"
    more = ["--trials", "2", "--space", "learning_rate", "batch_size", "--out", str(out)]
    assert main(["sweep", *given, *more]) == 0
    words = capsys.readouterr()
    assert f"recipe   tunesmith train {out}/best.yaml" in words.out
    assert f"next     tunesmith sweep --resume {out} --trials 4" in words.out
    assert [line[:7] for line in words.err.splitlines()][:2] == ["trial 0", "trial 1"]
    assert main(["sweep", "--resume", str(out), "--trials", "2", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["trials"]) == 2
    assert content["run"] == str(out / "best")
    assert {event["kind"] for event in content["events"]} == {"trial"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "PlanProblem: --budget is 'soon'"),
        (["--space", "seed"], "PlanProblem: 'seed' is the same in all trials of a sweep"),
        (["--resume", "nowhere"], "PlanProblem: --resume goes on with a sweep as it was set up"),
        (["--engine", "spark"], "PlanProblem: no engine 'spark'"),
        (["--set=budget=60s"], "PlanProblem: the recipe has a budget of its own"),
    ],
)
def test_mistakes_are_told_in_three_parts(given, arguments, message, tmp_path, capsys):
    assert main(["sweep", *given, "--out", str(tmp_path / "sweep"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "\n  do:    " in error

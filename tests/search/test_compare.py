"""Methods side by side: what is measured, what is used again, and how a run that cannot be says why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from made_up import make_scores
from tunesmith.errors import PlanProblem
from tunesmith.search import measured, method_runs
from tunesmith.search.compare import MethodComparison, MethodLine, compare_methods
from tunesmith.search.compare_report import cells, megabytes, render_methods, verdict
from tunesmith.search.method_runs import MethodRun
from tunesmith.types import Difference


def line(method: str, value: float | None, *, cpu: float = 10.0, difference: Difference | None = None) -> MethodLine:
    if value is None:
        return MethodLine(
            method, (MethodRun(method, 0, "declined", Path(method), "no mask. Do: use full"),), None, None, None
        )
    run = MethodRun(
        method,
        0,
        "done",
        Path(method),
        scores=make_scores(["a", "b"]),
        trainable=1_000,
        parameters=10_000,
        training_seconds=cpu / 2,
        training_cpu_seconds=cpu,
        memory_mib=800.0,
        bundle_bytes=91_000_000,
        learnt_bytes=90_000 if method == "lora" else None,
    )
    return MethodLine(method, (run,), value, (value - 0.02, value + 0.02), difference)


def comparison(*lines: MethodLine) -> MethodComparison:
    return MethodComparison(
        Path("runs/toy-methods"), "text-classification", "toy", "accuracy", (0,), {"train": 5}, lines, {}, 3.0
    )


LEVEL = Difference("accuracy", -0.01, (-0.03, 0.01), 90)
WORSE = Difference("accuracy", -0.2, (-0.3, -0.1), 90)


def test_the_verdict_names_what_is_as_good_for_less():
    found = comparison(
        line("full", 0.9, cpu=40), line("lora", 0.89, difference=LEVEL), line("prompt", 0.7, difference=WORSE)
    )
    assert (
        verdict(found)
        == "full reached the best Accuracy, 90.0%. lora cannot be told from it and took 25% of its CPU time."
    )
    assert verdict(comparison(line("pet", None))) == "No method could be trained on these rows."


def test_a_line_of_the_table_has_every_cost():
    assert cells(line("lora", 0.89, difference=LEVEL), "accuracy") == [
        *("lora", "89.0%", "87.0 to 91.0%", "−1.0 (−3.0 to +1.0)", "1,000", "10.00%", "5.0 s", "10 s", "800"),
        *("91.0", "0.09"),
    ]
    assert cells(line("full", 0.9), "accuracy")[3] == "best"


@pytest.mark.parametrize(("size", "words"), [(91_000_000, "91.0"), (250_000_000, "250"), (90_000, "0.09")])
def test_sizes_have_as_many_digits_as_tell_something(size, words):
    assert megabytes(size) == words


def test_the_page_shows_every_method_and_why_one_declined():
    page = render_methods(comparison(line("full", 0.9), line("lora", 0.8, difference=WORSE), line("pet", None)))
    assert all(words in page for words in ("full", "lora", "no mask. Do: use full", "Peak memory, MiB", "declined"))
    assert "nan" not in page
    render_methods(comparison(line("pet", None)))


def test_peak_memory_is_ones_own(tmp_path):
    """A process that starts small is not charged with what its parent held: Linux's resource usage would do that."""
    held = bytearray(300 * 2**20)
    script = tmp_path / "small.py"
    script.write_text(
        f"import ast, pathlib, sys\ntext = pathlib.Path({measured.__file__!r}).read_text()\n"
        "found = [node for node in ast.parse(text).body if getattr(node, 'name', '') == 'peak_memory_mib']\n"
        "space = {'Path': pathlib.Path, 'sys': sys}\n"
        "exec(compile(ast.Module(found, []), 'measured', 'exec'), space)\nprint(space['peak_memory_mib']())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert measured.peak_memory_mib() > len(held) / 2**20
    assert float(done.stdout) < 100


def test_what_makes_no_sense_is_refused(toy_options, tmp_path):
    given = {name: value for name, value in toy_options.items() if name != "data"}
    for methods, message in (((), "there is nothing to compare"), (("loro",), "no method 'loro'")):
        with pytest.raises(PlanProblem, match=message):
            compare_methods(toy_options["data"], methods=methods, **given, out=str(tmp_path / "c"))
    with pytest.raises(PlanProblem, match="the recipe has a budget"):
        compare_methods(toy_options["data"], methods=("full",), **given, budget="60s", out=str(tmp_path / "c"))


@pytest.mark.slow
def test_methods_are_measured_compared_and_used_again(toy_options, tmp_path, monkeypatch):
    given = {**{name: value for name, value in toy_options.items() if name != "data"}, "epochs": 3, "threads": 1}
    told: list[str] = []

    def compare(*methods: str) -> MethodComparison:
        told.clear()
        out = str(tmp_path / "methods")
        on_event = lambda event: told.append(event.text) if event.kind == "note" else None  # noqa: E731
        return compare_methods(toy_options["data"], methods=methods, on_event=on_event, **given, out=out)

    found = compare("full", "lora", "ia3", "pet")
    by_name = {each.method: each for each in found.lines}
    assert {each.method for each in found.lines if each.is_done} >= {"full", "lora"}
    full, lora = by_name["full"].runs[0], by_name["lora"].runs[0]
    assert lora.trainable < full.trainable == full.parameters
    assert full.learnt_bytes is None
    assert 0 < lora.learnt_bytes < lora.bundle_bytes
    assert 0 < full.training_cpu_seconds <= full.cpu_seconds
    assert full.memory_mib > 100
    assert found.lines[0].difference is None
    assert all(each.difference is not None and each.difference.n == 90 for each in found.lines[1:] if each.is_done)
    assert (found.folder / "report.html").is_file()

    monkeypatch.setattr(method_runs.subprocess, "Popen", None)  # a finished run needs no process
    again = compare("lora", "full")
    assert {each.method: each.runs[0] for each in again.lines} == {"full": full, "lora": lora}
    given["epochs"] = 4
    with pytest.raises(PlanProblem, match="the folder holds a run with other settings: epochs"):
        compare("full")


@pytest.mark.slow
def test_a_killed_comparison_goes_on(toy_options, tmp_path):
    """SIGKILL of the command while a method trains: what is done stays, the cut run is gone on with."""
    values = {name: value for name, value in toy_options.items() if name not in {"data", "epochs"}}
    sets = [f"--set={key}={value}" for key, value in {**values, "threads": 1, "checkpoint_seconds": 0}.items()]
    given = [sys.executable, "-m", "tunesmith", "compare-methods", str(toy_options["data"]), *sets]
    given += [
        "--epochs",
        "30",
        "--set=patience=50",
        "--methods",
        "top-layers,full",
        "--out",
        str(tmp_path / "m"),
        "--json",
    ]
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("m/full/checkpoints/*/manifest.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = (tmp_path / "m/top-layers/manifest.json").stat().st_mtime_ns
    while (tmp_path / "m/full/holder").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)  # the child finds that nobody listens, saves and ends
    done = subprocess.run(given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {each["method"] for each in found["lines"] if each["value"] is not None} == {"top-layers", "full"}
    assert (tmp_path / "m/top-layers/manifest.json").stat().st_mtime_ns == before
    log = (tmp_path / "m/full/log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(row)["step"] for row in log if json.loads(row)["kind"] == "step"]
    assert steps == sorted(set(steps)), "no step was made twice"

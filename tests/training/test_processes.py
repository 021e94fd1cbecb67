"""One run by several processes: the same steps, so the same weights up to rounding; and one word of what went wrong."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from several_processes import command_of, demand_same_weights, run, started

import toy_world
import tunesmith
from tunesmith.cli.progress import stop_signals
from tunesmith.errors import MachineProblem, PlanProblem, ProcessLost, Stopped
from tunesmith.training import launch as launching
from tunesmith.training.launch import demand_processes, is_told
from tunesmith.training.prepare import prepare
from tunesmith.training.processes import is_loss_of_process, is_orphaned, process_lost
from tunesmith.training.recipe import make_recipe
from tunesmith.training.train import ready


@pytest.fixture(scope="module")
def options(toy_options):
    return {**toy_options, "epochs": 3, "dropout": 0, "threads": 1}


@pytest.fixture(scope="module")
def one(options, tmp_path_factory):
    """The run by one process."""
    return tunesmith.train(**options, out=str(tmp_path_factory.mktemp("one") / "run"))


ACCELERATE = (
    sys.executable,
    "-m",
    "accelerate.commands.accelerate_cli",
    "launch",
    "--multi_gpu",
    "--num_processes",
    "2",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ((), 2),
        ((sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"), 0),
        ((*ACCELERATE, "--num_machines", "1", "--mixed_precision", "no", "--main_process_port", "0", "-m"), 0),
    ],
    ids=["processes", "torchrun", "accelerate"],
)
def test_two_processes_give_what_one_gives(launcher, processes, options, one, tmp_path):
    done = run(command_of(options, tmp_path / "two", *launcher, processes=processes))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Adapted model") == 1, "one process speaks"
    steps = re.findall(r"^step (\d+)/24 ", done.stderr, flags=re.MULTILINE)
    assert steps == ["8", "16", "24"], done.stderr
    two = tunesmith.load(tmp_path / "two")
    demand_same_weights(one.path, two.path)
    assert two.gain.after.value == pytest.approx(one.gain.after.value, abs=0.02)
    assert two.speed["processes"] == 2
    assert two.speed["tokens"] == pytest.approx(one.speed["tokens"], rel=0.1)


@pytest.mark.slow
def test_parts_of_a_model_without_use_are_not_waited_for(toy_base, tmp_path):
    """Where two texts are read apart, nothing reads the pooler: it never gets a gradient."""
    toy = importlib.import_module("toys.text_similarity")
    for part, count in (("train", 60), ("test", 24)):
        lines = [json.dumps(row) + "\n" for row in toy.rows(part, count)]
        (tmp_path / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    options = {"data": tmp_path / "train.jsonl", "test": tmp_path / "test.jsonl", "model": toy_base, "encoder": "bi"}
    done = run(command_of({**options, "epochs": 2, "threads": 1}, tmp_path / "two", processes=2))
    assert done.returncode == 0, done.stderr
    assert tunesmith.load(tmp_path / "two").speed["processes"] == 2


@pytest.mark.slow
def test_json_of_two_processes_is_one_document(options, tmp_path):
    done = run([*command_of({**options, "epochs": 1}, tmp_path / "two", processes=2), "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(tmp_path / "two")


@pytest.mark.slow
def test_what_all_processes_find_wrong_is_told_once(options, tmp_path):
    done = run(command_of({**options, "metric": "chrf"}, tmp_path / "two", processes=2))
    assert done.returncode == 2
    assert done.stderr.count("PlanProblem: no metric 'chrf' for text-classification") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "two").exists()


def workers_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    return {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}


def log_steps(out: Path) -> int:
    events = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return max((event["step"] for event in events if event["kind"] == "step"), default=0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_soon_and_it_goes_on_from_where_it_was(rank, options, tmp_path):
    out, many = tmp_path / "two", {**options, "epochs": 6, "patience": 100, "checkpoint_seconds": 0}
    process = started(command_of(many, out, processes=2), out, step=11)
    workers_of(process)[rank].kill()
    killed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 15
    assert process.returncode == 4, errors
    assert errors.endswith(
        f"MachineProblem: process {rank} of 2 was killed by SIGKILL, as a system does that runs out of memory\n"
        f"  where: {out}\n"
        f"  do:    go on with: tunesmith train --resume {out} --processes 2\n"
    )
    assert errors.count("Problem:") == 1
    assert not psutil.pid_exists(process.pid) or not psutil.Process(process.pid).children()
    reached = log_steps(out)
    recipe = (out / "recipe.yaml").read_text(encoding="utf-8")
    assert "epochs: 6" in recipe
    again = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "train", "--resume", str(out), "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    words, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    (step,) = re.findall(r"going on from step (\d+) of 48", words)
    assert reached - 1 <= int(step) <= reached + 1, "no step is lost"
    assert tunesmith.load(out).gain.after.value > 0.9


@pytest.mark.slow
def test_ctrl_c_saves_and_ends_every_process(options, tmp_path):
    out, many = tmp_path / "two", {**options, "epochs": 6, "patience": 100}
    process = started(command_of(many, out, processes=2), out, step=3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    (step,) = re.findall(r"Stopped: stopped by signal 2 at step (\d+) of 48; all is saved\n", errors)
    assert errors.endswith(f"  do:    go on with: tunesmith train --resume {out} --processes 2\n")
    assert (out / "checkpoints" / f"step-{int(step):08d}" / "manifest.json").is_file()
    assert not (out / "holder").exists()


# Without starting any: what a process tells, and what is made of it.


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Be a process that `launch` has started; give where it leaves word."""
    monkeypatch.setenv("TUNESMITH_LAUNCHER", str(os.getppid()))
    monkeypatch.setenv("TUNESMITH_NOTES", str(tmp_path))

    def process(rank: int) -> Path:
        path = tmp_path / "run_1" / "attempt_0" / str(rank) / "error.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
        return path

    process.notes = tmp_path
    return process


def test_one_alone_tells_nobody():
    assert not is_told(PlanProblem("a", where="b", do="c"))


def test_the_same_error_of_all_processes_is_one(launched):
    for rank in (0, 1):
        launched(rank)
        assert is_told(PlanProblem("there is no such metric", where="metric", do="use accuracy"))
    found = launching._told(launched.notes, {0: 2, 1: 2}, 2, [])
    assert isinstance(found, PlanProblem)
    assert (found.what, found.where, found.do) == ("there is no such metric", "metric", "use accuracy")
    assert found.exit_code == 2


def test_a_cause_goes_before_those_who_lost_it(launched):
    launched(0)
    is_told(process_lost(Path("runs/a"), 7, 20))
    launched(1)
    is_told(MachineProblem("the disk is full", where="/tmp", do="free some space"))
    assert launching._told(launched.notes, {0: 4, 1: 4}, 2, []).what == "the disk is full"


def test_a_silent_end_is_told_with_the_last_words(launched):
    launched(0)
    is_told(process_lost(Path("runs/a"), 7, 20))
    (launched.notes / "run").write_text("runs/a", encoding="utf-8")
    words = launched(1).with_name("stderr.log")
    words.write_text("one\nSegmentation fault at 0\n", encoding="utf-8")
    found = launching._told(launched.notes, {0: 4, 1: -11}, 2, [])
    assert str(found) == (
        "MachineProblem: process 1 of 2 was killed by SIGSEGV; it said: Segmentation fault at 0\n"
        "  where: runs/a\n"
        "  do:    go on with: tunesmith train --resume runs/a --processes 2"
    )


def test_a_signal_before_anything_was_saved_is_told(launched):
    found = launching._told(launched.notes, {0: -2, 1: -2}, 2, [2])
    assert isinstance(found, Stopped)
    assert found.exit_code == 130
    assert found.do == "run the command again"


def test_a_saved_stop_is_told_as_the_process_has_told_it(launched):
    launched(0)
    is_told(Stopped("at step 3", where="runs/a", do="go on with: tunesmith train --resume runs/a", signal_number=15))
    found = launching._told(launched.notes, {0: 143, 1: 143}, 3, [15])
    assert isinstance(found, Stopped)
    assert found.exit_code == 143
    assert found.do == "go on with: tunesmith train --resume runs/a --processes 3"


def test_a_report_that_was_cut_off_counts_as_none(launched):
    launched(0).write_text('{"message": {"mess', encoding="utf-8")
    found = launching._told(launched.notes, {0: 1}, 2, [])
    assert found.what == "process 0 of 2 ended with status 1"


def test_whoever_has_lost_its_starter_stops(launched, monkeypatch):
    assert not is_orphaned()
    with stop_signals() as told:
        assert told() == 0
        monkeypatch.setenv("TUNESMITH_LAUNCHER", "1")
        if os.getppid() != 1:
            assert told() == signal.SIGTERM


def test_one_that_waits_is_ended_by_a_signal_until_it_is_asked():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals(is_waiting=True) as told:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert told() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert told() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_is_passed_on_once_and_a_second_one_ends_the_processes(monkeypatch):
    """The child tells how often it has heard the signal, and would never end by it."""
    code = "import signal, time\nsignal.signal(15, lambda *_: print('heard', flush=True))\nprint('here', flush=True)\n"
    child = subprocess.Popen([sys.executable, "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(launching, "_children", lambda: [child.pid])
    assert child.stdout.readline() == "here\n"
    with launching._hearing() as heard:
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.stdout.readline() == "heard\n"
        assert child.poll() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert child.wait(10) == -signal.SIGKILL
    assert heard == [15, 15]
    child.stdout.close()
    found = launching._told(Path("nowhere"), {0: -9}, 2, heard)
    assert (found.what, found.exit_code) == ("stopped by signal 15", 143)


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_is_whole_and_above_nought(wanted):
    with pytest.raises(PlanProblem) as caught:
        demand_processes(wanted)
    assert caught.value.what == f"--processes is '{wanted}'"


def test_processes_of_processes_are_refused(monkeypatch):
    assert demand_processes("2") == 2
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(PlanProblem, match="torchrun or accelerate launch has started this process"):
        demand_processes("2")
    monkeypatch.setenv("TUNESMITH_LAUNCHER", "1")
    assert demand_processes("2") == 2


def test_a_budget_and_self_training_run_alone(toy_options, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanProblem, match="a budget makes several runs against one clock"):
        ready(make_recipe({**toy_options, "budget": "60s"}))
    with pytest.raises(PlanProblem, match="self-training runs in one process"):
        ready(make_recipe({**toy_options, "unlabelled": toy_options["data"]}))


def test_episodes_are_not_parted(toy_base, tmp_path, monkeypatch):
    rows = [(f"the{number % 12} a{number % 16} m{number % 7}", f"label{number % 12}") for number in range(240)]
    data = toy_world.write_csv(tmp_path / "rows.csv", rows)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanProblem, match="method 'meta' compares the rows of a step"):
        prepare(make_recipe({"data": str(data), "model": str(toy_base), "method": "meta"}))


def test_the_plan_of_two_processes_is_that_of_one_but_for_its_price(toy_options, monkeypatch):
    alone = prepare(make_recipe(toy_options))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = prepare(make_recipe(toy_options))
    assert shared.plan.id == alone.plan.id
    assert shared.remarks[-1].startswith("2 processes share each step; CPU threads of each: ")


def test_only_what_other_processes_cause_counts_as_their_loss(monkeypatch):
    closed = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    assert not is_loss_of_process(closed), "alone there is nobody to lose"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_loss_of_process(closed)
    assert not is_loss_of_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_loss_of_process(Stopped("by gloo", signal_number=2))
    assert isinstance(process_lost(Path("a"), 1, 2), ProcessLost)

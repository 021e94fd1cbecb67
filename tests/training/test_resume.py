"""A run that was killed and resumed ends with the same weights, bit for bit, as one left alone. Real processes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tunesmith
from toy_world import FAMILIES
from tunesmith.bundle.atomic import find_damage
from tunesmith.errors import BundleProblem, MachineProblem
from tunesmith.models.find import hash_file
from tunesmith.training.recipe import make_recipe

KILLS = int(os.environ.get("TUNESMITH_KILLS", "5"))


@pytest.fixture(scope="module")
def options(toy_options):
    # Checkpoints after every step: a kill may then fall into a save as well as into a step.
    return {**toy_options, "epochs": 3, "checkpoint_seconds": 0, "threads": 1}


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    return tunesmith.train(**options, out=str(tmp_path_factory.mktemp("undisturbed") / "run"))


def command(options: dict[str, object], out: Path, *more: str) -> list[str]:
    sets = [f"--set={name}={value}" for name, value in options.items() if name != "data"]
    return [sys.executable, "-m", "tunesmith", "train", str(options["data"]), *sets, "--out", str(out), *more]


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def wait_for_training(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the first step is in the log."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if log.is_file() and '"kind": "step"' in log.read_text(encoding="utf-8"):
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def same_weights(one: Path, other: Path) -> bool:
    return hash_file(one / "model.safetensors") == hash_file(other / "model.safetensors")


def test_same_seed_gives_same_weights(options, undisturbed, tmp_path):
    again = tunesmith.train(**options, out=str(tmp_path / "run"))
    assert same_weights(undisturbed.path, again.path)
    assert again.gain.after.values == undisturbed.gain.after.values


def test_another_seed_gives_other_weights(options, undisturbed, tmp_path):
    other = tunesmith.train(**{**options, "seed": 1}, out=str(tmp_path / "run"))
    assert not same_weights(undisturbed.path, other.path)


def test_killed_at_random_moments_ends_with_the_same_weights(options, undisturbed, tmp_path):
    """SIGKILL from the first instant to the last, again and again in the same run, until it is through."""
    generator = random.Random(0)
    folder = tmp_path / "run"
    arguments = command(options, folder)
    kills = 0
    while kills < KILLS:
        process = start(arguments)
        if kills % 2:
            wait_for_training(folder, process)
            time.sleep(generator.uniform(0, 1.0))
        else:
            time.sleep(generator.uniform(0.2, 8.0))
        was_running = process.poll() is None
        process.kill()
        process.communicate()
        if (folder / "manifest.json").is_file():
            assert same_weights(folder, undisturbed.path)
            shutil.rmtree(folder)
        elif not was_running:
            raise AssertionError("the run ended by itself without a bundle")
        kills += 1
        is_started = (folder / "plan.json").is_file()
        resume = [sys.executable, "-m", "tunesmith", "train", "--resume", str(folder)]
        arguments = resume if is_started else command(options, folder)
    process = start(arguments)
    _, words = process.communicate()
    assert process.returncode == 0, words
    assert same_weights(folder, undisturbed.path)
    assert not (folder / "checkpoints").exists()
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers = [event["step"] for event in steps if event["kind"] == "step"]
    assert numbers == list(range(1, undisturbed.plan.steps + 1))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_leaves_with_its_own_code(options, undisturbed, tmp_path, number, code):
    folder = tmp_path / "run"
    process = start(command({**options, "checkpoint_seconds": 1000, "epochs": 3}, folder))
    wait_for_training(folder, process)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    assert process.returncode == code, words
    assert f"go on with: tunesmith train --resume {folder}" in words
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    assert checkpoints
    assert not any(find_damage(path) for path in checkpoints)
    resumed = tunesmith.resume(folder)
    assert same_weights(resumed.path, undisturbed.path)


def stopped_run(options, folder: Path, steps: int = 9) -> Path:
    """Give an unfinished run that was stopped after some steps."""
    from tunesmith.errors import Stopped
    from tunesmith.training.prepare import prepare
    from tunesmith.training.recipe import make_recipe

    job = prepare(make_recipe({**options, "out": str(folder)}))
    reached = [0]

    def run() -> None:
        for event in job.run(stop_signal=lambda: signal.SIGTERM if reached[0] >= steps else 0):
            reached[0] = event.step

    with pytest.raises(Stopped):
        run()
    return folder


def damage_flip(checkpoint: Path) -> None:
    path = checkpoint / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "empty folder": lambda path: [item.unlink() for item in path.iterdir()],
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no state": lambda path: (path / "state.json").unlink(),
    "half the weights": lambda path: os.truncate(
        path / "weights.safetensors", (path / "weights.safetensors").stat().st_size // 2
    ),
    "half the optimizer": lambda path: os.truncate(
        path / "optimizer.safetensors", (path / "optimizer.safetensors").stat().st_size // 2
    ),
    "no optimizer": lambda path: (path / "optimizer.safetensors").unlink(),
    "state cut": lambda path: os.truncate(path / "state.json", 10),
    "one bit of the weights": damage_flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(options, undisturbed, tmp_path, damage):
    from tunesmith.training.prepare import prepare_resume

    folder = stopped_run(options, tmp_path / "run")
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    DAMAGES[damage](newest)
    job = prepare_resume(folder)
    assert job.resumed_from is not None
    assert job.resumed_from.step == 8
    assert any(newest.name in remark and "damaged" in remark for remark in job.remarks)
    list(job.run())
    assert same_weights(folder, undisturbed.path)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(options, undisturbed, tmp_path, monkeypatch):
    """By a day, forwards and back, while it trains; and files that seem to come from tomorrow or yesterday."""
    from tunesmith.training.prepare import prepare_resume

    now, jumps = time.time, itertools.cycle((86_400, -86_400, 0))
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    folder = stopped_run(options, tmp_path / "run")
    older, newer = sorted((folder / "checkpoints").glob("step-*"))[-2:]
    for path, shift in ((older, 86_400), (newer, -86_400)):
        for each in (path, *path.iterdir()):
            os.utime(each, (now() + shift, now() + shift))
    job = prepare_resume(folder)
    assert job.resumed_from is not None
    assert job.resumed_from.folder.name == newer.name
    list(job.run())
    assert same_weights(folder, undisturbed.path)


@pytest.mark.slow
def test_a_base_model_that_vanishes_on_the_way_is_missed_by_nobody(options, undisturbed, tmp_path):
    from tunesmith.training.prepare import prepare

    base = tmp_path / "base"
    shutil.copytree(str(options["model"]), base)
    job = prepare(make_recipe({**options, "model": str(base), "out": str(tmp_path / "run")}))
    for event in job.run():
        if event.kind == "step" and base.exists():
            shutil.rmtree(base)
    assert same_weights(tmp_path / "run", undisturbed.path)
    assert tunesmith.load(tmp_path / "run").predict("a1 a2 the1")[0].value in FAMILIES


def test_resume_refuses_other_data(options, tmp_path):
    data = tmp_path / "train.csv"
    shutil.copy(str(options["data"]), data)
    folder = stopped_run({**options, "data": str(data)}, tmp_path / "run", steps=3)
    data.write_text(data.read_text(encoding="utf-8") + "the1 the2 a1,animal\n", encoding="utf-8")
    with pytest.raises(BundleProblem) as caught:
        tunesmith.resume(folder)
    assert caught.value.what == "since this run began these have changed: the data file"


def test_resume_of_a_finished_run_trains_nothing(undisturbed):
    before = hash_file(undisturbed.path / "model.safetensors")
    with pytest.raises(BundleProblem, match="this run is finished; there is nothing to resume"):
        tunesmith.resume(undisturbed.path)
    assert hash_file(undisturbed.path / "model.safetensors") == before


def test_two_trainers_on_one_folder_is_refused(options, tmp_path):
    from tunesmith.training.folder import locked

    folder = stopped_run(options, tmp_path / "run", steps=2)
    with locked(folder), pytest.raises(MachineProblem) as caught:
        tunesmith.resume(folder)
    assert "is training in this folder" in caught.value.what
    tunesmith.resume(folder)  # and it is free again afterwards


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        pytest.param(errno.EIO, "check the disk", marks=pytest.mark.slow),
        pytest.param(errno.EROFS, "read-only", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_keeps_what_was_saved(options, undisturbed, tmp_path, monkeypatch, number, advice):
    from tunesmith.training import checkpoint

    real, calls = checkpoint.save_file, 0

    def full(*arguments, **named):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "save_file", full)
    folder = tmp_path / "run"
    with pytest.raises(MachineProblem) as caught:
        tunesmith.train(**options, out=str(folder))
    assert os.strerror(number) in caught.value.what
    assert advice in caught.value.do
    monkeypatch.undo()
    left = [path.name for path in (folder / "checkpoints").iterdir()]
    assert not [name for name in left if name.startswith("tmp-")]
    assert same_weights(tunesmith.resume(folder).path, undisturbed.path)


def test_a_disk_without_room_is_refused_before_writing(options, tmp_path, monkeypatch):
    import collections

    from tunesmith.bundle import atomic

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(MachineProblem, match="MiB are needed"):
        tunesmith.train(**options, out=str(tmp_path / "run"))


def test_a_failed_sync_counts_as_a_failed_save(options, tmp_path, monkeypatch):
    from tunesmith.bundle import atomic

    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(atomic.os, "fsync", broken)
    with pytest.raises(MachineProblem, match="Input/output error"):
        tunesmith.train(**options, out=str(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_resume_works_from_another_folder_with_relative_paths(options, undisturbed, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    for part in ("data", "valid", "test"):
        shutil.copy(str(options[part]), home / f"{part}.csv")
    shutil.copytree(str(options["model"]), home / "base")
    monkeypatch.chdir(home)
    relative = {**options, "data": "data.csv", "valid": "valid.csv", "test": "test.csv", "model": "base"}
    stopped_run(relative, Path("run"), steps=5)
    monkeypatch.chdir(tmp_path)
    run = tunesmith.resume(Path("home/run"))
    assert same_weights(run.path, undisturbed.path)


def test_what_is_kept_can_be_gone_back_to(options, undisturbed, tmp_path):
    """Checkpoints at evaluations only: when the newest is damaged, the one before still has its best weights."""
    from tunesmith.training.prepare import prepare_resume

    folder = stopped_run({**options, "checkpoint_seconds": 1000, "eval_steps": 3}, tmp_path / "run", steps=20)
    assert len(list((folder / "checkpoints").glob("step-*"))) >= 2
    steps = sorted((folder / "checkpoints").glob("step-*"))
    DAMAGES["half the weights"](steps[-1])
    job = prepare_resume(folder)
    assert job.resumed_from is not None
    assert job.resumed_from.step == 18
    list(job.run())
    assert (folder / "manifest.json").is_file()


def test_new_checkpoints_outlive_damaged_ones(options, tmp_path):
    from tunesmith.training.prepare import prepare_resume

    folder = stopped_run(options, tmp_path / "run", steps=9)
    for path in sorted((folder / "checkpoints").glob("step-*"))[-2:]:
        DAMAGES["no manifest"](path)
    job = prepare_resume(folder)
    events = job.run()
    for event in events:
        if event.kind == "checkpoint":
            break
    assert (folder / "checkpoints" / f"step-{event.step:08d}" / "manifest.json").is_file()
    events.close()


def test_a_run_that_another_process_finished_is_left_alone(options, tmp_path):
    from tunesmith.training.prepare import prepare_resume

    folder = stopped_run(options, tmp_path / "run", steps=5)
    late = prepare_resume(folder)
    tunesmith.resume(folder)
    with pytest.raises(BundleProblem, match="this run is finished"):
        list(late.run())
    tunesmith.load(folder)


def test_costs_count_the_time_before_a_crash(options, tmp_path):
    folder = stopped_run(options, tmp_path / "run", steps=20)
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    before = json.loads((newest / "state.json").read_text(encoding="utf-8"))["seconds"]
    gain = tunesmith.resume(folder).gain
    assert gain.after.seconds > before
    assert gain.seconds > before


def test_a_damaged_plan_is_an_error_of_three_parts(options, tmp_path):
    folder = stopped_run(options, tmp_path / "run", steps=2)
    (folder / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleProblem, match="the plan of this run cannot be read"):
        tunesmith.resume(folder)

"""A pretraining run that was killed and resumed ends with the same weights, bit for bit. A real process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tunesmith.errors import BundleProblem, Stopped
from tunesmith.models.find import hash_file
from tunesmith.pretraining.options import make_pretrain_recipe
from tunesmith.pretraining.prepare import prepare, prepare_resume


@pytest.fixture(scope="module")
def options(quick):
    return {**quick, "steps": 30, "eval_steps": 10, "patience": 100, "checkpoint_seconds": 0}


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    list(prepare(make_pretrain_recipe({**options, "checkpoint_seconds": 100, "out": str(folder)})).run())
    return folder


def wait_for_steps(folder, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if log.is_file() and log.read_text(encoding="utf-8").count('"kind": "checkpoint"') > 3:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def test_killed_and_resumed_ends_with_the_same_weights(options, undisturbed, tmp_path):
    folder = tmp_path / "run"
    sets = [f"--set={name}={value}" for name, value in options.items() if name != "corpus"]
    command = [sys.executable, "-m", "tunesmith", "pretrain", *options["corpus"], *sets, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    wait_for_steps(folder, process)
    process.kill()
    process.communicate()
    assert not (folder / "manifest.json").exists()
    job = prepare_resume(folder)
    assert job.resumed_from is not None
    assert 2 < job.resumed_from.step < 30
    list(job.run())
    assert hash_file(folder / "model.safetensors") == hash_file(undisturbed / "model.safetensors")


def test_a_signal_saves_and_the_run_goes_on(options, tmp_path):
    folder = tmp_path / "run"
    values = {**options, "objective": "seq2seq", "steps": 12, "eval_steps": 6, "checkpoint_seconds": 100}
    whole = prepare(make_pretrain_recipe({**values, "out": str(tmp_path / "whole")}))
    list(whole.run())
    job = prepare(make_pretrain_recipe({**values, "out": str(folder)}))
    reached = [0]

    def run():
        for event in job.run(stop_signal=lambda: 15 if reached[0] >= 5 else 0):
            reached[0] = event.step

    with pytest.raises(Stopped, match="stopped by signal 15 at step"):
        run()
    list(prepare_resume(folder).run())
    assert hash_file(folder / "model.safetensors") == hash_file(tmp_path / "whole" / "model.safetensors")


def test_resume_refuses_another_corpus(options, tmp_path):
    path = tmp_path / "corpus.txt"
    with open(options["corpus"][0], encoding="utf-8") as file:
        path.write_text(file.read(), encoding="utf-8")
    prepare(make_pretrain_recipe({**options, "corpus": [str(path)], "steps": 4, "out": str(tmp_path / "run")}))
    path.write_text(path.read_text(encoding="utf-8") + "one more line\n", encoding="utf-8")
    with pytest.raises(BundleProblem) as caught:
        prepare_resume(tmp_path / "run")
    assert caught.value.what.startswith("since this run began these have changed: the corpus")


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path):
    with pytest.raises(BundleProblem, match="there is no run to resume here"):
        prepare_resume(tmp_path)

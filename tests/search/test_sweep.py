"""A sweep in the toy world: what it shares, what it keeps, how it stops, and how it goes on."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import optuna
import pytest

import tunesmith
from tunesmith.errors import PlanProblem, Stopped, TrainingProblem
from tunesmith.models.find import hash_file
from tunesmith.search import prepare as preparing
from tunesmith.search.found import SweepOptions
from tunesmith.search.prepare import prepare_sweep, prepare_sweep_again
from tunesmith.search.study import Trial
from tunesmith.search.trial import WHOLE_TRIALS, Trainer, _Follower
from tunesmith.tasks.text_classification import TextClassification
from tunesmith.training import prepare as readying
from tunesmith.training.recipe import make_recipe
from tunesmith.types import Event

pytestmark = pytest.mark.xdist_group("sweep")  # they share one sweep
SPACE = ("learning_rate", "batch_size", "top_layers")


@pytest.fixture(scope="module")
def recipe(toy_options):
    """A recipe whose runs take a moment."""
    return make_recipe({**toy_options, "epochs": 1, "method": "top-layers", "threads": 1})


@pytest.fixture(scope="module")
def swept(recipe, tmp_path_factory):
    """A finished sweep of three trials; how often rows were read; and how often test rows were scored."""
    counts = {"read": 0, "scored": 0}
    take_in, score = readying.take_in, TextClassification.score

    def counted_take_in(given):
        counts["read"] += 1
        return take_in(given)

    def counted_score(self, records, answers, **more):
        counts["scored"] += all("test" in record.origin.path for record in records)
        return score(self, records, answers, **more)

    out = tmp_path_factory.mktemp("sweeps") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readying, "take_in", counted_take_in)
        patch.setattr(TextClassification, "score", counted_score)
        sweep = prepare_sweep(dataclasses.replace(recipe, out=str(out)), SweepOptions(trials=3, space=SPACE))
        found = sweep.run(on_event=lambda event: counts.setdefault(event.kind, counts["scored"]))
    return found, counts


def test_the_rows_are_read_once_for_all_trials(swept):
    _, counts = swept
    assert counts["read"] == 1


def test_test_rows_are_scored_only_after_the_search_and_once_by_a_trained_model(swept):
    found, counts = swept
    assert counts["trial"] == 0, "when the first trial was over nobody had looked at the test rows"
    assert counts["scored"] == len(found.bundle.gain.baselines) + 2, "the naive baselines, before, and the best"


def test_the_first_trial_is_the_recipe_as_it_is(swept, recipe):
    found, _ = swept
    assert found.usual == found.trials[0]
    assert found.usual.settings["top_layers"] == recipe.top_layers
    assert found.usual.settings["batch_size"] == recipe.batch_size


def test_the_best_recipe_trains_to_the_same_bits(swept, tmp_path):
    found, _ = swept
    again = tunesmith.train(found.folder / "best.yaml", out=str(tmp_path / "again"))
    assert again.id == found.best.run == found.bundle.id
    assert hash_file(again.path / "model.safetensors") == hash_file(found.bundle.path / "model.safetensors")
    assert again.gain.after.value == found.bundle.gain.after.value


@pytest.mark.parametrize(("complete", "is_given_up"), [(WHOLE_TRIALS - 1, False), (WHOLE_TRIALS, True)])
def test_a_trial_is_given_up_only_where_enough_others_were_trained_to_their_end(complete, is_given_up):
    """The database would give up every one of them."""

    class Behind:
        def set_user_attr(self, name, value):
            pass

        report = set_user_attr

        def should_prune(self) -> bool:
            return True

    done = [Trial(number, "complete", 0.9, 0.1, {}, 1.0, 1.0) for number in range(complete)]
    record = SimpleNamespace(metric="accuracy", trials=lambda: done)
    follower = _Follower(SimpleNamespace(record=record), Behind(), steps=10, hundredths=10.0)
    last = Event("evaluation", 1.0, 10, {"accuracy": 0.1, "loss": 2.0, "best": 0.1})
    follower.take(last)  # what is at its end is never given up
    follower.take(dataclasses.replace(last, step=5), may_give_up=False)  # nor what is only told again
    if not is_given_up:
        follower.take(dataclasses.replace(last, step=5))
        return
    with pytest.raises(optuna.TrialPruned, match="others did better after as much training"):
        follower.take(dataclasses.replace(last, step=5))


def test_what_is_kept_says_what_was_found(swept):
    found, _ = swept
    kept = json.loads((found.folder / "result.json").read_text(encoding="utf-8"))
    assert [trial["number"] for trial in kept["trials"]] == [0, 1, 2]
    assert kept["best"]["run"] == found.bundle.id
    assert kept["test"]["values"]["accuracy"] == found.bundle.gain.after.value
    log = [json.loads(line) for line in (found.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [event["step"] for event in log if event["kind"] == "trial"] == [0, 1, 2]
    page = (found.folder / "report.html").read_text(encoding="utf-8")
    assert "All trials" in page
    assert "nan" not in page.lower()


def test_only_the_best_trial_keeps_weights(swept):
    found, _ = swept
    assert list((found.folder / "trials").glob("*/checkpoints")) == []
    assert not (found.folder / "trials" / found.best.run).exists(), "it is best/ now"


def test_going_on_adds_trials_and_keeps_the_old(swept):
    found, _ = swept
    more = prepare_sweep_again(found.folder, SweepOptions(trials=4)).run()
    assert [trial.number for trial in more.trials] == [0, 1, 2, 3]
    assert more.trials[:3] == found.trials
    assert more.bundle.id == more.best.run


def test_a_folder_of_another_sweep_is_refused(swept, recipe):
    found, _ = swept
    other = dataclasses.replace(recipe, seed=1, out=str(found.folder))
    with pytest.raises(PlanProblem, match="this folder holds another sweep"):
        prepare_sweep(other, SweepOptions(space=SPACE))
    with pytest.raises(PlanProblem, match="there is no sweep to go on with"):
        prepare_sweep_again(found.folder / "trials", SweepOptions())


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_where_it_was(recipe, tmp_path):
    steps = []

    def stop_signal() -> int:
        steps.append(1)
        return signal.SIGTERM if len(steps) > 12 else 0

    out = dataclasses.replace(recipe, out=str(tmp_path / "sweep"), checkpoint_seconds=0)
    with pytest.raises(Stopped) as caught:
        prepare_sweep(out, SweepOptions(trials=2, space=SPACE)).run(stop_signal=stop_signal)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    again = prepare_sweep_again(tmp_path / "sweep", SweepOptions(trials=2))
    states = [trial.state for trial in again.open().trials()]
    assert states[-1] == "waiting"
    began: list[int] = []
    found = again.run(on_event=lambda event: began.append(event.step) if event.kind == "step" else None)
    assert [trial.state for trial in found.trials] == ["complete"] * 2
    assert began[0] > 1, "the cut trial went on from its checkpoint"


@pytest.mark.slow
def test_the_time_ends_the_search_and_not_the_result(recipe, tmp_path, monkeypatch):
    train = Trainer.__call__

    def slow_second(self, trial):
        self.deadline = 0.0 if trial.number == 1 else math.inf
        return train(self, trial)

    monkeypatch.setattr(Trainer, "__call__", slow_second)
    sweep = prepare_sweep(dataclasses.replace(recipe, out=str(tmp_path / "s")), SweepOptions(trials=2, space=SPACE))
    found = sweep.run()
    assert [(trial.state, trial.reason) for trial in found.trials] == [("complete", ""), ("pruned", "the time is over")]
    assert found.best.number == 0
    assert found.bundle is not None


def test_no_time_at_all_says_how_to_go_on(recipe, tmp_path):
    out = dataclasses.replace(recipe, out=str(tmp_path / "sweep"))
    with pytest.raises(TrainingProblem) as caught:
        prepare_sweep(out, SweepOptions(space=SPACE, budget_seconds=1e-6)).run()
    assert caught.value.do == f"give it more time: tunesmith sweep --resume {tmp_path / 'sweep'} --budget 1h"


@pytest.mark.slow
def test_settings_that_cannot_be_trained_are_kept_as_failed(recipe, tmp_path):
    """The toy model has 32 positions: a prompt of 30 leaves no room for a text."""
    own = dataclasses.replace(recipe, method="prompt", prompt_length=4, out=str(tmp_path / "sweep"))
    options = SweepOptions(trials=4, space=("prompt_length=4,30",))
    found = prepare_sweep(own, options).run()
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.settings["prompt_length"] == 30 and "positions" in trial.reason for trial in failed)
    twins = [trial for trial in found.trials if trial.reason.startswith("the same as trial")]
    assert found.best.settings["prompt_length"] == 4
    assert len(twins) + len(failed) == 3, "two settings are all there are: none is trained twice"
    assert all(trial.value == found.trials[0].value for trial in twins)


@pytest.mark.slow
def test_trials_that_all_fail_end_the_sweep(recipe, tmp_path, monkeypatch):
    def fail(self, trial):
        from tunesmith.search.study import Failed

        self.record.space.draw(trial)
        trial.set_user_attr("reason", "out of memory")
        raise Failed("out of memory")

    monkeypatch.setattr(Trainer, "__call__", fail)
    out = dataclasses.replace(recipe, out=str(tmp_path / "sweep"))
    with pytest.raises(TrainingProblem, match="all of the first 3 trials failed; the last: out of memory"):
        prepare_sweep(out, SweepOptions(space=SPACE)).run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "leave nothing to do"),
        ({"engine": "spark"}, "no engine 'spark'"),
        ({"methods": ("loro",)}, "no method 'loro'"),
        ({"methods": ("zero-shot",)}, "has nothing that this sweep could vary"),
    ],
)
def test_what_makes_no_sense_is_refused(recipe, options, message, tmp_path):
    with pytest.raises(PlanProblem, match=message):
        prepare_sweep(dataclasses.replace(recipe, out=str(tmp_path / "s")), SweepOptions(**options))


def test_a_password_is_not_kept(recipe, tmp_path):
    settings = {"format": 1, "study": "s", "methods": ["full"], "asked": [], "database": "mysql://me:***@host/s"}
    (tmp_path / "sweep.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(PlanProblem, match="the password of the sweep's database is not kept"):
        prepare_sweep_again(tmp_path, SweepOptions())
    assert preparing._stem("reviews.csv.gz") == "reviews"


# real processes


def command(recipe, out, *more: str) -> list[str]:
    values = {name: getattr(recipe, name) for name in ("valid", "test", "model", "method", "batch_size", "threads")}
    sets = [f"--set={key}={value}" for key, value in values.items()]
    return [sys.executable, "-m", "tunesmith", "sweep", recipe.data, *sets, "--out", str(out), "--quiet", *more]


def wait_for(process, is_there, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_there() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert is_there(), process.communicate()[1].decode()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(recipe, tmp_path):
    """SIGKILL in the middle of a trial: no trial is lost, none is counted twice, and the best is exact."""
    out = tmp_path / "sweep"
    given = command(
        recipe, out, "--trials", "3", "--epochs", "6", "--set=checkpoint_seconds=0", "--space", "learning_rate"
    )
    process = subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ})
    log = out / "log.jsonl"
    wait_for(process, lambda: log.is_file() and len(list(out.glob("trials/*/checkpoints/step-*/manifest.json"))) > 3)
    wait_for(process, lambda: len(list(out.glob("trials/*/plan.json"))) == 2)
    wait_for(process, lambda: len(list(out.glob("trials/*/checkpoints"))) == 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = prepare_sweep_again(out, SweepOptions(trials=3)).open().trials()
    assert [trial.state for trial in before] == ["complete", "running"]
    done = subprocess.run([*given[:3], "sweep", "--resume", str(out), "--trials", "3", "--json"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3 or "pruned" in str(found["trials"])
    cut = next(trial for trial in found["trials"] if trial["run"] == before[1].run)
    assert cut["settings"] == dict(before[1].settings)
    assert "1 trials were left by a process that died" in str(found["events"])
    again = tunesmith.train(out / "best.yaml", out=str(tmp_path / "again"))
    assert hash_file(again.path / "model.safetensors") == hash_file(out / "best" / "model.safetensors")


@pytest.mark.slow
def test_processes_share_one_study(recipe, tmp_path):
    out = dataclasses.replace(recipe, out=str(tmp_path / "sweep"))
    told: list[int] = []
    sweep = prepare_sweep(out, SweepOptions(trials=5, space=SPACE, jobs=2))
    found = sweep.run(on_event=lambda event: told.append(event.step) if event.kind == "trial" else None)
    over = [trial for trial in found.trials if trial.state in {"complete", "pruned"}]
    assert 5 <= len(over) <= 6, "two processes that ask at once may make one more"
    assert sorted(told) == [trial.number for trial in over]
    owners = {trial.user_attrs["owner"] for trial in sweep.open().study.get_trials()}
    assert len(owners) == 2
    assert found.bundle.id == found.best.run


@pytest.mark.slow
def test_ray_runs_the_same_search(recipe, tmp_path):
    ray = pytest.importorskip("ray")
    out = dataclasses.replace(recipe, out=str(tmp_path / "sweep"))
    try:
        found = prepare_sweep(out, SweepOptions(trials=3, space=SPACE, jobs=1, engine="ray")).run()
    finally:
        ray.shutdown()
    assert [trial.state for trial in found.trials].count("failed") == 0
    assert len(found.trials) >= 3
    assert found.bundle.id == found.best.run

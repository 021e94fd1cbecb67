"""Events go to an experiment tracker as well, where one is asked for and installed."""

from __future__ import annotations

import pytest

import tunesmith
from tunesmith.errors import MissingExtra, PlanProblem
from tunesmith.training import track
from tunesmith.training.track import demand_tracker


def test_tensorboard_gets_the_curves(toy_options, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tunesmith.train(**{**toy_options, "epochs": 1}, track="tensorboard", out=str(tmp_path / "run"))
    files = [path for path in (run.path / "tracking").rglob("*tfevents*") if path.is_file()]
    assert files
    tags: dict[str, int] = {}
    for folder in {path.parent for path in files}:
        found = EventAccumulator(str(folder)).Reload()
        tags |= {tag: len(found.Scalars(tag)) for tag in found.Tags()["scalars"]}
    assert tags["train/loss"] == tags["train/learning_rate"] == run.plan.steps
    assert tags["valid/accuracy"] == 1
    assert tunesmith.load(run.path).id == run.id, "the folder is whole with its curves"


def test_an_unknown_tracker_is_refused():
    with pytest.raises(PlanProblem) as caught:
        demand_tracker("tensorbord")
    assert str(caught.value) == (
        "PlanProblem: no tracker 'tensorbord'\n  where: track\n  do:    use one of: tensorboard, mlflow, wandb"
    )


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(track.TRACKERS, "wandb", "no_such_package_here")
    with pytest.raises(MissingExtra) as caught:
        demand_tracker("wandb")
    assert str(caught.value) == (
        "MissingExtra: wandb is not installed\n  where: track\n  do:    pip install 'tunesmith[wandb]'"
    )


def test_no_tracker_makes_no_folder(toy_run):
    assert not (toy_run.path / "tracking").exists()

"""Runs that spare what they need not compute end where the others end."""

from __future__ import annotations

import pytest
import torch

from tunesmith.errors import PlanProblem, Stopped
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe


def run(options, folder, stop=lambda: 0):
    job = prepare(make_recipe({**options, "out": str(folder)}))
    for _ in job.run(stop):
        pass
    return job


def assert_near(first, second, atol=2e-5):
    for name, tensor in first.state_dict().items():
        assert torch.allclose(tensor, second.state_dict()[name], atol=atol), name


def test_top_layers_learn_the_same_from_kept_states(toy_options, tmp_path):
    options = {**toy_options, "method": "top-layers", "top_layers": 1, "dropout": 0, "epochs": 3}
    spared = run(options, tmp_path / "spared")
    plain = run({**options, "prefix_cache": "no"}, tmp_path / "plain")
    assert (spared.plan.options["prefix_blocks"], plain.plan.options["prefix_blocks"]) == (1, 0)
    assert_near(spared.model, plain.model)
    assert not (tmp_path / "spared" / "states").exists()


def test_full_tuning_learns_the_same_from_a_compact_table(toy_options, tmp_path, monkeypatch):
    options = {**toy_options, "dropout": 0, "epochs": 1}
    spared = run(options, tmp_path / "spared")
    assert spared.plan.options["compact_embeddings"]
    monkeypatch.setattr("tunesmith.training.economy.compacted", whole_table)
    plain = run(options, tmp_path / "plain")
    assert_near(spared.model, plain.model)


def whole_table(model, used):
    import contextlib

    return contextlib.nullcontext(False)


@pytest.mark.parametrize("is_kept", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_resumed_run_ends_with_the_same_bits(toy_options, tmp_path, is_kept):
    import shutil

    options = {**toy_options, "method": "top-layers", "top_layers": 1, "epochs": 3}
    whole = run(options, tmp_path / "whole")
    asked = iter([0] * 14)
    with pytest.raises(Stopped):
        run(options, tmp_path / "part", lambda: next(asked, 15))
    assert (tmp_path / "part" / "states").is_dir()
    if not is_kept:
        shutil.rmtree(tmp_path / "part" / "states")
    job = prepare_resume(tmp_path / "part")
    for _ in job.run():
        pass
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, job.model.state_dict()[name]), name
    assert not (tmp_path / "part" / "states").exists()


def test_runs_may_share_their_states(toy_options, tmp_path):
    options = {**toy_options, "method": "top-layers", "top_layers": 0, "epochs": 2}
    written = []
    for seed in (0, 1):
        job = prepare(make_recipe({**options, "seed": seed, "out": str(tmp_path / str(seed))}))
        job.states_folder = tmp_path / "states"
        for _ in job.run():
            pass
        written.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "states").iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 2  # states and index


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "full"}, "from its first block"),
        ({"method": "top-layers", "top_layers": 1, "adversarial": "fgm"}, "adversarial"),
        ({"method": "top-layers", "top_layers": 1, "unfreeze": "epoch"}, "unfreezing"),
    ],
)
def test_a_cache_that_cannot_be_is_refused_when_asked_for(toy_options, changes, reason):
    with pytest.raises(PlanProblem, match=reason):
        prepare(make_recipe({**toy_options, **changes, "prefix_cache": "yes"}))
    assert prepare(make_recipe({**toy_options, **changes})).plan.options["prefix_blocks"] == 0


def test_a_word_that_is_neither_yes_nor_no_is_refused(toy_options):
    with pytest.raises(PlanProblem, match="prefix_cache is 'maybe'"):
        prepare(make_recipe({**toy_options, "prefix_cache": "maybe"}))

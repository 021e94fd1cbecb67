"""The loop's arithmetic, and what it does when numbers go wrong."""

from __future__ import annotations

import pytest
import torch

import tunesmith
from tunesmith.errors import TrainingProblem
from tunesmith.models.find import hash_file
from tunesmith.training import loop, schedules
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.types import Plan


def plan_of(**options) -> Plan:
    wanted = {"learning_rate": 1.0, "warmup_ratio": 0.1, **options}
    return Plan("t", "full", "b", "", {}, (), wanted, 0, "cpu", 1, "no", 100, 0.0, 0.0)


def test_rate_rises_and_falls_linearly():
    plan = plan_of()
    rates = [schedules.learning_rate_at(step, plan) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(1 / 90)
    assert schedules.learning_rate_at(100, plan) == 0.0


def test_a_step_does_not_depend_on_how_it_is_filled(toy_options, tmp_path):
    """One fill of 16 rows and many small ones give the same update, up to rounding."""
    weights = []
    for tokens in (10_000, 20):
        recipe = make_recipe({**toy_options, "epochs": 0.2, "dropout": 0, "batch_tokens": tokens, "seed": 3})
        job = prepare(recipe)
        job.folder = tmp_path / str(tokens)
        job.folder.mkdir()
        for _ in job.run():
            pass
        weights.append(job.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=2e-5), name


def test_accumulation_multiplies_the_batch(toy_options):
    job = prepare(make_recipe({**toy_options, "batch_size": 8, "gradient_accumulation_steps": 2}))
    lengths = [len(example.tokens) for example in job.examples["train"]]
    steps = list(loop._steps_from(job.plan, lengths, 0))
    assert len(steps) == job.plan.steps
    assert max(map(len, steps)) == 16


def test_steps_can_start_anywhere(toy_options):
    job = prepare(make_recipe(toy_options))
    lengths = [len(example.tokens) for example in job.examples["train"]]
    whole = list(loop._steps_from(job.plan, lengths, 0))
    for first in (1, 7, 8, 9, len(whole) - 1, len(whole)):
        assert list(loop._steps_from(job.plan, lengths, first)) == whole[first:]


def test_a_loss_that_is_not_finite_stops_the_run(toy_options, tmp_path, monkeypatch):
    from tunesmith.tasks.text_classification import TextClassification

    real, calls = TextClassification.loss, 0

    def broken(self, model, batch):
        nonlocal calls
        calls += 1
        return real(self, model, batch) * (float("nan") if calls == 12 else 1.0)

    monkeypatch.setattr(TextClassification, "loss", broken)
    folder = tmp_path / "run"
    with pytest.raises(TrainingProblem) as caught:
        tunesmith.train(**toy_options, out=str(folder), checkpoint_seconds=0)
    assert caught.value.exit_code == 3
    assert "the loss is nan" in caught.value.what
    assert "learning rate" in caught.value.do
    assert list((folder / "checkpoints").glob("step-*")), "the last good checkpoint is kept"
    assert not (folder / "manifest.json").exists()


def test_a_rate_far_too_high_never_gives_a_broken_bundle(toy_options, tmp_path):
    """Either the numbers stay finite or the run stops; nothing else."""
    try:
        run = tunesmith.train(**{**toy_options, "learning_rate": 10, "max_grad_norm": 1e9}, out=str(tmp_path / "run"))
    except TrainingProblem:
        assert not (tmp_path / "run" / "manifest.json").exists()
    else:
        assert all(torch.isfinite(p).all() for p in run._engine[0].parameters())


def test_early_stopping_restores_the_best_weights(toy_options, toy_data, tmp_path):
    """Without pretraining, words that no label touched can only get worse: the run must stop and go back."""
    import toy_world

    raw = toy_world.make_base(tmp_path / "raw", steps=0)
    options = {**toy_options, "model": str(raw), "valid": str(toy_data["test"]), "epochs": 30, "patience": 2}
    events = []
    run = tunesmith.train(**options, out=str(tmp_path / "run"), on_event=events.append)
    evaluations = [event for event in events if event.kind == "evaluation"]
    best = max(evaluations, key=lambda event: (event.values["accuracy"], -event.values["loss"]))
    assert evaluations[-1].step < run.plan.steps, "it stopped early"
    assert evaluations.index(best) == len(evaluations) - 3
    checked = tunesmith.evaluate(run, toy_data["test"])
    assert checked.scores.values["accuracy"] == pytest.approx(best.values["accuracy"])


def test_only_the_top_layers_change(toy_options, toy_base, tmp_path):
    from safetensors.torch import load_file

    run = tunesmith.train(**toy_options, method="top-layers", out=str(tmp_path / "run"), top_layers=1)
    before, after = load_file(toy_base / "model.safetensors"), load_file(run.path / "model.safetensors")
    changed = {name for name in after if name in before and not torch.equal(before[name], after[name])}
    assert changed
    assert all("layer.1." in name for name in changed), changed
    assert 0 < run.gain.trainable_share < 0.7


def test_a_linear_probe_leaves_the_body_alone(toy_options, toy_base, tmp_path):
    from safetensors.torch import load_file

    run = tunesmith.train(**toy_options, method="top-layers", out=str(tmp_path / "run"), top_layers=0)
    before, after = load_file(toy_base / "model.safetensors"), load_file(run.path / "model.safetensors")
    assert not [name for name in after if name in before and not torch.equal(before[name], after[name])]


def test_adaptation_reaches_what_pretraining_knew(toy_run):
    """The test words were never labelled: only pretraining can have told which family they belong to."""
    gain = toy_run.gain
    assert gain.after.value >= 0.95
    assert gain.baselines["majority"].value <= 0.4
    assert gain.baselines["tfidf"].value <= 0.5
    assert gain.differences["tfidf"].is_clear


def test_without_pretraining_adaptation_stays_near_chance(toy_options, tmp_path):
    import toy_world

    raw = toy_world.make_base(tmp_path / "raw", steps=0)
    run = tunesmith.train(**{**toy_options, "model": str(raw)}, out=str(tmp_path / "run"))
    assert run.gain.after.value <= 0.55


def test_recipe_of_a_run_repeats_it(toy_run, tmp_path):
    again = tunesmith.train(toy_run.path / "recipe.yaml", out=str(tmp_path / "again"))
    assert hash_file(again.path / "model.safetensors") == hash_file(toy_run.path / "model.safetensors")
    assert again.id == toy_run.id

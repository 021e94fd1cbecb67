"""Every `auto` gets its value in the plan, and what does not fit is refused before anything is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tunesmith.errors import PlanProblem
from tunesmith.models import matrix_units
from tunesmith.tasks.batching import steps_per_epoch
from tunesmith.training.plan import (
    choose_batch_size,
    choose_device,
    choose_epochs,
    choose_max_length,
    choose_precision,
    versions,
)
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe


def refused(function, *arguments) -> str:
    with pytest.raises(PlanProblem) as caught:
        function(*arguments)
    return str(caught.value)


def test_texts_are_cut_where_nearly_all_end():
    assert choose_max_length("auto", [10] * 200, 512) == 16
    assert choose_max_length("auto", [10] * 100 + [61] * 100, 512) == 64
    assert choose_max_length("auto", [400] * 200, 512) == 256
    assert choose_max_length("auto", [400] * 200, 32) == 32
    assert choose_max_length(300, [10], 512) == 300
    assert refused(choose_max_length, 600, [10], 512) == (
        "PlanProblem: max_length is 600; this base model reads at most 512 tokens\n"
        "  where: max_length\n"
        "  do:    choose 512 or less"
    )


def test_small_files_take_small_steps_and_more_passes():
    assert [choose_batch_size("auto", rows) for rows in (10, 999, 1000)] == [16, 16, 32]
    assert choose_batch_size(5, 10_000) == 5
    assert choose_epochs("auto", 50, 16, 2) == 30
    assert choose_epochs("auto", 1_000_000, 32, 2) == 3
    middle = choose_epochs("auto", 800, 16, 10)
    assert middle * steps_per_epoch(800, 16) >= 250
    assert choose_epochs(0.5, 800, 16, 10) == 0.5


def test_devices_and_precisions_that_are_not_there_are_refused(monkeypatch):
    assert choose_device("cpu") == "cpu"
    assert refused(choose_device, "tpu").startswith(
        "PlanProblem: device 'tpu' is not here\n  where: device\n  do:    use one of: "
    )
    for has_units, width, found in ((True, 384, "bf16"), (True, 64, "no"), (True, 0, "no"), (False, 384, "no")):
        monkeypatch.setattr(matrix_units, "has_matrix_units", lambda has_units=has_units: has_units)
        assert choose_precision("auto", "cpu", width) == found
    assert choose_precision("bf16", "cpu") == "bf16"
    assert "use one of: no, bf16, fp16" in refused(choose_precision, "fp8", "cpu")
    assert refused(choose_precision, "fp16", "cpu") == (
        "PlanProblem: fp16 training is not supported on cpu\n"
        "  where: mixed_precision\n"
        "  do:    use no or bf16, or a CUDA GPU"
    )


def plan_of(options, **changes):
    return prepare(make_recipe({**options, **changes})).plan


def test_a_plan_is_complete(toy_options):
    plan = plan_of(toy_options, epochs="auto", batch_size="auto")
    assert plan.task == "text-classification"
    assert not [name for name, value in plan.options.items() if value == "auto" and "dropout" not in name]
    assert plan.options["metric"] == "accuracy"
    assert plan.options["batch_size"] == 16
    assert plan.steps == plan.options["epochs"] * 8
    assert plan.labels == ("animal", "metal", "weather")
    assert (plan.data["train"], plan.data["valid"], plan.data["test"]) == (120, 45, 90)
    assert set(plan.versions) >= {"tunesmith", "torch", "transformers"}
    assert versions() == plan.versions
    assert plan.expected_seconds > 0
    assert plan.expected_memory_mib > 0


def test_the_same_recipe_gives_the_same_plan_and_another_another(toy_options):
    first = plan_of(toy_options)
    assert plan_of(toy_options).id == first.id
    for change in ({"seed": 1}, {"learning_rate": 1e-3}, {"method": "top-layers"}):
        assert plan_of(toy_options, **change).id != first.id, change


def test_pricing_leaves_no_trace(toy_options):
    job = prepare(make_recipe({**toy_options, "seed": 5}))
    state = torch.get_rng_state()
    from tunesmith.training.price import price_of_training
    from tunesmith.training.regime import make_learning

    weights = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    learning = make_learning(job.intake.task, job.plan.options, job.model)
    seconds, memory_mib = price_of_training(
        job.intake.task,
        job.model,
        job.examples["train"],
        options=job.plan.options,
        anatomy=job.anatomy,
        tokenizer=job.tokenizer,
        learning=learning,
    )
    assert seconds > 0
    assert memory_mib > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in job.model.state_dict().items())
    assert all(parameter.grad is None for parameter in job.model.parameters())
    assert not job.model.training


def test_accumulation_makes_fewer_steps(toy_options):
    assert plan_of(toy_options, gradient_accumulation_steps=2).steps == 6 * 4


def test_an_unknown_metric_or_method_is_refused_before_training(toy_options):
    with pytest.raises(PlanProblem) as caught:
        plan_of(toy_options, metric="acuracy")
    assert str(caught.value) == (
        "PlanProblem: no metric 'acuracy' for text-classification\n"
        "  where: metric\n"
        "  do:    use one of: accuracy, macro_f1, weighted_f1"
    )
    with pytest.raises(PlanProblem, match="no method 'loro'"):
        plan_of(toy_options, method="loro")
    with pytest.raises(PlanProblem, match="top_layers is 9; this model has 2 blocks"):
        plan_of(toy_options, method="top-layers", top_layers=9)


def test_texts_that_are_cut_are_counted(toy_options):
    plan = plan_of(toy_options, max_length=8)
    assert 0 < plan.data["cut"] <= 120
    assert plan_of(toy_options).data["cut"] == 0
    assert dataclasses.replace(plan, expected_seconds=0.0).id == plan.id

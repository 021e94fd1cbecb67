"""`--method auto`: the rules, one by one, and the sentence that a person reads."""

from __future__ import annotations

import dataclasses

import pytest

import toy_world
from tunesmith.methods.choose import Situation, choose_method
from tunesmith.training.auto_method import sentence
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

PLAIN = Situation(
    task="text-classification",
    rows=5_000,
    rows_a_label=2_500,
    parameters=22_000_000,
    is_encoder=True,
    free_memory_mib=8_000,
    pass_seconds=20.0,
    epochs=5.0,
)
ALL = ("full", "top-layers", "lora", "contrastive")


@pytest.mark.parametrize(
    ("changes", "method", "options"),
    [
        ({}, "full", {}),
        ({"rows_a_label": 16, "rows": 1_200}, "contrastive", {}),
        ({"rows_a_label": 17, "rows": 1_200}, "full", {}),
        ({"rows_a_label": 8, "rows": 16, "is_encoder": False}, "lora", {}),
        ({"rows_a_label": None, "rows": 1_200, "task": "translation"}, "full", {}),
        ({"rows_a_label": 8, "rows": 80, "task": "token-classification"}, "lora", {}),
        ({"rows": 199, "rows_a_label": 100}, "lora", {}),
        ({"rows": 200, "rows_a_label": 100}, "full", {}),
        ({"parameters": 340_000_000, "free_memory_mib": 64_000}, "lora", {}),
        ({"parameters": 110_000_000, "free_memory_mib": 2_000}, "lora", {}),
        ({"parameters": 7_000_000_000, "free_memory_mib": 16_000, "rows": 100_000}, "lora", {}),
        ({"budget_seconds": 3_600.0}, "full", {}),
        ({"budget_seconds": 200.0}, "top-layers", {"top_layers": 2}),
        ({"budget_seconds": 60.0}, "top-layers", {"top_layers": 0}),
        ({"budget_seconds": 60.0, "pass_seconds": 0.0}, "full", {}),
        ({"rows_a_label": 8, "rows": 16, "budget_seconds": 1.0}, "contrastive", {}),
    ],
)
def test_the_first_rule_that_holds_decides(changes, method, options):
    choice = choose_method(dataclasses.replace(PLAIN, **changes), ALL)
    assert (choice.method, dict(choice.options)) == (method, options)
    assert 20 < len(choice.why) < 160


def test_a_rule_whose_method_is_missing_is_passed_over():
    few = dataclasses.replace(PLAIN, rows=100, rows_a_label=8)
    assert choose_method(few, ("full", "lora")).method == "lora"
    assert choose_method(few, ("full",)).method == "full"


def test_the_reason_holds_the_numbers_that_decided():
    hours = dataclasses.replace(PLAIN, budget_seconds=200.0)
    assert sentence(choose_method(hours, ALL)) == (
        "method is top-layers, top_layers 2, because full tuning would take about 5 min, and 3 min are given: "
        "only the top blocks learn (override with --method)"
    )
    large = dataclasses.replace(PLAIN, parameters=1_300_000_000, free_memory_mib=10_000)
    assert (
        choose_method(large, ALL).why == "to train all 1.3 billion parameters takes 19.4 GiB, and 6.8 GiB are to be had"
    )


def test_auto_is_settled_before_the_plan_and_says_why(toy_options, tmp_path):
    data = toy_world.write_csv(tmp_path / "rows.csv", toy_world.rows(120, seed=5))
    job = prepare(make_recipe({**toy_options, "data": str(data), "method": "auto"}))
    assert job.plan.method == "lora"
    assert job.recipe.method == "lora", "the recipe that is kept repeats this run"
    (said,) = [line for line in job.intake.inferred if line.startswith("method is")]
    assert said in job.intake.inspection.inferred, "the report shows it"
    assert said.startswith("method is lora, because 120 rows are few for all 77,956 parameters")

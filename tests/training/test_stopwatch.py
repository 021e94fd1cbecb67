"""Where the time goes, and how much of the machine is used."""

from __future__ import annotations

import time

import pytest
import torch
import transformers

from tunesmith.methods import find_method
from tunesmith.models.anatomy import find_anatomy
from tunesmith.training.stopwatch import Stopwatch, flops_per_token, matrix_peak, speed


def make():
    shape = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=50, **shape))
    return model, find_anatomy(model)


WEIGHTS = 4 * 16 * 16 + 2 * 16 * 24  # of one block


def test_a_stage_inside_another_is_counted_once():
    watch = Stopwatch()
    with watch("outer"):
        time.sleep(0.02)
        with watch("inner"):
            time.sleep(0.05)
    with watch("inner"):
        time.sleep(0.05)
    assert watch.seconds["inner"] >= 0.1
    assert 0.02 <= watch.seconds["outer"] < watch.seconds["inner"]


def test_a_stage_that_fails_is_closed():
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch("a"), watch("b"):
        raise ValueError("no")
    with watch("c"):
        pass
    assert list(watch.seconds) == ["a", "b", "c"]


def test_operations_are_counted_for_what_runs_and_learns():
    model, anatomy = make()
    find_method("full").apply(model, anatomy, {})
    assert flops_per_token(anatomy, model) == 3 * 6 * WEIGHTS
    find_method("top-layers").apply(model, anatomy, {"top_layers": 1})
    # Two blocks only forward; the top one learns, and needs no gradient of its inputs beyond its own layers.
    assert flops_per_token(anatomy, model) == (2 * 2 + 6) * WEIGHTS
    assert flops_per_token(anatomy, model, blocks=2) == 6 * WEIGHTS
    find_method("top-layers").apply(model, anatomy, {"top_layers": 0})
    assert flops_per_token(anatomy, model, blocks=3) == 0


def test_speed_is_of_the_steps_alone():
    model, anatomy = make()
    watch = Stopwatch({"reading": 5.0, "forward": 1.0, "backward": 2.0, "update": 0.5, "batches": 0.5}, tokens=400)
    found = speed(watch, anatomy, model, blocks=0, device="cpu")
    assert found["tokens_per_second"] == 100
    assert found["gflops"] == pytest.approx(100 * flops_per_token(anatomy, model) / 1e9)
    assert found["share_of_peak"] == pytest.approx(found["gflops"] / found["peak_gflops"])
    assert "peak_gflops" not in speed(watch, anatomy, model, blocks=0, device="cuda")
    assert speed(Stopwatch(), anatomy, model, blocks=0, device="cpu") == {"stages": {}, "tokens": 0}


def test_the_peak_is_what_large_products_reach():
    peak = matrix_peak()
    left = torch.rand(256, 256)
    start = time.perf_counter()
    for _ in range(20):
        left @ left
    assert peak > 0.2 * 20 * 2 * 256**3 / (time.perf_counter() - start) / 1e9

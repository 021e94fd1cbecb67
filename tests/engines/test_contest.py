"""Engines are timed on the same rows, and their answers compared where they mean something."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tunesmith.engines.contest import BUDGETS, Timing, largest_difference, outputs_of, time_engines
from tunesmith.tasks import Example
from tunesmith.tasks.engine import padded_inputs

TOKENIZER = SimpleNamespace(pad_token_id=0)


class Summing:
    """An engine whose logits are sums of ids, and whose states also stand on padding."""

    config = None

    def __init__(self, on_padding: float = 0.0) -> None:
        self.on_padding, self.tokens, self.calls = on_padding, 0, 0

    def run(self, inputs):
        self.tokens = max(self.tokens, inputs["input_ids"].size)
        self.calls += 1
        mask = inputs["attention_mask"]
        states = np.where(mask == 1, inputs["input_ids"], self.on_padding).astype(np.float32)
        return {"logits": (inputs["input_ids"] * mask).sum(1, keepdims=True), "last_hidden_state": states[..., None]}


def examples(*lengths: int) -> list[Example]:
    return [Example(tuple(range(1, length + 1))) for length in lengths]


def make_inputs(some):
    return padded_inputs(some, TOKENIZER)


def test_what_stands_on_padding_is_not_compared():
    batches = [make_inputs(examples(2, 5))]
    one, other = (outputs_of(Summing(value), batches) for value in (0.0, 99.0))
    assert largest_difference(one, other) == 0.0


def test_differences_count_in_units_of_the_largest_answer():
    one = [{"logits": np.array([[0.5, -0.2]])}, {"logits": np.array([[40.0]])}]
    other = [{"logits": np.array([[0.5, -0.1]])}, {"logits": np.array([[42.0]])}]
    assert largest_difference(one, other) == pytest.approx(0.1)
    assert largest_difference(one, [{"logits": np.array([[np.nan, 0.0]])}, other[1]]) == np.inf


def test_every_engine_is_timed_on_every_budget():
    engines = {"a": Summing(), "b": Summing()}
    found = time_engines(engines, examples(*range(5, 45)), make_inputs)
    assert found.keys() == engines.keys()
    assert engines["a"].calls == engines["b"].calls
    assert max(one.tokens for one in engines.values()) <= max(BUDGETS)
    for timing in found.values():
        assert timing.batch_tokens in BUDGETS
        assert timing.milliseconds > 0
        assert timing.rows_per_second > 0


def test_one_number_for_alone_and_in_bulk():
    timing = Timing(10.0, 400.0, 512)
    assert timing.speed() == pytest.approx(200.0)
    assert timing.speed("latency") == pytest.approx(100.0)
    assert timing.speed("throughput") == pytest.approx(400.0)

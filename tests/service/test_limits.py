"""How often one key may ask, and how much one request may hold."""

from __future__ import annotations

import pytest

from tunesmith.service.limits import RateLimit, characters, demand_few
from tunesmith.service.problems import HttpProblem
from tunesmith.service.settings import Settings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_lets_a_burst_through_and_then_the_average():
    clock = Clock()
    limit = RateLimit(2.0, 3.0, clock=clock)
    for _ in range(3):
        limit.take("a")
    with pytest.raises(HttpProblem) as caught:
        limit.take("a")
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "rate_limited", 0.5)
    assert caught.value.headers == {"retry-after": "1"}
    limit.take("b")
    clock.now = 0.5
    limit.take("a")
    with pytest.raises(HttpProblem):
        limit.take("a")
    clock.now = 100.0
    for _ in range(3):
        limit.take("a")
    with pytest.raises(HttpProblem):
        limit.take("a")


def test_without_a_rate_there_is_no_limit():
    limit = RateLimit(0.0, 1.0)
    for _ in range(1000):
        limit.take("a")


def test_the_memory_of_many_keys_is_bounded(monkeypatch):
    monkeypatch.setattr("tunesmith.service.limits._MOST_BUCKETS", 10)
    limit = RateLimit(1.0, 1.0, clock=Clock())
    for number in range(100):
        limit.take(str(number))
    assert len(limit._buckets) == 10


def test_all_texts_of_an_input_count():
    assert characters("four") == 4
    assert characters({"a": "four", "b": ["five", {"c": "six"}]}) == 4 + 4 + 3 + 3 + 2


def test_too_many_and_too_long_inputs_are_refused():
    settings = Settings(max_inputs=2, max_characters=5)
    demand_few(["a", "12345"], settings)
    with pytest.raises(HttpProblem) as caught:
        demand_few(["a", "b", "c"], settings)
    assert (caught.value.status, caught.value.code) == (413, "too_many_inputs")
    with pytest.raises(HttpProblem) as caught:
        demand_few(["a", {"text": "123456"}], settings)
    assert (caught.value.status, caught.value.code, caught.value.where) == (413, "input_too_long", "inputs[1]")

from __future__ import annotations

import random

import pytest

from tunesmith.service.batcher import Batcher, Row
from tunesmith.service.pool_settings import Limits
from tunesmith.service.refusals import Busy


def rows(
    count: int, *, model: str = "m", options: str = "{}", tokens: int = 10, now: float = 0.0, request: object = None
):
    owner = request or object()
    return [Row(owner, place, model, options, tokens, now) for place in range(count)]


def batcher(**limits) -> Batcher:
    return Batcher(Limits(**{"batch_rows": 4, "batch_tokens": 100, "wait_seconds": 1.0, **limits}))


def test_rows_wait_for_others_until_the_wait_is_over():
    found = batcher()
    found.add(rows(2), 0.0, workers=1)
    assert found.take(0.5) is None
    assert found.due_at() == 1.0
    assert len(found.take(1.0).rows) == 2
    assert found.waiting == 0
    assert found.due_at() is None


def test_a_full_batch_goes_at_once():
    found = batcher()
    found.add(rows(4), 0.0, workers=1)
    assert len(found.take(0.0).rows) == 4


def test_enough_tokens_make_a_batch_and_padding_counts():
    found = batcher()
    found.add([*rows(1, tokens=50), *rows(1, tokens=10)], 0.0, workers=1)
    batch = found.take(0.0)  # 2 rows of width 50 are 100 tokens
    assert batch.tokens == 100
    found.add([*rows(1, tokens=60), *rows(1, tokens=10)], 0.0, workers=1)
    assert [row.tokens for row in found.take(0.0).rows] == [60]


def test_a_row_above_the_budget_goes_alone():
    found = batcher()
    found.add(rows(1, tokens=1000), 0.0, workers=1)
    assert len(found.take(0.0).rows) == 1


def test_models_and_options_are_not_mixed():
    found = batcher(wait_seconds=0.0)
    found.add(rows(1, model="a"), 0.0, workers=1)
    found.add(rows(1, model="b"), 0.0, workers=1)
    found.add(rows(1, model="a", options='{"top_k":1}'), 0.0, workers=1)
    batches = [found.take(0.0) for _ in range(3)]
    assert {(batch.model, batch.options, len(batch.rows)) for batch in batches} == {
        ("a", "{}", 1),
        ("a", '{"top_k":1}', 1),
        ("b", "{}", 1),
    }


def test_rows_of_like_length_go_together_and_the_oldest_is_never_left_behind():
    found = batcher(batch_rows=3, batch_tokens=1000, standing_batches=0.0)
    lengths = [20, 90, 21, 95, 19, 92]
    for place, tokens in enumerate(lengths):
        found.add(rows(1, tokens=tokens, now=float(place)), float(place), workers=1)
    assert [row.tokens for row in found.take(9.0).rows] == [20, 21, 19]
    assert [row.tokens for row in found.take(9.0).rows] == [90, 95, 92]


def test_a_queue_that_is_full_refuses_whole_requests_with_a_time():
    found = batcher(queue_rows=6, burst_seconds=10.0)
    found.add(rows(5), 0.0, workers=1)
    with pytest.raises(Busy) as caught:
        found.add(rows(2), 0.0, workers=1)
    assert found.waiting == 5
    assert caught.value.retry_after > 0
    found.add(rows(1), 0.0, workers=1)


def test_a_request_larger_than_the_queue_is_taken_where_nothing_waits():
    found = batcher(queue_rows=6)
    found.add(rows(20), 0.0, workers=1)
    assert found.waiting == 20


def test_a_queue_that_stands_takes_little_and_a_burst_much():
    found = batcher(queue_rows=1000, burst_seconds=0.1, standing_batches=2.0)
    for _ in range(50):  # batches of 4 rows take 100 ms
        found.add(rows(4), 0.0, workers=1)
        found.done(found.take(0.0), 0.1)
    assert found.room(0.0, workers=1) == 1000
    found.add(rows(300), 0.0, workers=1)
    assert found.room(0.05, workers=1) == 1000
    assert found.room(0.2, workers=1) == 8  # two batches
    assert found.room(0.2, workers=2) == 16
    with pytest.raises(Busy) as caught:
        found.add(rows(1), 0.2, workers=1)
    assert caught.value.retry_after == pytest.approx(301 / 4 * 0.1, rel=0.1)


def test_two_models_share_the_time_whatever_each_asks_for():
    found = batcher(wait_seconds=0.0, queue_rows=10_000, burst_seconds=1e9)
    found.add(rows(400, model="greedy"), 0.0, workers=1)
    found.add(rows(40, model="modest"), 0.0, workers=1)
    taken = []
    for _ in range(20):
        batch = found.take(0.0)
        taken.append(batch.model)
        found.done(batch, 0.01)
    assert taken.count("modest") == 10


def test_a_model_that_was_silent_does_not_come_with_savings():
    found = batcher(wait_seconds=0.0, queue_rows=10_000, burst_seconds=1e9)
    found.add(rows(400, model="busy"), 0.0, workers=1)
    for _ in range(30):
        found.done(found.take(0.0), 1.0)
    found.add(rows(40, model="new"), 0.0, workers=1)
    taken = []
    for _ in range(10):
        batch = found.take(0.0)
        taken.append(batch.model)
        found.done(batch, 1.0)
    assert 4 <= taken.count("new") <= 6


def test_cancelled_rows_leave_and_others_stay():
    found = batcher()
    mine, theirs = object(), object()
    found.add(rows(3, request=mine), 0.0, workers=1)
    found.add(rows(2, request=theirs), 0.0, workers=1)
    assert len(found.cancel(mine)) == 3
    assert [row.request for row in found.take(1.0).rows] == [theirs, theirs]
    assert found.cancel(mine) == []


def test_rows_of_a_failed_batch_go_first_and_alone():
    found = batcher()
    found.add(rows(3), 0.0, workers=1)
    batch = found.take(1.0)
    found.add(rows(4), 1.0, workers=1)
    found.put_back(batch.rows)
    assert [found.take(1.0).rows for _ in range(3)] == [(row,) for row in batch.rows]
    assert len(found.take(1.0).rows) == 4


def test_only_what_the_worker_can_answer_is_given():
    found = batcher(wait_seconds=0.0)
    found.add(rows(1, model="a"), 0.0, workers=1)
    assert found.take(0.0, can=lambda model: model != "a") is None
    assert found.take(0.0, wants_stream=True) is None
    assert found.take(0.0) is not None


def test_no_row_is_lost_or_given_twice_whatever_happens():
    chance = random.Random(5)
    found = Batcher(Limits(batch_rows=5, batch_tokens=120, wait_seconds=0.01, queue_rows=60))
    waiting: set[int] = set()
    given: list[int] = []
    kept: dict[int, Row] = {}
    now = 0.0
    for _ in range(3000):
        now += chance.random() * 0.01
        if chance.random() < 0.5:
            new = [
                Row(request, place, model, "{}", chance.randint(1, 80), now)
                for request, model in [(object(), chance.choice("abc"))]
                for place in range(chance.randint(1, 4))
            ]
            try:
                found.add(new, now, workers=1)
            except Busy:
                continue
            kept |= {id(row): row for row in new}
            waiting |= {id(row) for row in new}
        elif chance.random() < 0.1 and waiting:
            gone = found.cancel(kept[chance.choice(sorted(waiting))].request)
            waiting -= {id(row) for row in gone}
        elif (batch := found.take(now)) is not None:
            assert {row.model for row in batch.rows} == {batch.model}
            assert len(batch.rows) <= 5
            assert len(batch.rows) == 1 or batch.tokens <= 120
            given += [id(row) for row in batch.rows]
            waiting -= {id(row) for row in batch.rows}
            found.done(batch, 0.01)
        assert found.waiting == len(waiting) == len(found.rows())
    while (batch := found.take(now + 1)) is not None:
        given += [id(row) for row in batch.rows]
        waiting -= {id(row) for row in batch.rows}
    assert not waiting
    assert len(given) == len(set(given))


def test_a_full_queue_says_so_before_anything_is_added():
    found = batcher(queue_rows=4)
    assert found.full_for(0.0, workers=1) == 0.0
    found.add(rows(4), 0.0, workers=1)
    seconds = found.full_for(0.0, workers=1)
    with pytest.raises(Busy) as caught:
        found.add(rows(1), 0.0, workers=1)
    assert seconds == pytest.approx(caught.value.retry_after, abs=0.001)
    found.take(1.0)
    assert found.full_for(1.0, workers=1) == 0.0


def test_requests_on_their_way_to_the_queue_count_as_waiting():
    found = batcher(queue_rows=4)
    found.add(rows(1), 0.0, workers=1)
    assert found.full_for(0.0, workers=1, coming=2) == 0.0
    assert found.full_for(0.0, workers=1, coming=3) > 0.0
    found.take(1.0)
    assert found.full_for(1.0, workers=1, coming=4) > 0.0, "the queue is empty, and yet there is no room"


def test_a_queue_that_is_empty_only_in_between_stands():
    """More come in at a time than can be looked at: each lot finds the queue empty, and is too much for it."""
    found = batcher(queue_rows=1000, burst_seconds=0.5, standing_batches=2.0, batch_rows=4)
    for number in range(20):
        now = 0.1 * number
        is_full = found.full_for(now, workers=1, coming=100) > 0.0
        assert is_full == (now > 0.5), now
        found.add(rows(4), now, workers=1)
        found.done(found.take(now + 0.01), 0.02)
    assert found.full_for(3.0, workers=1, coming=0) == 0.0
    assert found.full_for(3.1, workers=1, coming=100) == 0.0, "a new burst may come in"

"""Work in the background is done in order, bounded, and finished at the end."""

from __future__ import annotations

import threading

from tunesmith.service.background import Background


def test_everything_is_done_in_order_before_it_closes():
    done: list[int] = []
    queue: Background[int] = Background(done.extend, pause_seconds=0.0)
    for number in range(50):
        assert queue.put([number, number + 1000]) == 0
    assert queue.close()
    assert done == [each for number in range(50) for each in (number, number + 1000)]


def test_what_finds_no_room_is_dropped_and_counted():
    may_go = threading.Event()
    done: list[int] = []

    def do(items):
        may_go.wait(10)
        done.extend(items)

    queue: Background[int] = Background(do, most_items=5, pause_seconds=0.0)
    dropped = sum(queue.put([number]) for number in range(100))
    may_go.set()
    assert queue.close()
    assert dropped > 0
    assert len(done) + dropped == 100
    assert queue.put([1]) == 1


def test_weight_is_a_limit_too():
    may_go = threading.Event()
    queue: Background[str] = Background(lambda _: may_go.wait(10), most_weight=10.0, pause_seconds=0.0)
    dropped = queue.put(["a", "b", "c"], [6.0, 6.0, 3.0])
    may_go.set()
    queue.close()
    assert dropped == 1


def test_flush_tells_whether_all_was_done():
    may_go = threading.Event()
    queue: Background[int] = Background(lambda _: may_go.wait(10), pause_seconds=0.0)
    assert queue.flush(0.0)
    queue.put([1])
    assert not queue.flush(0.05)
    may_go.set()
    assert queue.flush(5.0)
    queue.close()

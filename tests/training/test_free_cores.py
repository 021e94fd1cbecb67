"""How many CPU threads a run takes beside other programs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tunesmith.training import free_cores
from tunesmith.training.recipe import AUTO


@pytest.mark.parametrize(
    ("usual", "granted", "busy", "threads"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),  # a core that is taken now and then is still worth a thread
        (2, 2, 0.9, 1),
        (2, 2, 3.0, 1),  # never none
        (16, 16, 1.1, 15),
        (8, 16, 6.0, 8),  # torch takes a thread for each whole core, and there are enough left
    ],
)
def test_threads_are_as_many_as_cores_are_free(usual: int, granted: int, busy: float, threads: int) -> None:
    assert free_cores.free_threads(usual, granted=granted, busy=busy) == threads


def readings(monkeypatch: pytest.MonkeyPatch, *taken: Sequence[float]) -> None:
    """Let the machine be read as this: time, CPU seconds of all, CPU seconds of this process."""
    left = [free_cores._Reading(*each) for each in taken]
    monkeypatch.setattr(free_cores, "_read", lambda: left.pop(0))
    monkeypatch.setattr(free_cores, "_others", free_cores._Others())


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(free_cores, "_granted", lambda: {0, 1})


@pytest.mark.usefixtures("two_cores")
def test_a_core_that_another_program_keeps_busy_is_left_to_it_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0), (12.0, 103.9, 7.0))  # 3.9 in all, 2 of them our own: 0.95 of a core
    threads, remark = free_cores.thread_count(AUTO)
    assert threads == 1
    assert "1 instead of 2" in remark
    assert "0.9 of 2 cores" in remark or "1.0 of 2 cores" in remark


@pytest.mark.usefixtures("two_cores")
def test_what_the_process_itself_takes_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0), (12.0, 104.0, 8.8))
    assert free_cores.thread_count(AUTO) == (2, "")


@pytest.mark.usefixtures("two_cores")
def test_a_look_too_soon_gives_the_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0), (12.0, 104.0, 7.0), (12.1, 104.0, 7.0))
    assert free_cores.thread_count(AUTO)[0] == free_cores.thread_count(AUTO)[0] == 1


@pytest.mark.usefixtures("two_cores")
def test_what_somebody_said_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0))
    assert free_cores.thread_count(2) == (2, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert free_cores.thread_count(AUTO) == (2, "")


@pytest.mark.usefixtures("two_cores")
def test_what_answers_is_built_and_leaves_a_busy_core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0), (10.1, 100.0, 5.0), (12.0, 103.9, 7.0))
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    bundle = Opened()
    assert "OMP_NUM_THREADS decides" in free_cores.take_free_cores(bundle)  # type: ignore[arg-type]
    assert (taken, bundle.built) == ([1], 1)


@pytest.mark.parametrize("given", [{"exported": object()}, {"threads": 2}])
@pytest.mark.usefixtures("two_cores")
def test_threads_that_were_said_or_that_torch_does_not_have_stay(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
) -> None:
    readings(monkeypatch, (10.0, 100.0, 5.0))
    bundle = Opened(**given)
    assert free_cores.take_free_cores(bundle) == ""  # type: ignore[arg-type]
    assert bundle.built == 0


class Opened:
    """A bundle that counts how often what answers is built."""

    def __init__(self, exported: object = None, threads: object = None) -> None:
        self.exported, self.threads, self.built = exported, threads, 0

    @property
    def model(self) -> None:
        self.built += 1


def test_the_machine_can_be_read() -> None:
    first, second = free_cores._read(), free_cores._read()
    assert second.at >= first.at
    assert second.busy >= first.busy > 0
    assert second.own >= first.own > 0

"""What the monitors are told of answers and feedback, and which alerts count against a canary."""

from __future__ import annotations

from types import SimpleNamespace

from answerings import BUNDLE, Service, run


class Monitor:
    """Stands for a bundle's monitor: has the alerts that it is given, and notes what it is told."""

    def __init__(self, *rules: str) -> None:
        self.rules, self.told = rules, []

    def alerts(self):
        return [SimpleNamespace(rule=rule) for rule in self.rules]

    def observe(self, rows):
        self.told += rows

    def feedback(self, is_correct, *, confidence=None):
        self.told.append((is_correct, confidence))

    def snapshot(self):
        return {}


def test_what_the_live_version_sees_too_is_no_fault_of_a_canary(tmp_path):
    async def ask():
        async with Service(tmp_path, keep=False) as service:
            watcher = service.app.parts.watcher
            watcher._known["reviews", BUNDLE] = Monitor("input-drift")
            watcher._known["reviews", "newer"] = Monitor("input-drift", "output-drift")
            alerts = [watcher.standing("reviews", bundle) for bundle in (BUNDLE, "newer", "unknown")]
            watcher._known.clear()
            return alerts

    assert run(ask()) == [["input-drift"], ["output-drift"], []]


def test_feedback_reaches_the_monitor_with_the_confidence_of_the_answer(tmp_path):
    monitor = Monitor()

    async def ask():
        async with Service(tmp_path) as service:
            watcher = service.app.parts.watcher
            watcher._known["reviews", BUNDLE] = monitor
            (answer,) = (await service.predict("a")).json()["predictions"]
            body = {"prediction": answer["id"], "corrected": "good"}
            assert (await service.client.post("/v1/feedback", json=body)).status_code == 201
            assert watcher.flush(10)
            watcher._known.clear()

    run(ask())
    assert monitor.told[-1] == (False, 0.9)
    assert len(monitor.told) == 2

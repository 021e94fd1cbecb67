from __future__ import annotations

import dataclasses
import json
import logging
import math
import threading
import time

import numpy as np
import pytest
from usual_rows import make_reference, mixed, rows

from tunesmith.monitoring.alarm import Alarm
from tunesmith.monitoring.alerts import read_rules
from tunesmith.monitoring.catalogue import METRICS, SHARES
from tunesmith.monitoring.drift import DEALS, Null
from tunesmith.monitoring.monitor import Monitor, Pace
from tunesmith.monitoring.observed import Observed
from tunesmith.monitoring.reference import Reference, read_reference, reference_of_served
from tunesmith.monitoring.worker import Worker

QUICK = Pace(window_rows=200, hop_rows=100, first_rows=300, rows_at_once=1000, permutations=5)
NULL = Null(
    (600, 200), (0.5, 0.032), (0.104, 0.021), deals=DEALS
)  # as `calibrate_domain` found it for these numbers of rows


def watching(reference: Reference | None, **options) -> Monitor:
    monitor = Monitor("reviews", reference, alarm=Alarm(read_rules(None)), pace=QUICK, in_background=False, **options)
    monitor._null = NULL if reference is not None else None  # a second of permutations saved
    return monitor


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference()


def test_usual_requests_raise_nothing_and_a_new_topic_does(reference):
    monitor = watching(reference)
    monitor.observe(rows(400, 21))
    assert monitor.alerts() == ()
    monitor.observe(mixed(200, 22, 0.4))
    assert [alert.rule for alert in monitor.alerts()] == ["input-drift"]
    monitor.observe(rows(400, 23))
    assert monitor.alerts() == ()
    assert [alert["rule"] for alert in monitor.report()["alerts_over"]] == ["input-drift"]


def test_every_number_has_its_entry_in_the_catalogue_and_is_finite(reference):
    monitor = watching(reference)
    monitor.observe(rows(250, 24))
    for right in (True, False) * 40:
        monitor.feedback(right, confidence=0.6)
    monitor.failed("timeout")
    found = monitor.snapshot()
    assert not [name for name in found if name not in METRICS and not name.startswith(tuple(SHARES))]
    assert all(math.isfinite(value) for value in found.values())
    missing = {name for name in METRICS if name not in found}
    # No script but one, no unknown token, no answers in words.
    assert missing == {
        f"drift_{test}_{what}" for test in ("language", "unknown_tokens", "answer") for what in ("score", "p_value")
    }
    assert found["rows_total"] == 250
    assert found["feedback_accuracy"] == 0.5
    assert found["feedback_ece"] == pytest.approx(0.1, abs=1e-6)
    assert found["failed_share"] == pytest.approx(1 / 251)
    assert found["answer_seconds_p50"] == pytest.approx(0.01, rel=1e-3)
    assert sum(value for name, value in found.items() if name.startswith("label_share:")) == pytest.approx(1)
    assert found["script_share:latin"] == 1


def test_the_report_is_json_and_says_what_drifts(reference):
    monitor = watching(reference)
    monitor.observe(mixed(200, 25, 0.5))
    monitor.failed("busy")
    report = json.loads(json.dumps(monitor.report(), allow_nan=False))
    assert report["tests"][0]["is_drifting"]
    assert {each["name"] for each in report["tests"]} == {"length", "confidence", "label", "domain", "novelty"}
    assert all(each["meaning"] for each in report["tests"])
    assert report["mixes"]["label"]["reference"].keys() == {"ship", "bread", "moss"}
    assert sum(report["histograms"]["confidence"]["window"]) == pytest.approx(1)
    assert report["failures"] == {"busy": 1}
    assert report["alerts"][0]["rule"] == "input-drift"
    assert len(report["timeline"]) == 1
    assert report["reference"]["origin"] == "training data"


def test_before_anything_is_known_there_is_a_report_too():
    monitor = Monitor("reviews", pace=QUICK, in_background=False, awaits_reference=True, bundle="b1")
    monitor.observe(rows(5, 1))
    assert json.dumps(monitor.report(), allow_nan=False)
    assert monitor.snapshot()["window_rows"] == 0


def test_an_accuracy_that_falls_raises_an_alert_and_failures_another(reference):
    moment = [0.0]
    monitor = watching(reference, clock=lambda: moment[0])
    for number in range(400):
        monitor.feedback(number % 10 != 0)
    for number in range(200):
        monitor.feedback(number % 2 == 0)
    assert [alert.rule for alert in monitor.alerts()] == ["accuracy-drop"]
    for _ in range(150):
        monitor.failed("timeout")
    monitor.work()
    moment[0] = 31.0
    monitor.work()
    assert {alert.rule for alert in monitor.alerts()} == {"accuracy-drop", "failures"}


def test_no_text_is_kept(reference, tmp_path):
    path = tmp_path / "state.safetensors"
    monitor = watching(reference, state=path)
    secret = "ring alice at 555-0134"
    monitor.observe([Observed(f"{secret} {number}", category="ship", confidence=0.5) for number in range(250)])
    assert secret not in json.dumps(monitor.report())
    monitor.close()
    content = path.read_bytes()
    assert b"alice" not in content
    assert len(content) < 200_000


def test_windows_counts_judgements_and_alerts_survive_a_restart(reference, tmp_path):
    path = tmp_path / "state.safetensors"
    first = watching(reference, state=path)
    first.observe(mixed(400, 26, 0.5))
    for right in (True, True, False):
        first.feedback(right, confidence=0.7)
    first.failed("timeout")
    standing = first.alerts()
    assert standing
    first.close()
    second = watching(reference, state=path)
    assert second.alerts() == standing
    for name in (
        "rows_total",
        "feedback_total",
        "feedback_accuracy",
        "failed_total",
        "checks_total",
        "input_characters_mean",
    ):
        assert second.snapshot()[name] == first.snapshot()[name], name
    assert second.report()["timeline"] == first.report()["timeline"]
    assert np.array_equal(second.window.vectors_ND, first.window.vectors_ND)
    second.observe(rows(200, 27))
    assert not second.alerts()


@pytest.mark.parametrize(("deals", "is_taken_up"), [(DEALS, True), (1, False)])
def test_the_spread_of_scores_is_taken_up_if_they_are_still_made_so(reference, tmp_path, deals, is_taken_up):
    path = tmp_path / "state.safetensors"
    first = watching(reference, state=path)
    first._null = dataclasses.replace(NULL, deals=deals)
    first.observe(rows(250, 28))
    first.close()
    again = Monitor("reviews", reference, pace=QUICK, state=path, in_background=False)
    assert (again._null is not None) is is_taken_up


def test_another_bundle_begins_anew(reference, tmp_path):
    path = tmp_path / "state.safetensors"
    first = watching(reference, state=path)
    first.observe(rows(250, 28))
    first.close()
    assert watching(make_reference(200, bundle="b2"), state=path).snapshot()["rows_total"] == 0


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b"half"])
def test_a_damaged_state_is_told_and_left_behind(reference, tmp_path, damage, caplog):
    path = tmp_path / "state.safetensors"
    first = watching(reference, state=path)
    first.observe(rows(120, 29))
    first.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == b"half" else damage)
    with caplog.at_level(logging.WARNING, "tunesmith.monitoring"):
        second = watching(reference, state=path)
    assert "begins anew" in caplog.text
    assert second.snapshot()["rows_total"] == 0


def test_the_first_requests_are_the_reference_where_there_is_none(tmp_path):
    path = tmp_path / "state.safetensors"
    first = watching(None, state=path, bundle="b1", labels=("ship", "bread", "moss"))
    first.observe(rows(300, 31))
    assert first.reference is not None
    assert first.reference.origin == "first requests"
    first.observe([Observed(row.text, category="ship", confidence=row.confidence) for row in rows(200, 32)])
    assert [alert.rule for alert in first.alerts()] == ["output-drift"]
    first.close()
    second = watching(None, state=path, bundle="b1", labels=("ship",))
    assert second.reference is not None
    assert second.snapshot()["window_rows"] == 200


def test_embeddings_that_come_along_are_compared():
    generator = np.random.default_rng(0)

    def some(count: int, shift: float) -> list[Observed]:
        return [
            Observed(
                "same text",
                category="a",
                confidence=0.5,
                embedding=(generator.normal(size=32) + shift * (row % 3 == 0)).tolist(),
            )
            for row in range(count)
        ]

    found = reference_of_served(some(400, 0), bundle="b1", labels=("a",))
    assert found.embedder.kind == "given"
    monitor = watching(found)
    monitor._null = Null((400, 200), (0.5, 0.04), (0.1, 0.035))
    monitor.observe(some(200, 0))
    assert not monitor.alerts()
    monitor.observe(some(200, 1.5))
    assert [alert.rule for alert in monitor.alerts()] == ["input-drift"]


def test_answers_in_words_have_no_label_mix():
    texts = [
        Observed(f"question {number}", category=f"answer {number}", number=float(len(f"answer {number}")))
        for number in range(300)
    ]
    monitor = watching(None, bundle="b1")
    monitor.observe(texts)
    monitor.observe([Observed(row.text, category=row.category * 3, number=3 * row.number) for row in texts[:200]])
    assert not [name for name in monitor.snapshot() if name.startswith("label_share:")]
    assert monitor.snapshot()["drift_answer_p_value"] < 1e-6


def test_a_reference_is_the_same_after_reading(reference, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference.save(path)
    again = read_reference(path)
    for name in ("bundle", "origin", "categories", "accuracy", "ece", "at"):
        assert getattr(again, name) == getattr(reference, name)
    texts = [row.text for row in rows(20, 33)]
    assert np.array_equal(again.embedder.embed(texts).vectors_ND, reference.embedder.embed(texts).vectors_ND)
    assert np.array_equal(again.inputs.vectors_ND, reference.inputs.vectors_ND)


def test_rows_are_taken_in_within_microseconds_whatever_the_background_does(reference):
    """A comparison, or a lock that somebody holds for long, is no matter of the request's."""
    monitor = Monitor("reviews", reference, pace=QUICK, worker=Worker(pause_seconds=1e6))
    found = rows(2000, 34)
    with monitor._working:  # as if a comparison were under way
        start = time.thread_time()
        for row in found:
            monitor.observe([row])
        assert (time.thread_time() - start) / len(found) < 100e-6
    assert monitor.snapshot()["rows_total"] == 2000
    assert monitor.snapshot()["rows_skipped_total"] == 1000
    monitor._worker.close()


def test_the_background_thread_does_the_work(reference):
    monitor = Monitor("reviews", reference, pace=QUICK, worker=Worker(pause_seconds=0.01))
    monitor._null = NULL
    monitor.observe(rows(250, 35))
    end = time.monotonic() + 30
    while not monitor.snapshot()["checks_total"] and time.monotonic() < end:
        threading.Event().wait(0.02)
    assert monitor.snapshot()["checks_total"] == 1
    monitor.close()
    monitor._worker.close()


def test_the_spread_is_found_beside_the_other_work_and_closing_does_not_wait_for_it(reference):
    pace = Pace(window_rows=150, hop_rows=50, permutations=3, rows_at_once=1000, rest=0.0)
    monitor = Monitor("reviews", reference, pace=pace, worker=Worker(pause_seconds=0.01))
    monitor.observe(rows(160, 39))
    end = time.monotonic() + 60
    while monitor._null is None and time.monotonic() < end:
        threading.Event().wait(0.02)
    assert monitor._null is not None
    assert (monitor._null.rows, monitor._null.permutations) == ((600, 150), 3)
    monitor.close()
    monitor._worker.close()
    endless = Monitor(
        "reviews", reference, pace=Pace(window_rows=150, permutations=10**6, rows_at_once=1000), worker=Worker(0.01)
    )
    endless.observe(rows(160, 40))
    while endless._calibrating is None and time.monotonic() < end:
        threading.Event().wait(0.02)
    endless.close()
    endless._worker.close()
    assert endless._calibrating is not None
    endless._calibrating.join(30)
    assert not endless._calibrating.is_alive()


def test_a_fault_of_the_monitor_is_counted_and_never_raised(reference, monkeypatch, caplog):
    monitor = watching(reference)
    monkeypatch.setattr("tunesmith.monitoring.monitor.measure", lambda *given: 1 / 0)
    with caplog.at_level(logging.CRITICAL, "tunesmith.monitoring"):
        monitor.observe(rows(10, 36))
        monitor.observe(None)  # type: ignore[arg-type]
        monitor.feedback(True, confidence="high")  # type: ignore[arg-type]
    assert monitor.snapshot()["faults_total"] >= 2
    monkeypatch.undo()
    monitor.observe(rows(10, 37))
    assert monitor.snapshot()["window_rows"] == 10


def test_a_full_disk_stops_nothing(reference, tmp_path, caplog):
    place = tmp_path / "file"
    place.write_text("no folder")
    monitor = watching(reference, state=place / "state.safetensors")
    with caplog.at_level(logging.CRITICAL, "tunesmith.monitoring"):
        monitor.observe(rows(150, 38))
        monitor.close()
    assert monitor.snapshot()["rows_total"] == 150

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from usual_rows import make_reference, mixed, rows

from tunesmith.errors import PlanProblem
from tunesmith.monitoring.monitor import Pace
from tunesmith.monitoring.monitors import Monitors, _key

PACE = Pace(window_rows=200, hop_rows=100, first_rows=150, rows_at_once=1000)


def test_each_bundle_has_its_monitor_and_forgetting_one_keeps_its_state(tmp_path):
    for bundle in ("b1", "b2"):
        make_reference(150, bundle=bundle).save(tmp_path / f"reference-{_key(bundle)}.safetensors")
    monitors = Monitors(tmp_path, pace=PACE)
    one, two = monitors.monitor("reviews", "b1", tmp_path), monitors.monitor("reviews", "b2", tmp_path)
    assert monitors.monitor("reviews", "b1", tmp_path) is one is not two
    monitors.wait_for_references(60)
    assert one.reference is not None
    one.observe(rows(120, 1))
    monitors.forget("reviews", "b1")
    assert monitors.all() == (two,)
    again = monitors.monitor("reviews", "b1", tmp_path)
    monitors.wait_for_references(60)
    assert again is not one
    assert again.snapshot()["rows_total"] == 120
    monitors.close()


def test_a_run_that_cannot_be_opened_leaves_the_first_requests(tmp_path, caplog):
    """The child process is real, and fails."""
    monitors = Monitors(tmp_path / "monitor", pace=PACE)
    with caplog.at_level(logging.WARNING, "tunesmith.monitoring"):
        monitor = monitors.monitor("reviews/../x", "b1", tmp_path / "no-run")
        monitor.observe(rows(150, 2))
        monitors.wait_for_references(120)
        monitors.close()
    assert "there is no run folder" in monitor.remark
    assert "the first requests to reviews/../x will say what is usual" in caplog.text
    assert monitor.reference is not None
    assert monitor.reference.origin == "first requests"
    assert {path.suffix for path in (tmp_path / "monitor").iterdir()} == {".safetensors"}


def test_a_damaged_reference_is_removed(tmp_path):
    path = tmp_path / f"reference-{_key('b1')}.safetensors"
    path.write_bytes(b"nothing of use")
    monitors = Monitors(tmp_path, pace=PACE)
    monitor = monitors.monitor("reviews", "b1", tmp_path)
    monitors.wait_for_references(60)
    assert not path.exists()
    assert "gone" in monitor.remark
    monitors.close()


def test_a_rules_file_with_a_metric_that_is_not_there_is_refused_at_the_start(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n  - {name: a, raise: drift > 1}\n", encoding="utf-8")
    with pytest.raises(PlanProblem, match="there is no metric 'drift'"):
        Monitors(tmp_path, rules=path)


@pytest.mark.slow
def test_a_run_of_ones_own_is_watched_from_its_training_data(toy_run, toy_data, tmp_path):
    """Training data -> child process -> reference -> answers of the bundle: its own rows are quiet, others are not."""
    import csv

    monitors = Monitors(tmp_path, pace=Pace(window_rows=90, hop_rows=45, least_rows=60))
    monitor = monitors.monitor("toy", toy_run.id, toy_run.path, labels=toy_run.labels)
    monitors.wait_for_references(500)
    assert monitor.reference is not None, monitor.remark
    assert monitor.reference.embedder.kind == "tokens"
    assert (len(monitor.reference.inputs), len(monitor.reference.outputs)) == (165, 45)
    assert monitor.reference.accuracy is not None
    assert monitor.reference.accuracy > 0.6
    from tunesmith.monitoring.observed import Observed

    with Path(toy_data["test"]).open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    monitor.observe([Observed.of(answer, text) for text, answer in zip(texts, toy_run.predict(texts), strict=True)])
    monitor.work()
    found = monitor.snapshot()
    assert found["window_rows"] == 90
    assert found["drift_language_p_value" if "drift_language_p_value" in found else "drift_length_p_value"] > 0.001
    strange = [f"zz{number} qq{number}" for number in range(90)]
    monitor.observe([Observed.of(answer, text) for text, answer in zip(strange, toy_run.predict(strange), strict=True)])
    monitor._next_check = 0.0
    monitor.work()
    assert monitor.snapshot()["drift_unknown_tokens_p_value"] < 1e-6
    assert json.dumps(monitor.report(), allow_nan=False)
    monitors.close()


@pytest.mark.slow
def test_where_the_rows_are_gone_the_models_own_embeddings_still_serve(toy_run, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(toy_run.path, run)
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    for file in plan["data"]["files"].values():
        file["sha256"] = "0" * 64
    (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    from tunesmith.bundle.atomic import write_manifest

    write_manifest(run)
    monitors = Monitors(tmp_path / "monitor", pace=PACE)
    monitor = monitors.monitor("toy", "b1", run)
    monitor.observe(mixed(160, 5, 0.0))
    monitors.wait_for_references(500)
    monitors.close()
    assert "has changed" in monitor.remark
    assert monitor.reference is not None
    assert (monitor.reference.origin, monitor.reference.embedder.kind) == ("first requests", "tokens")

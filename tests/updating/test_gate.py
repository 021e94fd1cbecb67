"""The gate blocks every planted fault, lets harmless candidates pass, and says why in words."""

from __future__ import annotations

import dataclasses
import json

import planted_candidates as planted
import pytest

import toy_world
import tunesmith
from tunesmith.bundle.registry import Registry
from tunesmith.errors import RegistryProblem
from tunesmith.types import to_json
from tunesmith.updating import trial
from tunesmith.updating.gate import judge, register
from tunesmith.updating.options import UpdateOptions
from tunesmith.updating.prepare import prepare_update
from tunesmith.updating.rules import chance_of

TEXTS = dict(toy_world.rows(60, seed=21, is_test=True))


@pytest.fixture
def few_timings(monkeypatch):
    monkeypatch.setattr(trial, "_TIMED_ROWS", 6)
    monkeypatch.setattr(trial, "_TIMES", 5)


@pytest.fixture(scope="module")
def champion(toy_run):
    return toy_run.path


def verdict_on(name, champion, folder, spoil):
    run = planted.copy_of(champion, folder)
    spoil(run)
    return judge(run, champion, feedback=planted.feedback_for(name, TEXTS))


def demand_blocked(name, verdict):
    assert not verdict.passed, name
    failed = [rule.name for rule in verdict.failed]
    assert planted.RULE.get(name, failed[0]) in failed, (name, verdict.failed)
    assert all(rule.reason for rule in verdict.rules)


@pytest.mark.parametrize("name", ["one class lost", "not a number", "test learnt", "feedback poisoned"])
def test_bad_candidates_are_blocked(name, champion, tmp_path, few_timings):
    demand_blocked(name, verdict_on(name, champion, tmp_path / "bad", planted.BAD[name]))


@pytest.mark.parametrize("name", ["the same", "nudged", "bfloat16", "a little surer"])
def test_harmless_candidates_pass(name, champion, tmp_path, few_timings):
    verdict = verdict_on(name, champion, tmp_path / "good", planted.HARMLESS[name])
    assert verdict.passed, verdict.failed


@pytest.mark.slow
@pytest.mark.parametrize("name", planted.BAD)
def test_twenty_bad_candidates_are_all_blocked(name, champion, tmp_path):
    demand_blocked(name, verdict_on(name, champion, tmp_path / "bad", planted.BAD[name]))


@pytest.mark.slow
@pytest.mark.timeout(3000)  # thirteen trainings; on a machine that others use too
def test_of_twenty_harmless_candidates_at_least_eighteen_pass(champion, toy_options, tmp_path, few_timings):
    verdicts = {name: verdict_on(name, champion, tmp_path / name, change) for name, change in planted.HARMLESS.items()}
    for name, changes in planted.OTHER_RUNS.items():
        run = tunesmith.train(**{**toy_options, **changes}, threads=1, out=str(tmp_path / "runs" / name))
        verdicts[name] = judge(run.path, champion)
    new = toy_world.write_csv(tmp_path / "new.csv", toy_world.rows(60, seed=31))
    for strategy in ("replay", "head"):
        options = UpdateOptions(strategy=strategy, data=str(new), out=str(tmp_path / strategy), recipe={"threads": 1})
        update = prepare_update(champion, options)
        list(update.run())
        verdicts[f"update by {strategy}"] = judge(update.bundle.path, champion)
    assert len(verdicts) == 20
    blocked = {name: verdict.failed for name, verdict in verdicts.items() if not verdict.passed}
    assert len(blocked) <= 2, blocked


def test_the_registry_keeps_a_blocked_candidate_and_does_not_promote_it(champion, tmp_path, few_timings):
    registry = Registry(tmp_path / "registry")
    run = planted.copy_of(champion, tmp_path / "bad")
    planted.BAD["labels swapped"](run)
    verdict, version = register(registry, "toy", run, parent=champion)
    assert not verdict.passed
    assert registry.live("toy").run == champion
    with pytest.raises(RegistryProblem, match="failed its gate: golden set, class recall"):
        registry.promote("toy", version.number)
    kept = registry.version("toy", version.number).gate
    assert json.dumps(to_json(verdict.rules[0].reason)) in json.dumps(kept)
    assert kept["manifest_sha256"] == version.manifest_sha256


def test_a_wrong_label_is_noise_but_a_lost_class_is_not():
    assert chance_of(1, 0) == 0.5
    assert chance_of(7, 0) < 0.01 < chance_of(6, 0)
    assert chance_of(10, 9) > 0.3


def test_the_record_is_plain_json(champion, few_timings):
    verdict = judge(champion, champion)
    assert verdict.passed
    content = json.loads(json.dumps(to_json(verdict)))
    assert content["candidate"] == content["champion"]
    assert {rule["name"] for rule in content["rules"]} >= {"files", "golden set", "class recall", "latency", "leak"}
    assert dataclasses.is_dataclass(verdict)

"""Several runs over one base model: each answers as if alone, and the base is held once."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import shutil

import pytest

import toy_world
import tunesmith
from tunesmith.bundle.adapters import AdapterSet
from tunesmith.cli import main
from tunesmith.errors import BundleProblem

MADE = {"lora": "no", "merged": "auto", "ia3": "no", "bitfit": "no"}  # name -> `merge`
TEXTS = [text for text, _ in toy_world.rows(12, seed=9)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of several methods on one base model that was never pretrained; short, for their scores do not matter."""
    folder = tmp_path_factory.mktemp("adapters")
    base = toy_world.make_base(folder / "base", steps=0)
    data = toy_world.write_csv(folder / "rows.csv", toy_world.rows(60, seed=1))
    found = {}
    for seed, (name, merge) in enumerate(MADE.items()):
        method = "lora" if name == "merged" else name
        options = {"model": str(base), "method": method, "merge": merge, "max_steps": 4, "seed": seed}
        options |= {"learning_rate": 0.02, "checkpoint_seconds": 1000}
        found[name] = tunesmith.train(data, **options, out=str(folder / name)).path
    return found


@pytest.fixture(scope="module")
def alone(runs):
    return {name: [one.alternatives for one in tunesmith.load(path).predict(TEXTS)] for name, path in runs.items()}


def same(found, expected) -> bool:
    pairs = zip([one.alternatives for one in found], expected, strict=True)
    return all(one[label] == pytest.approx(other[label], abs=1e-5) for one, other in pairs for label in other)


def test_each_answers_as_it_does_alone_and_the_base_is_held_once(runs, alone):
    adapters = AdapterSet(runs)
    assert adapters.names == tuple(MADE)
    for name, expected in alone.items():
        assert same(adapters.answer(name, TEXTS), expected)
    assert len({str(expected) for expected in alone.values()}) == len(alone), "they do answer differently"
    models = [tunesmith.load(path).model for path in runs.values()]
    whole = [sum(one.numel() * one.element_size() for one in model.parameters()) for model in models]
    own = [adapters.own_bytes(name) for name in MADE]
    assert adapters.held_bytes < 0.5 * sum(whole)
    assert all(0 < mine < 0.35 * size for mine, size in zip(own, whole, strict=True))
    assert adapters.held_bytes - sum(own) > 0.7 * whole[0], "the base itself, once"


def test_several_threads_may_ask_different_runs_at_once(runs, alone):
    adapters = AdapterSet(runs)
    asked = [name for name in MADE for _ in range(5)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda name: adapters.answer(name, TEXTS), asked))
    assert all(same(one, alone[name]) for name, one in zip(asked, found, strict=True))


def test_runs_come_and_go(runs, alone):
    adapters = AdapterSet({"first": runs["lora"]})
    before = adapters.held_bytes
    assert adapters.load(runs["ia3"]) == "ia3"
    assert adapters.held_bytes > before
    adapters.unload("ia3")
    gc.collect()
    assert adapters.names == ("first",)
    assert adapters.held_bytes == before
    adapters.unload("first")
    assert adapters.load(runs["merged"]) == "merged"
    assert same(adapters.answer("merged", TEXTS), alone["merged"])


def test_names_are_known_and_given_once(runs):
    adapters = AdapterSet([runs["lora"]])
    with pytest.raises(BundleProblem) as caught:
        adapters.answer("lara", TEXTS)
    assert caught.value.what == "no run is loaded under the name 'lara'"
    assert caught.value.do == "load it; those here are: lora"
    with pytest.raises(BundleProblem, match="a run is loaded under the name 'lora' already"):
        adapters.load(runs["lora"])
    with pytest.raises(BundleProblem, match="no run is loaded under the name 'ia3'"):
        adapters.unload("ia3")


def test_another_base_model_is_refused(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs["ia3"], other)
    facts = json.loads((other / "bundle.json").read_text(encoding="utf-8"))
    facts["delta"]["base_sha256"] = "0" * 64
    (other / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")
    adapters = AdapterSet([runs["lora"]])
    with pytest.raises(BundleProblem, match="'other' was trained on another base model than 'lora'"):
        adapters.load(tunesmith.load(other, verify=False))


def test_a_run_that_holds_nothing_apart_is_refused(toy_run):
    with pytest.raises(BundleProblem) as caught:
        AdapterSet([toy_run.path])
    assert caught.value.what == "'toy' was trained by method full and holds nothing apart from its base model"


def test_the_command_tells_what_each_adds(runs, capsys):
    assert main(["adapters", *map(str, runs.values()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["runs"]) == list(MADE)
    assert found["held_bytes"] > sum(one["own_bytes"] for one in found["runs"].values()) > 0
    assert main(["adapters", str(runs["lora"]), str(runs["ia3"])]) == 0
    assert "all together hold" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--data", "--out"])
def test_options_of_a_merge_need_weights(option, runs, capsys):
    assert main(["adapters", str(runs["lora"]), str(runs["ia3"]), option, "x"]) == 2
    assert f"PlanProblem: {option} is for a merged run, and no weights are given" in capsys.readouterr().err

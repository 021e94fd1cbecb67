"""Runs with a budget: a whole bundle soon, a better one later, never a worse one."""

from __future__ import annotations

import json

import pytest

import tunesmith
from tunesmith.bundle.atomic import MANIFEST, NEXT, complete, find_damage, promote, write_folder
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.training import anytime
from tunesmith.training.anytime import prepare_anytime
from tunesmith.training.recipe import make_recipe
from tunesmith.training.recipe_values import read_seconds


def prepared(toy_options, folder, **changes):
    recipe = {**toy_options, "out": str(folder), "budget": "5m", "epochs": 4, **changes}
    return prepare_anytime(make_recipe(recipe))


def tried(folder):
    return json.loads((folder / "attempts.json").read_text())


def test_later_attempts_are_kept_only_where_they_are_better(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run")
    events = list(job.run())
    attempts = tried(tmp_path / "run")
    assert [one["attempt"] for one in attempts][:3] == ["the top block", "the top 1 of 2 blocks", "method full"]
    best = 0.0
    for one in attempts:
        assert one["is_kept"] == (one["valid_score"] > best) or one["valid_score"] == best
        best = max(best, one["valid_score"])
    kept = [one for one in attempts if one["is_kept"]][-1]
    assert kept["valid_score"] == best
    assert job.bundle.plan.method == kept["method"]
    assert job.bundle.gain.after.value > 0.9  # words that no label touched: pretrained knowledge was adapted
    assert set(job.bundle.gain.baselines) == {"majority", "tfidf"}
    assert events[-1].kind == "end"
    assert find_damage(tmp_path / "run") == []
    assert not (tmp_path / "run" / "attempts").exists()
    assert not (tmp_path / "run" / "states").exists()


def test_at_every_moment_after_the_first_attempt_the_folder_is_a_whole_bundle(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run")
    seen = 0
    for event in job.run():
        if (tmp_path / "run" / MANIFEST).exists() and event.kind in {"stage", "note", "evaluation"}:
            bundle = tunesmith.load(tmp_path / "run")
            assert bundle.predict("a1 a2 the1")[0].value in bundle.labels
            seen += 1
    assert seen > 5


def test_a_signal_leaves_the_best_so_far(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run")
    seen = set()
    for event in job.run(lambda: 2 if seen else 0):
        if event.kind == "evaluation" and (tmp_path / "run" / MANIFEST).exists():
            seen.add(event.seconds)
    assert len(tried(tmp_path / "run")) == 2
    assert tried(tmp_path / "run")[1]["problem"].startswith("stopped by signal 2")
    assert tunesmith.load(tmp_path / "run").gain.baselines


def test_a_signal_before_there_is_a_model_stops(toy_options, tmp_path):
    with pytest.raises(Stopped):
        list(prepared(toy_options, tmp_path / "run").run(lambda: 15))


def test_without_time_the_first_attempt_is_all(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run", budget="0.01s")
    list(job.run())
    assert [one["attempt"] for one in tried(tmp_path / "run")] == ["the top block"]
    assert job.bundle.gain.baselines


def test_a_later_attempt_that_fails_is_noted(toy_options, tmp_path, monkeypatch):
    from tunesmith.tasks.text_classification import TextClassification

    job = prepared(toy_options, tmp_path / "run")
    real = TextClassification.loss

    def loss(self, model, batch):
        broken = sum(one.requires_grad for one in model.parameters()) > 30  # full tuning only
        return real(self, model, batch) * (float("nan") if broken else 1.0)

    monkeypatch.setattr(TextClassification, "loss", loss)
    list(job.run())
    problems = [one["problem"] for one in tried(tmp_path / "run") if one["method"] == "full"]
    assert problems
    assert all("the loss is nan" in problem for problem in problems)
    assert job.bundle.plan.method == "top-layers"


@pytest.fixture
def sketching(monkeypatch):
    """Let the toy rows be many enough for a sketch."""
    monkeypatch.setattr(anytime, "_SKETCH_ROWS", {"train": 20, "valid": 6, "test": 8})
    monkeypatch.setattr(anytime, "_SKETCH_ROWS_A_LABEL", 1)
    monkeypatch.setattr(anytime, "_SKETCH_FROM", 1)


@pytest.mark.usefixtures("sketching")
def test_of_many_rows_a_sketch_is_learnt_first_and_what_learnt_from_all_takes_its_place(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run")
    whole = len(job.intake.splits.test)
    assert job.plan.data["test"] == whole > 8
    measured_on = [tunesmith.load(tmp_path / "run").gain.after.n for event in job.run() if event.kind == "note"]
    assert measured_on[:2] == [8, whole]
    attempts = tried(tmp_path / "run")
    assert [one["attempt"] for one in attempts][:2] == ["the top block, from 20 rows", "the top block"]
    assert attempts[0]["is_kept"]
    assert attempts[1]["is_kept"]  # whatever the sketch reached on six validation rows
    best = 0.0
    for one in attempts[1:]:
        assert one["is_kept"] == (one["valid_score"] > best) or one["valid_score"] == best
        best = max(best, one["valid_score"])


@pytest.mark.usefixtures("sketching")
def test_a_sketch_after_which_nothing_came_is_measured_on_all_test_rows(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run", budget="0.01s")
    whole = {part: job.plan.data[part] for part in ("valid", "test")}
    list(job.run())
    assert [one["attempt"] for one in tried(tmp_path / "run")] == ["the top block, from 20 rows"]
    bundle = tunesmith.load(tmp_path / "run")
    assert bundle.gain.after.n == whole["test"]
    assert bundle.plan.data["train"] == 20  # what it has learnt from
    assert {part: bundle.plan.data[part] for part in whole} == whole
    assert set(bundle.gain.baselines) == {"majority", "tfidf"}
    assert tunesmith.evaluate(tmp_path / "run", toy_options["test"]).scores.value == bundle.gain.after.value


@pytest.mark.usefixtures("sketching")
def test_where_time_does_not_do_for_all_rows_a_second_sketch_takes_as_many_as_it_does_for(
    toy_options, tmp_path, monkeypatch
):
    job = prepared(toy_options, tmp_path / "run")
    whole = len(job.intake.splits.train)
    share = 50 / whole
    monkeypatch.setattr(anytime, "_LEAST_EPOCHS", 1.0)
    monkeypatch.setattr(anytime.Anytime, "_share", lambda self, job: share)
    list(job.run())
    attempts = tried(tmp_path / "run")
    assert [one["attempt"] for one in attempts] == ["the top block, from 20 rows", "the top block, from 50 rows"]
    assert all(one["is_kept"] for one in attempts)
    bundle = tunesmith.load(tmp_path / "run")
    assert bundle.plan.data["train"] == 50
    assert bundle.gain.after.n == job.plan.data["test"]


@pytest.mark.usefixtures("sketching")
def test_a_sketch_that_was_measured_stays_when_the_next_attempt_is_stopped(toy_options, tmp_path):
    job = prepared(toy_options, tmp_path / "run")
    list(job.run(lambda: 2 if (tmp_path / "run" / MANIFEST).exists() else 0))
    assert tunesmith.load(tmp_path / "run").gain.after.n == job.plan.data["test"]


@pytest.mark.parametrize(
    ("words", "seconds"), [("60s", 60), ("90", 90), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400), ("2m5s", 125)]
)
def test_times_are_read(words, seconds):
    assert read_seconds(words, "budget") == seconds


@pytest.mark.parametrize("words", ["", "soon", "-5s", "0m", "5 parsecs", "1.2.3s"])
def test_what_is_no_time_is_refused(words):
    with pytest.raises(PlanProblem, match="budget is"):
        read_seconds(words, "budget")


def whole(folder, **files):
    def fill(temporary):
        for name, content in files.items():
            (temporary / name).write_text(content)

    write_folder(folder, fill)
    return folder


@pytest.mark.parametrize("cut_after", range(5))
def test_a_promotion_that_is_cut_off_is_completed(tmp_path, monkeypatch, cut_after):
    """Whatever was moved when it stopped: completing it gives the new folder, whole."""
    import os

    old = whole(tmp_path / "old", a="old", b="old")
    new = whole(tmp_path / "new", b="new", c="new")
    (old / "mine").write_text("of no manifest")
    moves, real = [], os.replace

    def replace(source, target):
        if len(moves) == cut_after:
            raise KeyboardInterrupt
        moves.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        if cut_after < 3:
            with pytest.raises(KeyboardInterrupt):
                promote(new, old)
            assert (old / NEXT).is_dir()
        else:
            promote(new, old)
    complete(old)
    assert find_damage(old) == []
    assert {path.name: path.read_text() for path in old.iterdir() if path.name != MANIFEST} == {
        "b": "new",
        "c": "new",
        "mine": "of no manifest",
    }
    complete(old)  # there is nothing left to do
    assert find_damage(old) == []

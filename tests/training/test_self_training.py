"""Self-training: it learns from rows without labels, keeps what is better, and comes back from any moment."""

from __future__ import annotations

import csv
import json

import pytest

import toy_world
import tunesmith
from tunesmith.bundle.atomic import MANIFEST, find_damage
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem, Stopped
from tunesmith.models.find import hash_file
from tunesmith.training.pseudo_account import DETAIL
from tunesmith.training.recipe import make_recipe
from tunesmith.training.self_training import ROUNDS, SelfTraining, prepare_self_training, resume_self_training
from tunesmith.training.train import ready, ready_again


@pytest.fixture(scope="module")
def options(toy_base, toy_data, tmp_path_factory):
    """Twelve labelled rows; sixty without labels, of which two stand among the test rows."""
    folder = tmp_path_factory.mktemp("few")
    few = toy_world.write_csv(folder / "few.csv", toy_world.rows(12, seed=1))
    test = toy_world.rows(90, seed=3, is_test=True)
    with (folder / "pool.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text",), *((text,) for text, _ in [*toy_world.rows(58, seed=41), *test[:2]])])
    return {
        "data": str(few),
        "valid": str(toy_data["valid"]),
        "test": str(toy_data["test"]),
        "model": str(toy_base),
        "epochs": 1,
        "batch_size": 4,
        "threads": 1,
        "unlabelled": str(folder / "pool.csv"),
        "pseudo_confidence": 0.34,
        "checkpoint_seconds": 0,
    }


def prepared(options, out, **changes) -> SelfTraining:
    return prepare_self_training(make_recipe({**options, "out": str(out), **changes}))


def texts_of(path) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def done(options, tmp_path_factory):
    """A finished run, and its events."""
    job = prepared(options, tmp_path_factory.mktemp("runs") / "done")
    return job, list(job.run())


def test_rows_are_added_by_label_and_the_report_says_what_they_brought(done):
    job, events = done
    bundle = job.bundle
    (told,) = bundle.gain.after.details[DETAIL]["rounds"]
    assert told["counts"]["in test"] == 2
    assert told["rows"] == sum(told["added"].values()) > 20
    assert set(told["added"]) == {"animal", "metal", "weather"}
    assert told["gate"]["threshold"] == 0.34
    assert told["is_kept"] is (bundle.plan.data["train"] > 12)
    assert told["is_kept"], "twelve rows and one epoch leave room: without more, this test shows nothing"
    assert bundle.plan.data["pseudo"] == {"rows": told["rows"], "threshold": 0.34, "weight": 0.5}
    assert bundle.plan.data["train"] == 12 + told["rows"]
    assert told["difference"]["value"] == pytest.approx(told["test_after"] - told["test_before"])
    assert told["test_after"] == bundle.gain.after.value
    notes = [event.text for event in events if event.kind == "note"]
    assert notes == bundle.gain.after.details[DETAIL]["said"]
    assert "2 with a text of the test rows" in notes[1]
    page = (bundle.path / "report.html").read_text(encoding="utf-8")
    assert "What unlabelled rows added" in page
    assert events[-1].kind == "end"


def test_no_row_of_valid_or_test_is_learnt(done, options):
    job, _ = done
    parts = json.loads((job.bundle.path / "splits.json").read_text(encoding="utf-8"))
    pool = texts_of(options["unlabelled"])
    added = {int(name.rpartition("-")[2]) for name in parts["train"] if name.startswith("pseudo-")}
    texts = {pool[row - 2] for row in added}
    held = {text for part in ("valid", "test") for text in texts_of(options[part])}
    assert texts
    assert not texts & held
    assert not [name for part in ("valid", "test") for name in parts[part] if name.startswith("pseudo-")]


def test_the_folder_is_a_whole_bundle(done, options):
    folder = done[0].bundle.path
    assert find_damage(folder) == []
    assert not (folder / ROUNDS).exists()
    assert done[0].bundle.plan.data["files"]["unlabelled"]["path"] == options["unlabelled"]


@pytest.mark.slow
def test_its_recipe_makes_it_again(done, tmp_path):
    job, folder = done[0], done[0].bundle.path
    again = tunesmith.train(folder / "recipe.yaml", out=str(tmp_path / "again"))
    assert hash_file(again.path / "model.safetensors") == hash_file(folder / "model.safetensors")
    assert again.id == job.bundle.id


@pytest.mark.parametrize(
    "moment",
    [
        "step 5",
        *(
            pytest.param(moment, marks=pytest.mark.slow)
            for moment in ("round 0: training", "step 2", "round 1: answering", "round 1: training")
        ),
    ],
)
def test_broken_off_anywhere_it_ends_with_the_same_weights(done, options, tmp_path, moment):
    job = prepared(options, tmp_path / "run")
    seen = 0
    for event in job.run():
        seen += event.kind == "step"
        if event.text.startswith(moment) or (event.kind == "step" and f"step {seen}" == moment):
            break
    else:
        pytest.fail("that moment never came")
    assert not (tmp_path / "run" / MANIFEST).exists()
    bundle = tunesmith.resume(tmp_path / "run")
    assert hash_file(bundle.path / "model.safetensors") == hash_file(done[0].bundle.path / "model.safetensors")
    assert find_damage(bundle.path) == []
    mine, theirs = (each.gain.after.details[DETAIL]["rounds"] for each in (bundle, done[0].bundle))
    assert mine == theirs
    with pytest.raises(BundleProblem, match="this run is finished"):
        ready_again(tmp_path / "run")


def test_a_signal_saves_and_says_so(options, tmp_path):
    job = prepared(options, tmp_path / "run")
    with pytest.raises(Stopped):
        for _ in job.run(lambda: 15):
            pass
    assert isinstance(ready_again(tmp_path / "run"), SelfTraining)


def test_a_file_that_has_changed_is_not_gone_on_with(options, tmp_path):
    pool = tmp_path / "pool.csv"
    pool.write_text("text\na1 a2\n", encoding="utf-8")
    job = prepared(options, tmp_path / "run", unlabelled=str(pool))
    next(iter(job.run()))
    pool.write_text("text\na1 a2\nm1 m2\n", encoding="utf-8")
    with pytest.raises(BundleProblem, match="since this run began these have changed: the data file"):
        resume_self_training(tmp_path / "run")


@pytest.mark.slow
def test_what_is_not_better_is_not_kept(options, tmp_path, monkeypatch):
    """Validation decides, also where the test rows would say otherwise."""
    reached = SelfTraining._reached
    monkeypatch.setattr(SelfTraining, "_reached", lambda self, bundle: (-reached(self, bundle)[0], 0.0))
    job = prepared(options, tmp_path / "run", pseudo_rounds=3)
    list(job.run())
    (told,) = job.bundle.gain.after.details[DETAIL]["rounds"]
    assert told["is_kept"] is False
    assert job.bundle.plan.data["train"] == 12
    assert "not kept" in job.account["said"][-1]


@pytest.mark.slow
def test_rounds_go_on_while_they_are_better_and_the_best_stays(options, tmp_path, monkeypatch):
    """Each round begins with the best so far; the second one adds as many rows as the first, and so is no better."""
    monkeypatch.setattr(SelfTraining, "_reached", lambda _, bundle: (bundle.plan.data["train"], 0.0))
    job = prepared(options, tmp_path / "run", pseudo_rounds=5, pseudo_confidence=0.0, pseudo_most=1)
    list(job.run())
    told = job.bundle.gain.after.details[DETAIL]["rounds"]
    assert [each["is_kept"] for each in told] == [True, False]
    assert told[1]["test_before"] == told[0]["test_after"] == job.bundle.gain.after.value
    assert job.bundle.plan.data["train"] == 12 + told[0]["rows"] == 12 + told[1]["rows"] == 24


def test_where_nothing_is_sure_the_first_run_stays(options, tmp_path):
    job = prepared(options, tmp_path / "run", pseudo_confidence=1.0)
    list(job.run())
    assert job.bundle.plan.data["train"] == 12
    (told,) = job.account["rounds"]
    assert (told["rows"], told["added"]) == (0, {})
    assert "58 not sure enough" in job.account["said"][1]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"budget": "5m"}, "a budget is for one run after the other"),
        ({"method": "meta"}, "method 'meta' deals its rows in its own way"),
        ({"method": "zero-shot"}, "method 'zero-shot' learns nothing"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, tmp_path, changes, what):
    with pytest.raises(PlanProblem, match=what):
        prepared(options, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there_is_told_before_anything_is_trained(options, tmp_path):
    with pytest.raises(DataProblem, match="does not exist"):
        prepared(options, tmp_path / "run", unlabelled=str(tmp_path / "no.csv"))


def test_a_task_without_labels_is_refused(options, tmp_path):
    path = tmp_path / "pairs.csv"
    rows = "".join(f"a{row % 9} the1,a{row % 7} the2,{row % 5}\n" for row in range(40))
    path.write_text("text_a,text_b,score\n" + rows, encoding="utf-8")
    with pytest.raises(PlanProblem, match="cannot learn from its own answers: answers of task text-similarity"):
        prepared({**options, "data": str(path)}, tmp_path / "run", valid="", test="", task="text-similarity")


def test_a_method_that_compares_rows_says_that_all_count_alike(options, tmp_path):
    job = prepared(options, tmp_path / "run", method="contrastive")
    assert any("pseudo_weight is left aside" in remark for remark in job.remarks)


def test_the_kind_of_a_run_is_told_from_its_recipe(options, tmp_path):
    assert isinstance(ready(make_recipe({**options, "out": str(tmp_path / "run")})), SelfTraining)
    plain = ready(make_recipe({**options, "unlabelled": "", "out": str(tmp_path / "run")}))
    assert not isinstance(plain, SelfTraining)

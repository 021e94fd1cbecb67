"""An update learns the new, keeps the old to the bit where it should, and goes on where it was broken off."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import toy_world
import tunesmith
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.erasing import delete_subject
from tunesmith.bundle.load import load
from tunesmith.bundle.registry import Registry
from tunesmith.cli import main
from tunesmith.data.feedback import open_store
from tunesmith.data.replay import FILE as KEPT
from tunesmith.data.replay import read_kept
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem, Stopped
from tunesmith.training.recipe import AUTO, make_recipe, read_recipe
from tunesmith.types import Feedback
from tunesmith.updating.matrix import read_lineage
from tunesmith.updating.options import STRATEGIES, UpdateOptions
from tunesmith.updating.prepare import prepare_update, resume_update
from tunesmith.updating.rows import old_rows, rows_of_feedback
from tunesmith.updating.update import known_keys

QUICK = {"threads": 1, "max_steps": 12, "eval_steps": 6}


def some_rows(count, *, seed, families, is_test=False):
    return [row for row in toy_world.rows(3 * count, seed=seed, is_test=is_test) if row[1] in families]


@pytest.fixture(scope="module")
def world(toy_base, tmp_path_factory):
    """A run that knows two families, and rows of the third."""
    folder = tmp_path_factory.mktemp("updates")
    known = ("animal", "metal")
    files = {
        "train": some_rows(40, seed=1, families=known),
        "valid": some_rows(15, seed=2, families=known),
        "test": some_rows(30, seed=3, families=known, is_test=True),
        "new": [*some_rows(40, seed=4, families=("weather",)), ("w1 to bob@example.org w2 w3", "weather")],
        "new-test": some_rows(20, seed=5, families=("weather",), is_test=True),
        "more": some_rows(30, seed=6, families=known),
    }
    paths = {name: str(toy_world.write_csv(folder / f"{name}.csv", rows)) for name, rows in files.items()}
    run = tunesmith.train(
        paths["train"],
        valid=paths["valid"],
        test=paths["test"],
        model=str(toy_base),
        epochs=4,
        batch_size=16,
        threads=1,
        out=str(folder / "runs" / "toy"),
    )
    return run, paths


def options(world, folder, strategy="auto", **changes):
    _, paths = world
    values = {"strategy": strategy, "data": paths["new"], "test": paths["new-test"], "recipe": QUICK, "replay_least": 0}
    return UpdateOptions(**{**values, "out": str(folder / "candidate"), **changes})


def finished(update):
    list(update.run())
    return update.bundle


@pytest.fixture(scope="module")
def grown(world, tmp_path_factory):
    """The run with the third family learnt, by what is usual where labels are new."""
    run, _ = world
    update = prepare_update(run.path, options(world, tmp_path_factory.mktemp("grown")))
    return update, finished(update)


def test_new_labels_come_last_and_old_rows_of_the_head_start_to_the_bit(world, tmp_path):
    run, _ = world
    update = prepare_update(run.path, options(world, tmp_path))
    assert update.plan.labels == ("animal", "metal", "weather")
    assert (update.note["strategy"], update.plan.parent) == ("distil", run.id)
    missing = 1 - update.note["replayed"] / run.plan.data["train"]
    assert update.plan.options["distil"] == pytest.approx(missing, abs=0.005)
    assert 0 < missing < 1
    old, head = load_file(run.path / "model.safetensors"), update.job.model.classifier
    assert torch.equal(head.weight[:2], old["classifier.weight"])
    assert torch.equal(head.bias[:2], old["classifier.bias"])
    usual = float(old["classifier.weight"].norm(dim=1).mean())
    assert float(head.weight[2].detach().norm()) == pytest.approx(usual, rel=1e-4)
    assert all(
        torch.equal(tensor, old[name])
        for name, tensor in update.job.model.state_dict().items()
        if not name.startswith("classifier")
    )


def test_where_every_old_row_is_replayed_the_parent_is_not_asked(world, tmp_path):
    run, _ = world
    update = prepare_update(run.path, options(world, tmp_path, replay_rows=1000))
    assert (update.note["strategy"], update.plan.options["distil"]) == ("replay", 0.0)
    asked = prepare_update(run.path, options(world, tmp_path / "asked", "distil", replay_rows=1000))
    assert (asked.note["strategy"], asked.plan.options["distil"]) == ("distil", 1.0)


def test_a_small_file_is_replayed_whole_and_weights_are_measured_once_at_the_end(world, tmp_path):
    run, _ = world
    recipe = {"threads": 1}
    update = prepare_update(run.path, options(world, tmp_path, recipe=recipe, replay_least=2000))
    assert update.note["replayed"] == run.plan.data["train"]
    assert update.plan.options["eval_steps"] == update.plan.steps
    few = prepare_update(run.path, options(world, tmp_path / "few", recipe=recipe, replay_rows=5))
    assert few.note["replayed"] < run.plan.data["train"] / 2


def test_the_new_is_learnt_and_the_old_is_kept(world, grown):
    update, bundle = grown
    lineage = read_lineage(bundle)
    assert lineage == update.lineage
    assert lineage.matrix[1][1] > 0.9
    assert lineage.matrix[1][0] > 0.9
    assert lineage.before[1] == 0.0, "the parent knew no such label"
    assert [step.strategy for step in lineage.steps] == ["first training", "distil"]
    assert lineage.steps[1].new_labels == ("weather",)
    assert bundle.predict("w1 w2 w3")[0].value == "weather"
    assert bundle.gain.before.value < bundle.gain.after.value


def test_report_and_card_tell_the_lineage(grown):
    _, bundle = grown
    page = (bundle.path / "report.html").read_text(encoding="utf-8")
    assert "What it learnt, and what it kept" in page
    assert "It updates another model (by distil, with " in (bundle.path / "README.md").read_text(encoding="utf-8")
    assert not (bundle.path / "rows").exists()


def test_the_bundle_keeps_masked_rows_of_every_part(world, grown):
    run, _ = world
    _, bundle = grown
    kept = read_kept(bundle.path / KEPT)
    text = (bundle.path / KEPT).read_text(encoding="utf-8")
    assert "bob@example.org" not in text
    assert {(row.part, row.step) for row in kept} == {(p, s) for p in ("train", "valid", "test") for s in (0, 1)}
    counts = {
        label: sum(row.cells["label"] == label and row.part == "train" for row in kept) for label in bundle.labels
    }
    assert counts == {"animal": 20, "metal": 20, "weather": 20}
    assert known_keys(run) < known_keys(bundle)


def test_a_second_update_starts_from_what_the_first_one_kept(world, grown, tmp_path):
    _, paths = world
    _, bundle = grown
    update = prepare_update(bundle.path, options(world, tmp_path, data=paths["more"], test=""))
    assert update.note["strategy"] == "replay"
    assert update.note["number"] == 2
    finished(update)
    assert [len(row) for row in update.lineage.matrix] == [1, 2, 3]
    assert update.lineage.steps[1].bundle == bundle.id


@pytest.mark.parametrize("strategy", ["naive", "ewc", "head", "adapter"])
def test_every_strategy_makes_a_run(strategy, world, tmp_path):
    run, _ = world
    update = prepare_update(run.path, options(world, tmp_path, strategy))
    bundle = finished(update)
    assert load(bundle.path).labels == ("animal", "metal", "weather")
    assert update.lineage.steps[-1].replayed == (40 if STRATEGIES[strategy].replays else 0)
    assert (bundle.path / "fisher.safetensors").is_file() == (strategy == "ewc")
    old, new = load_file(run.path / "model.safetensors"), load_file(bundle.path / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(old[name], new[name]) == (strategy == "head")


def test_what_an_update_decided_for_itself_is_not_handed_on(world, tmp_path):
    run, paths = world
    head = finished(prepare_update(run.path, options(world, tmp_path / "head", "head")))
    settings = {"data": paths["more"], "test": "", "recipe": {}}
    for strategy in ("replay", "retrain"):
        recipe = prepare_update(head.path, options(world, tmp_path / strategy, strategy, **settings)).job.recipe
        assert recipe.method == make_recipe(read_recipe(run.path / "recipe.yaml")).method != head.plan.method
        assert recipe.head_learning_rate_factor in {1.0, AUTO}  # its own labels were new then, and are not now
        assert (recipe.max_steps == AUTO) == (strategy == "retrain"), "a retrain has all the steps that it needs"


def test_a_retrain_takes_every_row_from_the_base_model(world, grown, tmp_path):
    run, _ = world
    _, bundle = grown
    changes = {"recipe": {**QUICK, "max_steps": 2}}
    update = prepare_update(bundle.path, options(world, tmp_path, "retrain", data=world[1]["more"], test="", **changes))
    assert update.job.recipe.model == run.plan.base
    kept = {row.id for row in read_kept(bundle.path / KEPT) if row.part != "train"}
    whole = [row for row in old_rows(run).rows if row.part == "train" and row.id not in kept]
    assert update.note["replayed"] > len(whole), "the rows of the update's own file are found again too"
    assert update.plan.labels == bundle.labels


@pytest.mark.slow
def test_a_stopped_update_goes_on_and_ends_with_the_same_weights(world, tmp_path):
    run, _ = world
    whole = finished(prepare_update(run.path, options(world, tmp_path / "a")))
    update = prepare_update(run.path, options(world, tmp_path / "b"))
    asked = iter([0] * 12)  # a few looks before the signal comes
    with pytest.raises(Stopped):
        list(update.run(lambda: next(asked, 15)))
    again = resume_update(tmp_path / "b" / "candidate")
    assert again.job.resumed_from is not None
    bundle = finished(again)
    assert (bundle.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert bundle.id == whole.id
    with pytest.raises(BundleProblem, match="there is no unfinished update here"):
        resume_update(bundle.path)


def feedback(number, text, *, corrected=None, answered="metal", is_correct=None, by="ann"):
    return Feedback(
        f"f{number}",
        f"p{number}",
        "toy",
        "b",
        {"text": text},
        answered,
        is_correct,
        corrected,
        "",
        by,
        "",
        float(number),
    )


def test_feedback_becomes_rows_and_what_is_left_out_is_said(world):
    run, _ = world
    said = [
        feedback(1, "a1 a2 a3", corrected="animal"),
        feedback(2, "m1 m2", is_correct=True),
        feedback(3, "t1", is_correct=False),
        feedback(4, "A1  a2 a3", corrected="metal"),
        feedback(5, "", corrected="metal"),
        *(feedback(number, f"t{number}", corrected="weather", by="mallory") for number in range(6, 12)),
    ]
    found = rows_of_feedback(run, said, step=3, per_person=4)
    assert [(row.cells["label"], row.feedback) for row in found.rows[:2]] == [("metal", "f4"), ("metal", "f2")]
    assert sum(row.by == "mallory" for row in found.rows) == 4
    assert found.superseded == ("f1",)
    assert set(found.remarks) == {
        "1 pieces of feedback were left out: no answer was given or confirmed",
        "1 pieces of feedback were left out: a later one is about the same input",
        "1 pieces of feedback were left out: the text (column 'text') is empty",
        "2 pieces of feedback were left out: 'mallory' gave more than 4",
    }


def test_what_was_measured_on_is_never_learnt_and_what_was_learnt_never_measured_on(world, tmp_path):
    run, _ = world
    old = {part: [row.cells for row in old_rows(run).rows if row.part == part] for part in ("train", "test")}
    turned = {"animal": "metal", "metal": "animal"}
    known = [(row["text"], turned[row["label"]]) for row in old["test"][:5]]  # corrections, too
    known += [(row["text"], row["label"]) for row in old["train"][:5]]
    path = toy_world.write_csv(tmp_path / "known.csv", [*known, *some_rows(20, seed=11, families=("metal",))])
    update = prepare_update(run.path, options(world, tmp_path, data=str(path), test=""))
    learnt = {record.fields["text"] for record in update.job.intake.splits.train}
    measured = {record.fields["text"] for record in update.job.intake.splits.test}
    assert {text for text, _ in known[:5]} <= measured - learnt
    assert {text for text, _ in known[5:]} <= learnt - measured
    assert any("10 new rows are about inputs that are known" in remark for remark in update.remarks)


def test_rows_of_a_test_file_that_the_parent_has_learnt_are_left_out(world, tmp_path):
    run, _ = world
    learnt = [(row.cells["text"], row.cells["label"]) for row in old_rows(run).part("train")[:3]]
    test = toy_world.write_csv(tmp_path / "test.csv", [*learnt, *some_rows(20, seed=12, families=("weather",))])
    update = prepare_update(run.path, options(world, tmp_path, test=str(test)))
    measured = {record.fields["text"] for record in update.job.intake.splits.test}
    assert not measured & {text for text, _ in learnt}
    assert any(remark.startswith("3 rows of") for remark in update.remarks)


def test_a_kept_row_and_a_files_row_are_the_same_though_one_is_masked(world, grown, tmp_path):
    _, bundle = grown
    rows = [("w1 to bob@example.org w2 w3", "animal"), *some_rows(20, seed=15, families=("metal",))]
    path = toy_world.write_csv(tmp_path / "again.csv", rows)
    update = prepare_update(bundle.path, options(world, tmp_path, data=str(path), test=""))
    said = [row.target for row in update.job.intake.splits.train if row.fields["text"].startswith("w1 to ")]
    assert said == ["animal"], "the kept one says weather"


def test_a_retrain_does_not_bring_a_corrected_answer_back(world, tmp_path):
    run, _ = world
    wrong = old_rows(run).part("train")[0].cells
    right = {"animal": "metal", "metal": "animal"}[wrong["label"]]
    rows = [(wrong["text"], right), *some_rows(20, seed=13, families=("metal",))]
    path = toy_world.write_csv(tmp_path / "corrected.csv", rows)
    one = finished(prepare_update(run.path, options(world, tmp_path, data=str(path), test="")))
    fresh = toy_world.write_csv(tmp_path / "fresh.csv", some_rows(20, seed=14, families=("animal",)))
    again = prepare_update(one.path, options(world, tmp_path / "again", "retrain", data=str(fresh), test=""))
    said = {row.target for row in again.job.intake.splits.train if row.fields["text"] == wrong["text"]}
    assert said == {right}


def test_what_cannot_be_updated_says_why(world, tmp_path):
    run, paths = world
    with pytest.raises(PlanProblem, match="no strategy 'repley'"):
        UpdateOptions(strategy="repley")
    with pytest.raises(DataProblem, match="there is nothing new to learn"):
        prepare_update(run.path, options(world, tmp_path, data="", test=""))
    few = toy_world.write_csv(tmp_path / "few.csv", some_rows(1, seed=9, families=("animal",)))
    with pytest.raises(DataProblem, match="new rows are too few to learn from some of them and to measure on others"):
        prepare_update(run.path, options(world, tmp_path, data=str(few), test=""))
    with pytest.raises(PlanProblem, match="the run folder is not empty"):
        prepare_update(run.path, options(world, tmp_path, out=str(run.path)))
    assert main(["update", str(run.path), "--resume", "x"]) == 2
    assert main(["update", str(tmp_path / "nothing"), "--data", paths["new"]]) == 2


def test_after_a_deletion_no_byte_of_a_persons_rows_is_left_beside_the_weights(world, tmp_path):
    run, _ = world
    said = [feedback(number, f"w{number} m{number} t{number} anns own", corrected="weather") for number in range(30)]
    url = f"sqlite:///{tmp_path / 'feedback.sqlite'}"
    with open_store(url) as store:
        for each in said:
            store.add(dataclasses.replace(each, model="toy", subject="ann"))
        asked = UpdateOptions(out=str(tmp_path / "candidate"), recipe=QUICK)
        bundle = finished(prepare_update(run.path, asked, feedback=said))
        store.mark_used(bundle.id, [each.id for each in said])
        told = [path for path in bundle.path.rglob("*") if path.is_file() and b"anns own" in path.read_bytes()]
        assert {path.name for path in told} >= {KEPT, "gain.json", "report.html"}, "else this proves nothing"
        gone, (erased,) = delete_subject(store, "ann", registry=Registry(tmp_path / "registry"))
    assert (gone.feedback, erased.run, erased.problem) == (30, bundle.path, "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"anns own" in path.read_bytes()]
    assert find_damage(bundle.path) == []
    assert load(bundle.path).predict(["a1 a2"])[0].value in bundle.labels


def test_an_update_whose_feedback_was_deleted_meanwhile_is_not_gone_on_with(world, tmp_path, capsys):
    run, _ = world
    place = tmp_path / "candidate"
    url = f"sqlite:///{tmp_path / 'feedback.sqlite'}"
    said = [feedback(number, f"w{number} w{number + 1}", corrected="weather") for number in range(9)]
    asked = UpdateOptions(out=str(place), recipe=QUICK)
    with open_store(url) as store:
        for each in said:
            store.add(dataclasses.replace(each, model="toy", subject="ann"))
        update = prepare_update(run.path, asked, feedback=said)
        with pytest.raises(Stopped):
            list(update.run(lambda: 15))
        store.delete_subject("ann")
    command = ["update", "--resume", str(place), "--store", url, "--registry", str(tmp_path / "registry"), "--no-gate"]
    assert main(command) == 2
    assert "were deleted" in capsys.readouterr().err
    assert not (place / "rows").exists()
    assert main([*command, "--compare", "naive"]) == 2
    assert "cannot be compared" in capsys.readouterr().err


KILLED = "import sys, tunesmith.cli; sys.exit(tunesmith.cli.main(sys.argv[1:]))"


@pytest.mark.slow
def test_a_killed_update_is_resumed_gated_and_promoted(world, tmp_path):
    run, paths = world
    folder = tmp_path / "candidate"
    registry = ["--registry", str(tmp_path / "registry")]
    sets = ["--set", "threads=1", "--set", "max_steps=40", "--set", "eval_steps=5"]
    command = [
        sys.executable,
        "-c",
        KILLED,
        "update",
        str(run.path),
        "--data",
        paths["new"],
        "--test",
        paths["new-test"],
    ]
    process = subprocess.Popen([*command, "--out", str(folder), *sets, *registry, "--quiet"])
    until = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("*/manifest.json")) and time.monotonic() < until:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert main(["update", "--resume", str(folder), *registry, "--promote", "--json"]) == 0
    assert main(["update", "--resume", str(folder), *registry, "--promote"]) == 0, "a finished one is judged again"
    lineage = json.loads((folder / "lineage.json").read_text(encoding="utf-8"))
    assert lineage["summary"]["forgetting"] <= 0.05

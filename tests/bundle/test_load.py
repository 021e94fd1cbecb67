"""A run folder is opened whole or not at all, and answers to the bit as the model that was trained."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import toy_world
from tunesmith.bundle.load import load
from tunesmith.errors import BundleProblem, ModelProblem
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
from tunesmith.types import Origin, Record

TEXTS = [text for text, _ in toy_world.rows(40, seed=8, is_test=True)] + ["", "never seen words", "a1 " * 60, "中文"]


@pytest.fixture
def copy(toy_run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run.path, tmp_path / "copy"))


def problem_of(folder: Path | str) -> BundleProblem:
    with pytest.raises(BundleProblem) as caught:
        load(folder)
    return caught.value


def test_a_loaded_run_answers_to_the_bit(toy_options, tmp_path):
    job = prepare(make_recipe({**toy_options, "epochs": 1, "out": str(tmp_path / "run")}))
    list(job.run())
    bundle = load(tmp_path / "run")
    records = [Record(str(row), {"text": text}, None, Origin("x", row)) for row, text in enumerate(TEXTS)]
    examples = job.intake.task.encode(
        records, job.tokenizer, labels=job.plan.labels, max_length=job.plan.options["max_length"]
    )
    kept = job.intake.task.answer(
        job.model,
        examples,
        tokenizer=job.tokenizer,
        labels=job.plan.labels,
        batch_tokens=job.plan.options["batch_tokens"],
    )
    assert np.array_equal(bundle.answer(records), kept)
    assert bundle.gain == job.bundle.gain
    assert bundle.plan == job.plan
    assert bundle.plan.id == bundle.id == job.plan.id
    assert bundle.labels == job.plan.labels
    assert bundle.name == "run"
    assert bundle.threshold is None
    assert all(prediction.value for prediction in bundle.predict(TEXTS))


def test_one_by_one_equals_batched(toy_run):
    together = toy_run.predict(TEXTS)
    for text, prediction in zip(TEXTS, together, strict=True):
        alone = toy_run.predict(text)[0]
        assert alone.value == prediction.value
        assert alone.alternatives == pytest.approx(prediction.alternatives, abs=1e-5)


def test_plain_transformers_gives_the_same_scores(toy_run):
    """Temperature and length limit are part of what plain Transformers loads."""
    assert toy_run.facts["temperature"] != 1.0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(toy_run.path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(toy_run.path)
    for text, prediction in zip(TEXTS, toy_run.predict(TEXTS), strict=True):
        with torch.no_grad():
            scores = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.softmax(1)[0].tolist()
        theirs = {model.config.id2label[index]: score for index, score in enumerate(scores)}
        assert theirs == pytest.approx(dict(prediction.alternatives), abs=1e-5)


def test_the_transformers_pipeline_gives_the_same_scores(toy_run):
    pipeline = transformers.pipeline("text-classification", model=str(toy_run.path), device="cpu", top_k=None)
    theirs = pipeline(TEXTS, truncation=True)
    for scores, prediction in zip(theirs, toy_run.predict(TEXTS), strict=True):
        assert scores[0]["label"] == next(iter(prediction.alternatives))
        found = {item["label"]: item["score"] for item in scores}
        assert found == pytest.approx(dict(prediction.alternatives), abs=1e-5)


def test_it_abstains_below_its_threshold(toy_run):
    assert 0 < toy_run.threshold < 1
    predictions = toy_run.predict(TEXTS)
    assert any(prediction.value is None for prediction in predictions)
    for prediction in predictions:
        best = next(iter(prediction.alternatives))
        assert prediction.value == (best if prediction.confidence >= toy_run.threshold else None)
        assert prediction.confidence == prediction.alternatives[best]
        assert prediction.bundle == toy_run.id
        assert prediction.seconds > 0
    assert len({prediction.id for prediction in predictions}) == len(TEXTS)


def test_a_threshold_of_one_abstains_and_none_never_does(toy_run):
    for threshold, expected in ((1.0, [None]), (None, ["animal"])):
        other = dataclasses.replace(toy_run, facts={**toy_run.facts, "threshold": threshold})
        assert [prediction.value for prediction in other.predict("a1 a2 a3 the1")] == expected


def test_predict_takes_text_and_nothing_else(toy_run):
    assert toy_run.predict([]) == []
    assert len(toy_run.predict("a1")) == 1
    with pytest.raises(TypeError, match="predict takes text, or a list of texts; this is int: 3"):
        toy_run.predict(["a1", 3])
    with pytest.raises(TypeError, match="this is NoneType: None"):
        toy_run.predict([None])


def test_predictions_stream(toy_run):
    """The first answers come before the last record is asked for."""
    asked = 0

    def endless():
        nonlocal asked
        while True:
            asked += 1
            yield Record(str(asked), {"text": "a1 a2"}, None, Origin("x", asked))

    stream = toy_run.predictions(endless())
    assert [next(stream).value for _ in range(3)]
    assert asked <= 512


def test_one_changed_byte_in_any_file_is_noticed(copy):
    listed = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {"model.safetensors", "config.json", "bundle.json", "plan.json", "gain.json", "tokenizer.json"} <= set(
        listed
    )
    assert not {"lock", "holder"} & set(listed)
    for name in listed:
        content = (copy / name).read_bytes()
        if not content:
            continue
        (copy / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert str(problem_of(copy)) == (
            f"BundleProblem: this run folder is damaged: {name} has changed\n"
            f"  where: {copy}\n"
            f"  do:    restore it from a copy, or train again: tunesmith train {copy / 'recipe.yaml'}"
        )
        (copy / name).write_bytes(content)
    load(copy)


def test_missing_cut_and_several_damaged_files_are_named(copy):
    (copy / "tokenizer.json").unlink()
    assert problem_of(copy).what == "this run folder is damaged: tokenizer.json is missing"
    for name in ("config.json", "gain.json", "plan.json"):
        (copy / name).write_bytes(b"")
    assert problem_of(copy).what == (
        "this run folder is damaged: config.json has changed; gain.json has changed; plan.json has changed and 1 more"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}'])
def test_a_manifest_that_cannot_be_read_is_damage(copy, content):
    (copy / "manifest.json").write_text(content, encoding="utf-8")
    assert problem_of(copy).what == "this run folder is damaged: manifest.json cannot be read"


def test_a_manifest_that_points_out_of_the_folder_is_damage(copy, tmp_path):
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../secret"] = {"sha256": "0", "bytes": 1}
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert problem_of(copy).what == "this run folder is damaged: ../secret points out of the folder"


def test_a_missing_folder_names_its_neighbours(toy_run, copy, tmp_path):
    assert str(problem_of(tmp_path / "cpy")) == (
        f"BundleProblem: there is no run folder '{tmp_path / 'cpy'}'; {tmp_path} has: copy\n"
        f"  where: {tmp_path / 'cpy'}\n"
        "  do:    give the folder that `tunesmith train` named in its last lines"
    )
    assert problem_of(tmp_path / "a" / "b").what == f"there is no run folder '{tmp_path / 'a' / 'b'}'"


def test_an_unfinished_run_says_how_to_go_on(copy):
    (copy / "manifest.json").unlink()
    assert str(problem_of(copy)) == (
        f"BundleProblem: this run is not finished\n  where: {copy}\n  do:    tunesmith train --resume {copy}"
    )


def test_a_folder_that_is_no_run_is_refused(tmp_path, toy_base):
    assert problem_of(tmp_path).what == "this folder is no run: it has no manifest.json"
    (tmp_path / "manifest.json").write_text('{"files": {}}', encoding="utf-8")
    assert problem_of(tmp_path).what == "this folder is no run: it has no bundle.json"


def change_facts(folder: Path, **changes) -> None:
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps({**facts, **changes}), encoding="utf-8")


def test_a_newer_format_is_refused(copy):
    change_facts(copy, format=2)
    with pytest.raises(BundleProblem) as caught:
        load(copy, verify=False)
    assert caught.value.what == "this run folder has format 2; this version of Tunesmith reads format 1"
    assert caught.value.do == "update Tunesmith: pip install --upgrade tunesmith"


def test_a_run_folder_that_would_run_code_is_refused_when_it_answers(copy):
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {}}), encoding="utf-8")
    bundle = load(copy, verify=False)
    with pytest.raises(ModelProblem, match="the model asks to run code of its own"):
        bundle.predict("a1")


def test_opening_a_run_builds_no_model(toy_run, monkeypatch):
    from tunesmith.models import build

    def refuse(*arguments, **named):
        raise AssertionError("built")

    monkeypatch.setattr(build, "build_model", refuse)
    bundle = load(toy_run.path)
    assert bundle.gain.after.n == 90
    with pytest.raises(AssertionError, match="built"):
        bundle.predict("a1")


def test_a_notebook_shows_the_gain(toy_run):
    assert "<table" in toy_run._repr_html_()


def test_a_bundle_never_names_code_to_import(toy_run, tmp_path, monkeypatch):
    """Who writes a folder writes its hashes too: a task that is no name of the catalogue is refused, not imported."""
    import json
    import shutil

    import tunesmith
    from tunesmith.bundle.atomic import write_manifest
    from tunesmith.errors import BundleProblem

    folder = tmp_path / "run"
    shutil.copytree(toy_run.path, folder)
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    (folder / "bundle.json").write_text(json.dumps({**facts, "task": "evil:TASK"}), encoding="utf-8")
    (tmp_path / "evil.py").write_text("raise SystemExit('code ran')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    write_manifest(folder)
    with pytest.raises(BundleProblem, match="is not one that Tunesmith ships"):
        tunesmith.load(folder).predict("the0 a1")
    from tunesmith.tasks.text_classification import TASK

    assert tunesmith.load(folder, task=TASK).predict("the0 a1")[0].value in facts["labels"]

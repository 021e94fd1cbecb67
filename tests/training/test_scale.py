"""Memory does not grow with the file; what a large file changes is said; what is on disk gives the same weights."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import toy_world
import tunesmith
from tunesmith import data, metrics
from tunesmith.bundle.report import gain_lines
from tunesmith.data.store import Chosen, Records
from tunesmith.errors import Stopped
from tunesmith.models.find import hash_file
from tunesmith.tasks import text_classification
from tunesmith.tasks.text_classification import tfidf, tfidf_features
from tunesmith.training import encoded, intake
from tunesmith.training.encoded import Encoded, Encoder
from tunesmith.training.intake import take_in
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import Recipe, make_recipe
from tunesmith.types import Origin, Record, Splits, to_json


@pytest.fixture
def on_disk(monkeypatch):
    """Take 20 rows for many."""
    monkeypatch.setattr("tunesmith.data.checks.Records", functools.partial(Records, 20))
    monkeypatch.setattr("tunesmith.training.prepare.Encoder", functools.partial(Encoder, most_in_memory=20))
    monkeypatch.setattr(encoded, "LEAST_KEPT", 1)


def test_rows_on_disk_are_checked_and_split_as_in_memory(toy_data, tmp_path, monkeypatch):
    rows = [*toy_world.rows(300, seed=4), *toy_world.rows(40, seed=4), ("", "metal"), ("a1 a2", "metql")]
    path = str(toy_world.write_csv(tmp_path / "rows.csv", rows))
    valid = str(toy_world.write_csv(tmp_path / "valid.csv", [*rows[:9], *toy_world.rows(45, seed=2)]))
    recipes = [Recipe(data=path, seed=1), Recipe(data=path, test=str(toy_data["test"]), valid=valid)]
    expected = [take_in(recipe) for recipe in recipes]
    monkeypatch.setattr("tunesmith.data.checks.Records", functools.partial(Records, 20))
    for recipe, wanted in zip(recipes, expected, strict=True):
        found = take_in(recipe)
        for part in ("train", "valid", "test"):
            assert list(getattr(found.splits, part)) == list(getattr(wanted.splits, part))
        assert isinstance(found.splits.train, Chosen)
        assert found.splits.fingerprint == wanted.splits.fingerprint
        assert (found.labels, found.rejected, found.inspection) == (wanted.labels, wanted.rejected, wanted.inspection)


def test_rows_on_disk_give_the_same_weights(toy_options, tmp_path, monkeypatch, request):
    options = {**toy_options, "epochs": 1, "threads": 1}
    plain = tunesmith.train(**options, out=str(tmp_path / "plain"))
    request.getfixturevalue("on_disk")
    prepared = prepare(make_recipe({**options, "out": str(tmp_path / "disk")}))
    assert isinstance(prepared.examples["train"], Encoded)
    for _ in prepared.run():
        pass
    assert hash_file(tmp_path / "disk" / "model.safetensors") == hash_file(plain.path / "model.safetensors")
    assert to_json(prepared.bundle.gain)["after"]["values"] == to_json(plain.gain)["after"]["values"]
    ids = [json.loads((tmp_path / name / "splits.json").read_text(encoding="utf-8")) for name in ("plain", "disk")]
    assert ids[0] == ids[1]
    assert list(ids[0]) == ["train", "valid", "test"]
    assert list(map(len, ids[0].values())) == [120, 45, 90]


def test_a_resumed_run_does_not_tokenise_again(toy_options, tmp_path, on_disk, monkeypatch):
    prepared = prepare(make_recipe({**toy_options, "epochs": 1, "threads": 1, "out": str(tmp_path / "run")}))
    asked = iter([0, 0, 0, 0, 15])
    with pytest.raises(Stopped):
        for _ in prepared.run(stop_signal=lambda: next(asked, 15)):
            pass
    assert len(list((tmp_path / "run" / "encoded").glob("*/manifest.json"))) == 1

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(Encoder, "_encoding", refuse)
    resumed = prepare_resume(tmp_path / "run")
    assert list(resumed.examples["train"]) == list(prepared.examples["train"])
    for _ in resumed.run():
        pass
    assert not (tmp_path / "run" / "encoded").exists(), "what only the unfinished run needed is gone"


def test_runs_share_encoded_rows_through_a_folder(toy_options, tmp_path, on_disk, monkeypatch):
    shared = tmp_path / "shared"
    first = prepare(make_recipe({**toy_options, "max_steps": 1, "out": str(tmp_path / "one")}), encoded=shared)
    assert not shared.exists(), "nothing is written before the run starts"
    for _ in first.run():
        pass
    assert not (tmp_path / "one" / "encoded").exists()
    monkeypatch.setattr(Encoder, "_encoding", lambda *_, **__: pytest.fail("tokenised again"))
    second = prepare(make_recipe({**toy_options, "learning_rate": 1e-3}), encoded=shared)
    assert list(second.examples["test"]) == list(first.examples["test"])


def test_max_steps_bounds_the_run(toy_options):
    plan = prepare(make_recipe({**toy_options, "max_steps": 3})).plan
    assert (plan.steps, plan.options["epochs"]) == (3, 3 / 8)
    plan = prepare(make_recipe({**toy_options, "max_steps": 1000})).plan
    assert (plan.steps, plan.options["epochs"]) == (48, 6.0)


def test_large_files_give_validation_and_test_no_more_than_tells(tmp_path, monkeypatch):
    path = str(toy_world.write_csv(tmp_path / "rows.csv", toy_world.rows(300, seed=4)))
    usual = take_in(Recipe(data=path))
    assert (len(usual.splits.valid), len(usual.splits.test)) == (30, 60)
    assert not any("override with --set" in sentence for sentence in usual.inferred)
    monkeypatch.setattr(intake, "USUAL_SHARES", {"valid": (0.1, 9), "test": (0.2, 12)})
    found = take_in(Recipe(data=path))
    assert (len(found.splits.train), len(found.splits.valid), len(found.splits.test)) == (279, 9, 12)
    assert found.inferred[-2:] == (
        "valid is 9 of 300 rows (override with --set valid_share=0.1)",
        "test is 12 of 300 rows (override with --set test_share=0.2)",
    )
    valid = str(toy_world.write_csv(tmp_path / "valid.csv", toy_world.rows(30, seed=5, is_test=True)))
    asked = take_in(Recipe(data=path, test_share=0.2, valid=valid))
    assert len(asked.splits.test) == 60
    assert not any("rows (override" in sentence for sentence in asked.inferred)


def test_baselines_of_many_rows_learn_from_a_sample_and_say_so(toy_options, tmp_path):
    run = tunesmith.train(**{**toy_options, "max_steps": 2, "baseline_rows": 40, "out": str(tmp_path / "run")})
    names = [line.name for line in gain_lines(run.gain)]
    assert names[:2] == ["Majority class (of 40 rows)", "TF-IDF + logistic regression (of 40 rows)"]
    assert "of 40 rows" in (run.path / "report.html").read_text(encoding="utf-8")
    assert run.plan.options["baseline_rows"] == 40


def many_texts(count: int, seed: int) -> tuple[Record, ...]:
    """Give texts of ten common words and one of four hundred that belong to the label alone."""
    generator = random.Random(seed)
    found = []
    for row in range(count):
        label = generator.randrange(4)
        words = [f"w{generator.randrange(2000)}" for _ in range(10)] + [f"own{label}x{generator.randrange(400)}"]
        found.append(Record(str(row), {"text": " ".join(words)}, f"label {label}", Origin("a", row)))
    return tuple(found)


@pytest.mark.slow
def test_the_naive_answer_really_learns_from_many_rows():
    """A gradient is a mean over rows: a fixed tolerance, met before the first step, left the answer at chance."""
    splits = Splits(many_texts(21_000, 0), (), many_texts(400, 1), "")
    labels = [f"label {label}" for label in range(4)]
    answers = tfidf(splits, labels, 0, lambda fields: fields["text"]).answers
    right = [labels[place] == record.target for place, record in zip(answers.argmax(1), splits.test, strict=True)]
    assert sum(right) / len(right) > 0.98


def test_rare_terms_of_many_rows_are_left_out_unless_all_are_rare(monkeypatch):
    monkeypatch.setattr(text_classification, "_MANY_ROWS", 2)
    records = [Record(str(row), {"text": f"seen u{row}"}, "a", Origin("a", row)) for row in range(3)]
    (features,) = tfidf_features(Splits(records, (), (), ""), lambda fields: fields["text"], parts=("train",))
    assert features.shape == (3, 1)
    records = [Record(str(row), {"text": f"v{row} u{row}"}, "a", Origin("a", row)) for row in range(3)]
    (features,) = tfidf_features(Splits(records, (), (), ""), lambda fields: fields["text"], parts=("train",))
    assert features.shape == (3, 9)


def test_the_bootstrap_draws_the_same_rows_however_many_it_holds(monkeypatch):
    expected = np.concatenate(list(metrics.resample_weights(97, seed=3)))
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 97 * 7)
    blocks = list(metrics.resample_weights(97, seed=3))
    assert len(blocks) == -(-metrics.RESAMPLES // 7)
    assert (np.concatenate(blocks) == expected).all()


def held_bytes(rows: int, folder) -> tuple[int, int]:
    """Give what checking and splitting holds at the end, and at most meanwhile."""
    words = ["the0", "a1", "m2", "w3", "the4", "a5"]
    path = folder / f"{rows}.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text,label\n")
        file.writelines(f"r{row},{' '.join(words)} {row} {'x' * 60},label {row % 3}\n" for row in range(rows))
    source = data.read(path)
    columns = data.find_columns(source, {"text": "text", "label": "label"}, {})
    tracemalloc.start()
    try:
        checked = data.check(source, columns)
        parts = data.split(checked.records, seed=0)
        del checked
        held, peak = tracemalloc.get_traced_memory()
        assert len(parts.splits.train) == round(0.7 * rows)
    finally:
        tracemalloc.stop()
    return held, peak


def test_a_row_costs_some_bytes_of_memory_however_long_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tunesmith.data.checks.Records", functools.partial(Records, 500))
    for name in ("tunesmith.data.store._BLOCK_BYTES", "tunesmith.data.textfile._CHUNK_BYTES"):
        monkeypatch.setattr(name, 10_000)  # buffers of a fixed size would hide what grows
    held_bytes(200, tmp_path)  # what is loaded once
    small, large = held_bytes(2000, tmp_path), held_bytes(8000, tmp_path)
    held, peak = ((after - before) / 6000 for before, after in zip(small, large, strict=True))
    assert held < 40, "bytes a row: where it stands in the file, and in which part"
    assert peak < 250, "bytes a row: keys, labels, ids and their order; the row itself takes some 800"


CHILD = """
import json, resource, sys
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe
job = prepare(make_recipe(json.loads(sys.argv[1])))
for _ in job.run():
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
def test_the_peak_of_a_whole_run_does_not_grow_with_the_file(toy_base, tmp_path):
    peaks = []
    for rows in (5_000, 100_000):
        path = toy_world.write_csv(tmp_path / f"{rows}.csv", toy_world.rows(rows, seed=4))
        options = {"data": str(path), "model": str(toy_base), "max_steps": 20, "threads": 1, "batch_size": 16}
        options |= {"valid_share": 500 / rows, "test_share": 1000 / rows, "baseline_rows": 2000}
        options |= {"out": str(tmp_path / f"run-{rows}")}
        done = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(options)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout.splitlines()[-1]))
    assert peaks[1] < 1.1 * peaks[0], f"MiB with 5,000 and with 100,000 rows: {peaks}"

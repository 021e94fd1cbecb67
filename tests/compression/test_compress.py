"""A compressed run is a run like any other, smaller and traceable; what loses too much is set aside."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import toy_world
import tunesmith
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.compare import compare
from tunesmith.bundle.evaluate import evaluate
from tunesmith.cli import main
from tunesmith.cli.compress_table import compression_lines
from tunesmith.cli.tables import render
from tunesmith.compression import compress as compressing
from tunesmith.compression import measured
from tunesmith.compression.compress import Compression, Wishes, compress, too_lossy
from tunesmith.compression.distil import spread_blocks
from tunesmith.compression.measured import Step
from tunesmith.compression.prune import shares_of
from tunesmith.errors import BundleProblem, PlanProblem, Stopped
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import quiet
from tunesmith.models.find import hash_file
from tunesmith.models.narrow import find_units
from tunesmith.types import Difference, Scores

QUICK = {"epochs": 1, "threads": 1}
TEXTS = [text for text, _ in toy_world.rows(12, seed=8, is_test=True)]


@pytest.fixture(scope="module", autouse=True)
def one_round():
    """Time everything once: how fast a toy is does not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "_ROUNDS", 1)
        patch.setattr(measured, "_ROWS_ALONE", 5)
        yield


@pytest.fixture(scope="module")
def parent(toy_run, tmp_path_factory) -> Path:
    """A copy of the toy run: the result lies beside it."""
    return Path(shutil.copytree(toy_run.path, tmp_path_factory.mktemp("compressed") / "toy"))


@pytest.fixture(scope="module")
def made(parent) -> Compression:
    return compress(parent, Wishes(distill="layers:1", prune=0.3, tolerance=60, threads=1, settings=QUICK))


@pytest.fixture(scope="module")
def bundle(made):
    return tunesmith.load(made.folder)


def problem_of(kind, call):
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def test_the_result_is_a_whole_run_that_answers(made, bundle, parent, toy_data):
    assert made.folder == parent.with_name("toy-compressed")
    assert made.is_kept
    assert find_damage(made.folder) == []
    assert bundle.name == "toy-compressed"
    assert len(bundle.predict(TEXTS)) == len(TEXTS)
    assert evaluate(bundle, toy_data["test"]).scores.value == pytest.approx(made.steps[-1].scores.value)
    found = compare([parent, made.folder], toy_data["test"])
    assert found.n == 90
    assert find_damage(parent) == []
    assert [path.name for path in parent.parent.iterdir() if path.name.startswith("tmp-")] == []


def test_its_model_is_smaller_and_loads_in_plain_transformers(made, bundle):
    with quiet():
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            made.folder, output_loading_info=True
        )
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (1, 48)
    assert model.bert.encoder.layer[0].intermediate.dense.weight.shape == (48, 64)
    inputs = bundle.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model.eval()(**inputs).logits.softmax(1)
    mine = [max(one.alternatives.values()) for one in bundle.predict(TEXTS)]
    assert np.allclose(mine, theirs.max(1).values.numpy(), atol=1e-5)


def test_every_step_is_measured(made):
    names = [step.name for step in made.steps]
    assert names == ["the run", "distilled (layers:1)", "pruned by 30%"]
    sizes = [step.parameters for step in made.steps]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] - sizes[2] == 80 * (2 * 64 + 1), "matrices have lost rows and columns"
    assert all(step.scores.n == 90 and step.milliseconds > 0 and step.rows_per_second > 0 for step in made.steps)
    assert [step.difference is None for step in made.steps] == [True, False, False]
    assert "'bert' has no entry for how wide a head is" in made.remarks[0]


def test_the_bundle_says_where_it_comes_from(made, bundle, parent, toy_run):
    content = json.loads((made.folder / "compression.json").read_text(encoding="utf-8"))
    assert bundle.plan.parent == content["parent"] == toy_run.id
    assert bundle.plan.base == "toy, 1 of 2 blocks, pruned to 48 of 128 feed-forward channels"
    assert content["command"] == (
        "tunesmith compress toy --distill layers:1 --prune 0.3 --tolerance 60 --threads 1 "
        "--set epochs=1 --set threads=1"
    )
    assert [step["name"] for step in content["steps"]] == [step.name for step in made.steps]
    assert content["steps"][-1]["milliseconds_p50"] == made.steps[-1].milliseconds
    report = (made.folder / "report.html").read_text(encoding="utf-8")
    assert "What compression cost and brought" in report
    assert "pruned by 30%" in report
    card = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "## How it was made smaller" in card
    assert str(parent.parent) not in card
    assert (
        (made.folder / "recipe.yaml").read_text(encoding="utf-8").startswith("# one step of: tunesmith compress toy ")
    )


def test_what_loses_too_much_is_set_aside_with_exit_code_2(parent, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()}
    monkeypatch.setattr(compressing, "distil", lambda shop, student: worse(shop, parent))
    command = ["compress", str(parent), "--distill", "layers:1", "--tolerance", "2.5", "--threads", "1"]
    out = parent.with_name("worse")
    assert main([*command, "--out", str(out), "--set", "threads=1"]) == 2
    said = capsys.readouterr()
    aside = parent.with_name("worse-set-aside")
    first, where, do = said.err.strip().splitlines()[-3:]
    assert first.startswith("PlanProblem: the compressed run loses ")
    assert first.endswith("points of accuracy on 90 rows, more than 2.5; it was set aside, and the run is as it was")
    assert where == f"  where: {aside}"
    assert "--tolerance " in do
    assert not out.exists()
    assert find_damage(aside) == []
    assert {path: path.read_bytes() for path in parent.rglob("*") if path.is_file()} == before
    assert main([*command, "--out", str(out), "--set", "threads=1"]) == 2, "the next one takes its place"


def worse(shop, parent):
    """Give the run with a head that takes each label for the next."""
    from safetensors.torch import load_file, save_file

    from tunesmith.compression.lineage import copy_run

    copy_run(shop.parent, shop.folder / "worse", shop.name)
    path = shop.folder / "worse" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.weight"] = weights["classifier.weight"].roll(1, 0).contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    manifest = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"][path.name] = {"sha256": hash_file(path), "bytes": path.stat().st_size}
    (path.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tunesmith.load(path.parent)


def test_nothing_is_left_of_what_was_stopped(parent, tmp_path):
    wishes = Wishes(distill="layers:1", settings=QUICK, out=str(tmp_path / "stopped"), threads=1)
    problem_of(Stopped, lambda: compress(parent, wishes, stop_signal=lambda: 15))
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_what_others_work_in_stays(tmp_path):
    left, used = tmp_path / "tmp-compress-4194399-dead", tmp_path / f"tmp-compress-{os.getpid()}-live"
    for folder in (left, used):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"1")
    with compressing._workspace(tmp_path / "out") as folder:
        assert folder.is_dir()
        assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == [used.name]


@pytest.mark.parametrize(
    ("options", "what", "where"),
    [
        ({}, "nothing was asked for", "command line"),
        ({"prune": 1.5}, "prune is 1.5", "prune"),
        ({"prune": 0.3, "rounds": 0}, "rounds is 0", "rounds"),
        ({"prune": 0.3, "tolerance": -1}, "tolerance is -1", "tolerance"),
        ({"quantize": "int4"}, "quantize is 'int4'", "quantize"),
        ({"export": "tensorrt"}, "no engine 'tensorrt'", "engine"),
        ({"export": "torch"}, "torch runs the model as it is", "export"),
        ({"distill": "layers:"}, "the student is 'layers:'", "distill"),
        ({"distill": "layers:2"}, "the student is to have 2 blocks, and the run has 2", "distill"),
        ({"distill": "no/such-model"}, "base model 'no/such-model' is no folder here", "model"),
        (
            {"export": "onnx", "unlabelled": "x.csv"},
            "unlabelled rows are learnt from, and nothing is to be trained",
            "unlabelled",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 15 else None,
)
def test_wishes_that_make_no_sense_are_refused_before_any_work(parent, tmp_path, options, what, where):
    found = problem_of(tunesmith.TunesmithError, lambda: compress(parent, Wishes(**options, out=str(tmp_path / "out"))))
    assert found.what.startswith(what)
    assert found.where == where
    assert found.do
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused(parent, made):
    found = problem_of(PlanProblem, lambda: compress(parent, Wishes(prune=0.3)))
    assert found.what == f"{made.folder} is there already"


def test_runs_that_a_smaller_model_cannot_stand_for_are_refused(toy_run, tmp_path):
    copy = Path(shutil.copytree(toy_run.path, tmp_path / "run"))
    plan = json.loads((copy / "plan.json").read_text(encoding="utf-8"))
    bundle = tunesmith.load(copy)
    asked = dataclasses.replace(bundle, plan=dataclasses.replace(bundle.plan, method="pet"))
    found = problem_of(PlanProblem, lambda: compressing.demand_compressible(asked, ""))
    assert found.what.startswith("method 'pet' asks its model in a way of its own")
    apart = dataclasses.replace(bundle, facts={**bundle.facts, "delta": {"merged": False}})
    found = problem_of(PlanProblem, lambda: compressing.demand_compressible(apart, ""))
    assert found.do == "train it again with --set merge=yes, and compress that"
    (copy / "plan.json").write_text(json.dumps({**plan, "task": "dialogue"}), encoding="utf-8")
    problem_of(BundleProblem, lambda: compress(copy, Wishes(prune=0.3)))


def test_more_than_can_leave_is_refused_and_told(toy_run):
    model = toy_run.model
    anatomy = find_anatomy(model)
    units = find_units(model, anatomy)
    # A block has 4 * 64 * 64 numbers in attention and 2 * 64 * 128 in its feed-forward part: half is channels.
    assert shares_of(model, anatomy, units, 0.3) == {"feed-forward": pytest.approx(0.6)}
    found = problem_of(PlanProblem, lambda: shares_of(model, anatomy, units, 0.6))
    assert found.what == "60% of the blocks' weights cannot leave: channels and heads that may go are 50% of them"
    assert found.do.startswith("prune 0.45 at most")


@pytest.mark.parametrize(("count", "wanted", "places"), [(6, 3, [0, 2, 5]), (12, 6, [0, 2, 4, 7, 9, 11]), (4, 1, [0])])
def test_blocks_are_spread_from_the_first_to_the_last(count, wanted, places):
    assert spread_blocks(count, wanted) == places


def shown(name, loss=0.0, difference=True):
    scores = Scores({"accuracy": 0.875}, {"accuracy": (0.851, 0.899)}, 1821, "accuracy")
    beside = Difference("accuracy", -0.104, (-0.152, -0.061), 1821) if difference else None
    return Step(name, scores, beside, loss, 1086.4, 1, 104.25, 12345.0)


def test_the_table_fits_80_columns():
    steps = (shown("the run", difference=False), shown("distilled (layers:3)"), shown("openvino int8", 1.3))
    made = Compression(Path("run"), Path("run-compressed"), False, "accuracy", 1.0, steps, ("heads stay",))
    lines = render(compression_lines(made), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:4]] == ["the", "distilled", "openvino"]
    assert "…" not in "".join(lines)
    assert too_lossy(made).do.endswith("--tolerance 1.3")


@pytest.mark.slow
def test_without_training_the_run_is_copied_under_an_id_of_its_own(parent, toy_run, tmp_path):
    out = tmp_path / "out"
    made = compress(parent, Wishes(export="onnx", out=str(out), threads=1))
    bundle = tunesmith.load(out)
    assert bundle.exported is not None
    assert bundle.id != toy_run.id == bundle.plan.parent
    assert bundle.name == "out"
    assert find_damage(out) == []
    assert [step.name for step in made.steps] == ["the run", "onnx"]
    assert made.steps[1].difference.value == 0
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (parent / "model.safetensors").read_bytes()
    assert not (parent / "exports").exists()


@pytest.mark.slow
def test_all_at_once_by_the_command_line(parent, tmp_path, capsys):
    more = [(text, "") for text, _ in toy_world.rows(60, seed=21)]
    extra = toy_world.write_csv(tmp_path / "more.csv", more, ("text", "note"))
    command = ["compress", str(parent), "--distill", "layers:1", "--prune", "0.2", "--rounds", "3"]
    command += ["--quantize", "int8", "--export", "openvino", "--tolerance", "10", "--unlabelled", str(extra)]
    command += ["--out", str(tmp_path / "small"), "--threads", "1", "--set", "threads=1", "--set", "epochs=3"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in document["steps"]] == [
        *("the run", "distilled (layers:1)", "pruned by 20%", "openvino int8")
    ]
    sizes = [step["file_mib"] for step in document["steps"]]
    assert sizes == sorted(sizes, reverse=True)
    bundle = tunesmith.load(tmp_path / "small")
    assert bundle.exported.words == "openvino int8"
    assert [one.value for one in bundle.predict(TEXTS)].count(None) < len(TEXTS)
    assert bundle.plan.options["unlabelled"]["rows"] == 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", ["multi-label-classification", "token-classification", "text-pair", "question-answering"]
)
def test_other_tasks_are_compressed_too(task, toy_base, tmp_path):
    from engines.exports import train_small

    run = train_small(tmp_path / "toy", task, toy_base, threads=1)
    settings = {"threads": 1, "max_steps": 4}
    made = compress(run.path, Wishes(distill="layers:1", prune=0.25, tolerance=100, settings=settings, threads=1))
    assert made.is_kept
    bundle = tunesmith.load(made.folder)
    assert len(bundle.gain.after.values) > 0
    assert bundle.plan.options.get("teacher", "") == ("" if task == "question-answering" else run.id)
    assert made.steps[-1].parameters < made.steps[0].parameters


@pytest.mark.slow
def test_a_model_that_writes_learns_from_the_teachers_words(tmp_path):
    from engines.exports import train_small

    base = toy_world.make_causal_base(tmp_path / "base", steps=30)
    run = train_small(tmp_path / "toy", "text-generation", base, threads=1, max_steps=10)
    settings = {"threads": 1, "max_steps": 4}
    made = compress(run.path, Wishes(distill="layers:1", prune=0.25, tolerance=100, settings=settings, threads=1))
    assert tunesmith.load(made.folder).plan.options["teacher"] == run.id
    assert made.steps[-1].parameters < made.steps[1].parameters < made.steps[0].parameters

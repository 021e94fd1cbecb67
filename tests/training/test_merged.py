"""A run merged from the adapters of several: what it holds, and that it is measured honestly."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers

import toy_world
import tunesmith
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem
from tunesmith.training.merged import merge_runs


def few(row: tuple[str, str], words: range) -> bool:
    """Whether a row's family words are among some of those that are labelled."""
    return all(int(word[1:]) in words for word in row[0].split() if not word.startswith("the"))


@pytest.fixture(scope="module")
def shops(toy_base, tmp_path_factory):
    """Two runs of one task on rows of their own: each has seen other words of the three families."""
    folder = tmp_path_factory.mktemp("shops")
    rows = toy_world.rows(2000, seed=5)
    found = []
    for name, words, seed in (("a", range(4), 0), ("b", range(4, 8), 1)):
        chosen = [row for row in rows if few(row, words)][:90]
        data = toy_world.write_csv(folder / f"{name}.csv", chosen)
        options = {"model": str(toy_base), "method": "lora", "lora_rank": 2 + 2 * seed, "epochs": 3, "batch_size": 16}
        found.append(tunesmith.train(data, **options, seed=seed, out=str(folder / name)).path)
    return found


@pytest.fixture(scope="module")
def made(shops, tmp_path_factory):
    return merge_runs(shops, (0.7, 0.3), out=str(tmp_path_factory.mktemp("made") / "both"))


def test_a_merged_run_is_a_run(made, shops):
    folder = made.bundle.path
    assert not find_damage(folder)
    again = tunesmith.load(folder)
    assert again.plan.steps == 0
    assert again.plan.parent == tunesmith.load(shops[0]).id
    assert again.plan.options["lora_rank"] == made.rank == 6
    assert again.gain.after.n == again.gain.baselines["majority"].n > 0
    assert again.gain.after.value > 0.8
    assert (folder / "report.html").is_file()
    first = (folder / "recipe.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# not trained, but made by: tunesmith adapters a b --merge 0.7,0.3 --how cat"
    assert not (folder / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks Transformers for a property by its old name
def test_its_weights_are_the_weighted_sum_and_plain_peft_opens_it(made, shops):
    def model_of(path):
        return transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()

    base = model_of(made.bundle.plan.base)
    both, *alone = [dict(model_of(path).bert.encoder.named_parameters()) for path in (made.bundle.path, *shops)]
    for name, weight in base.bert.encoder.named_parameters():
        expected = weight + sum(share * (one[name] - weight) for share, one in zip(made.weights, alone, strict=True))
        assert torch.allclose(both[name], expected, atol=1e-5)
    head = transformers.AutoModelForSequenceClassification.from_pretrained(made.bundle.plan.base, num_labels=3)
    adapted = peft.PeftModel.from_pretrained(head, made.bundle.path / "adapter").eval()
    batch = made.bundle.tokenizer(["a1 the3 a2", "m9 the1"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        assert torch.allclose(adapted(**batch).logits, made.bundle.model(**batch).logits, atol=1e-5)


def test_it_is_measured_beside_its_runs_on_the_rows_of_each(made, shops):
    assert list(made.comparisons) == ["a", "b"]
    for name, path in zip("ab", shops, strict=True):
        found, run = made.comparisons[name], tunesmith.load(path)
        assert list(found.scores) == ["a", "b", "both"]
        assert found.scores[name].value == pytest.approx(run.gain.after.value)
        assert found.n == len(part_rows(run, "test"))
        assert set(found.differences) == {"a - b", "a - both", "b - both"}
    kept = json.loads((made.bundle.path / "merged.json").read_text(encoding="utf-8"))
    assert [run["weight"] for run in kept["runs"]] == [0.7, 0.3]
    assert kept["measured"]["a"]["scores"]["both"][0] == made.comparisons["a"].scores["both"].value


@pytest.mark.slow
def test_rows_that_another_run_has_learnt_from_are_not_measured_on(shops, tmp_path):
    a = tunesmith.load(shops[0])
    options = {"model": a.plan.base, "method": "lora", "max_steps": 2, "seed": 7}
    other = tunesmith.train(a.plan.data["files"]["data"]["path"], **options, out=str(tmp_path / "c"))
    found = merge_runs([shops[0], other.path], (0.5, 0.5), out=str(tmp_path / "d"))
    learnt = {record.fields["text"] for part in ("train", "valid") for record in part_rows(other, part)}
    test = [record for record in part_rows(a, "test") if record.fields["text"] not in learnt]
    assert 0 < len(test) < len(part_rows(a, "test"))
    assert found.comparisons["a"].n == len(test) == found.bundle.gain.after.n
    count = len(part_rows(a, "test")) - len(test)
    assert f"{count} test rows of 'a' are left out: another run has learnt from them" in found.remarks


def test_rows_of_a_file_are_measured_on_where_one_is_given(shops, toy_data, tmp_path, capsys):
    command = ["adapters", *map(str, shops), "--merge", "1,1", "--how", "svd", "--data", str(toy_data["test"])]
    assert main([*command, "--out", str(tmp_path / "both"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rank"] == 4
    (comparison,) = found["comparisons"].values()
    assert comparison["n"] == 90
    assert list(comparison["scores"]) == ["a", "b", "both"]


def test_the_command_shows_gain_and_comparisons(shops, tmp_path, capsys):
    assert main(["adapters", *map(str, shops), "--merge", "0.5,0.5", "--out", str(tmp_path / "both")]) == 0
    words = capsys.readouterr().out
    for piece in ("Adapted model", "on the test rows of a", "on the test rows of b", "both", "(rank 6)"):
        assert piece in words


def test_what_does_not_go_together_is_refused(shops, toy_run, tmp_path):
    with pytest.raises(PlanProblem, match="1 weights for 2 runs"):
        merge_runs(shops, (1.0,))
    with pytest.raises(PlanProblem, match="one adapter alone is no sum"):
        merge_runs(shops[:1], (1.0,))
    with pytest.raises(PlanProblem, match="the same run is given twice"):
        merge_runs([shops[0], shops[0]], (1.0, 1.0))
    with pytest.raises(BundleProblem, match="'toy' was trained by method full and holds nothing apart"):
        merge_runs([shops[0], toy_run.path], (1.0, 1.0))


def test_runs_of_other_labels_are_refused(shops, monkeypatch):
    from tunesmith.training import merged

    load = merged.load

    def with_other_labels(path, **settings):
        bundle = load(path, **settings)
        facts = {**bundle.facts, "labels": ["x", "y", "z"]} if path == shops[1] else bundle.facts
        return dataclasses.replace(bundle, facts=facts)

    monkeypatch.setattr(merged, "load", with_other_labels)
    with pytest.raises(BundleProblem) as caught:
        merge_runs(shops, (0.5, 0.5))
    assert caught.value.what == "'b' is of other labels than 'a', or in another order"


@pytest.mark.slow
def test_a_first_run_whose_rows_are_gone_is_refused(shops, tmp_path):
    data = tmp_path / "gone.csv"
    shutil.copy(tunesmith.load(shops[0]).plan.data["files"]["data"]["path"], data)
    options = {"model": tunesmith.load(shops[0]).plan.base, "method": "lora", "max_steps": 1, "seed": 3}
    gone = tunesmith.train(data, **options, out=str(tmp_path / "gone")).path
    data.unlink()
    with pytest.raises(
        DataProblem, match="the rows of 'gone' are needed to calibrate and measure, and they cannot be read"
    ):
        merge_runs([gone, shops[1]], (0.5, 0.5), out=str(tmp_path / "never"))
    assert not (tmp_path / "never").exists()
    found = merge_runs([shops[0], gone], (0.5, 0.5), out=str(tmp_path / "other"))
    assert any("rows of 'gone' that are measured on cannot be told" in remark for remark in found.remarks)
    assert np.isfinite(found.bundle.gain.after.value)

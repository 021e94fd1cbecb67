"""Tests of `prepare`, `plan`, `job` and `keep`: whole runs, small."""

from __future__ import annotations

import csv
import json
import sys

import pytest
import transformers

import tunesmith
from pretraining.texts import english, stand_in_for_jieba
from tunesmith.bundle.atomic import find_damage
from tunesmith.errors import BundleProblem, DataProblem, MachineProblem, PlanProblem
from tunesmith.models.find import find_base, hash_file
from tunesmith.pretraining import OBJECTIVES
from tunesmith.pretraining.options import make_pretrain_recipe
from tunesmith.pretraining.plan import choose_max_length, choose_steps
from tunesmith.pretraining.prepare import prepare, prepare_resume


def finished(options, out):
    job = prepare(make_pretrain_recipe({**options, "out": str(out)}))
    return job, list(job.run())


@pytest.fixture(scope="module")
def masked(quick, tmp_path_factory):
    return finished(quick, tmp_path_factory.mktemp("masked") / "run")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_gives_a_folder_that_transformers_loads(objective, quick, masked, tmp_path):
    job, events = masked if objective == "mlm" else finished({**quick, "objective": objective}, tmp_path / "run")
    folder = job.folder
    assert not find_damage(folder)
    assert {"README.md", "plan.json", "log.jsonl", "recipe.yaml", "pretraining.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not (folder / "corpus").exists()
    assert not (folder / "checkpoints").exists()
    find_base(str(folder))
    names = {"mlm": "MaskedLM", "clm": "CausalLM", "seq2seq": "Seq2SeqLM"}
    model, report = getattr(transformers, f"AutoModelFor{names[objective]}").from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    evaluations = [event.values for event in events if event.kind == "evaluation"]
    assert len(evaluations) == 2
    wanted = {"loss", "perplexity", "tokens_per_second"} | ({"bits_per_character"} if objective == "clm" else set())
    assert all(wanted <= set(values) for values in evaluations)
    assert evaluations[-1]["tokens_per_second"] > 0
    notes = [event.text for event in events if event.kind == "note"]
    assert len(notes) == 2
    assert all(notes)
    if objective != "mlm":
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        assert generation["eos_token_id"] == tokenizer.eos_token_id
        assert generation["pad_token_id"] == tokenizer.pad_token_id


def test_the_kept_configuration_has_dropout_and_the_run_had_none(masked):
    job, _ = masked
    assert job.plan.options["dropout"] == 0.0
    config = json.loads((job.folder / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_dropout_prob"] == config["attention_probs_dropout_prob"] == 0.1


def test_the_result_stands_beside_naive_baselines(quick, tmp_path):
    job, _ = finished({**quick, "objective": "clm", "steps": 40, "eval_steps": 20}, tmp_path / "run")
    result = job.result
    assert set(result.baselines) == {"unigram", "bigram"}
    assert result.after["perplexity"] < result.baselines["unigram"]["perplexity"] < result.before["perplexity"]
    assert result.tokens == pytest.approx(40 * 8 * 32, rel=0.02)
    card = (job.folder / "README.md").read_text(encoding="utf-8")
    assert f"| the model after | {result.after['perplexity']:,.1f} |" in card
    assert "| pairs of tokens by frequency |" in card
    kept = json.loads((job.folder / "pretraining.json").read_text(encoding="utf-8"))
    assert kept["after"] == result.after


def test_the_same_seed_gives_the_same_weights_and_another_others(quick, masked, tmp_path):
    job, _ = masked
    again, _ = finished(quick, tmp_path / "again")
    other, _ = finished({**quick, "seed": 1}, tmp_path / "other")
    hashes = [hash_file(each.folder / "model.safetensors") for each in (job, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert job.plan.id == again.plan.id
    assert job.result.after == again.result.after


def test_train_takes_the_folder(masked, tmp_path):
    job, _ = masked
    path = tmp_path / "labelled.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, text.split()[0]) for text in english(120, seed=5))])
    run = tunesmith.train(str(path), model=str(job.folder), epochs=1, out=str(tmp_path / "run"))
    assert run.plan.options["max_length"] <= 32, "no position is read that was not trained"
    assert run.predict(["Anna sees the old bridge"])


def test_another_model_is_gone_on_with(masked, quick, tmp_path):
    job, _ = masked
    values = {name: quick[name] for name in ("corpus", "steps", "batch_size", "eval_steps", "threads")}
    on, _ = finished({**values, "model": str(job.folder), "learning_rate": 1e-3}, tmp_path / "run")
    assert on.result.before["perplexity"] == pytest.approx(job.result.after["perplexity"], rel=0.1)
    assert on.result.after["perplexity"] < on.result.before["perplexity"]
    assert on.plan.base_sha256 == find_base(str(job.folder)).sha256
    config = json.loads((on.folder / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_dropout_prob"] == 0.1
    assert on.plan.options["dropout"] is None, "the model's own"


def test_chinese_is_read_from_jsonl_by_characters(chinese_file, quick, tmp_path):
    values = {**quick, "corpus": [str(chinese_file)], "vocab_size": "auto"}
    job, _ = finished(values, tmp_path / "run")
    assert job.plan.options["tokenizer"] == "characters"
    assert job.tokenizer.tokenize("明月照") == ["明", "月", "照"]
    assert (
        any("text is column 'text'" in remark for remark in job.remarks) or job.plan.data["roles"]["corpus-1"] == "text"
    )


def test_chinese_words_are_masked_by_segmentation(chinese_file, quick, tmp_path, monkeypatch):
    def tokenize(text):
        yield from ((text[start : start + 2], start, start + 2) for start in range(0, len(text), 2))

    monkeypatch.setitem(sys.modules, "jieba", stand_in_for_jieba(tokenize))
    values = {**quick, "corpus": [str(chinese_file)], "vocab_size": "auto", "masking": "segmented", "steps": 2}
    job, _ = finished(values, tmp_path / "run")
    assert job.plan.options["masking"] == "segmented"
    assert job.result.steps == 2


def test_a_dry_run_leaves_nothing(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = prepare(make_pretrain_recipe(quick), is_trial=True)
    assert job.plan.steps == 8
    assert job.plan.expected_seconds > 0
    job.discard()
    assert not job.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_every_auto_is_decided_in_the_plan(quick, tmp_path):
    values = {"corpus": quick["corpus"], "size": "tiny", "out": str(tmp_path / "run")}
    job = prepare(make_pretrain_recipe(values))
    assert "auto" not in json.dumps(job.plan.options)
    assert json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))["steps"] == job.plan.steps


def test_counts_in_the_plan_add_up(masked):
    data = masked[0].plan.data
    assert data["documents"] == data["train_documents"] + data["valid_documents"]
    for part in ("train", "valid"):
        assert data[f"{part}_tokens"] == data[f"{part}_blocks"] * 30 + data[f"{part}_tail"]


def test_a_run_that_stopped_before_its_plan_goes_on_by_the_same_command(quick, tmp_path):
    recipe = make_pretrain_recipe({**quick, "out": str(tmp_path / "run")})
    prepare(recipe)
    (tmp_path / "run" / "plan.json").unlink()
    with pytest.raises(BundleProblem, match="it was stopped before its plan was made") as caught:
        prepare_resume(tmp_path / "run")
    assert caught.value.do == f"run the first command again with --out {tmp_path / 'run'}"
    assert prepare(recipe).folder == tmp_path / "run"


def test_a_folder_that_is_taken_is_refused(masked, quick):
    with pytest.raises(PlanProblem, match="the run folder is not empty"):
        prepare(make_pretrain_recipe({**quick, "out": str(masked[0].folder)}))
    with pytest.raises(BundleProblem, match="this run is finished"):
        prepare_resume(masked[0].folder)


def test_another_process_in_the_folder_is_refused(quick, tmp_path):
    from tunesmith.training.folder import locked

    job = prepare(make_pretrain_recipe({**quick, "out": str(tmp_path / "run")}))
    with locked(tmp_path / "run"), pytest.raises(MachineProblem, match="is training in this folder"):
        list(job.run())


def test_a_corpus_that_fills_no_block_is_refused(quick, tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("one two\nthree four\nfive six\n", encoding="utf-8")
    with pytest.raises(DataProblem) as caught:
        prepare(make_pretrain_recipe({**quick, "corpus": [str(path)], "out": str(tmp_path / "run")}))
    assert caught.value.what.startswith("the corpus is too small: its train part has")
    assert "--valid FILE" in caught.value.do


def test_budgets_become_steps():
    def steps(each, step_seconds, **budget):
        return choose_steps(make_pretrain_recipe(budget), each, step_seconds=step_seconds, step_tokens=4000)

    assert steps(100, 0.5, steps=7) == 7
    assert steps(100, 0.5, epochs=2.5) == 250
    assert steps(100, 0.5, seconds=60) == 120
    assert [steps(each, 0.5) for each in (10, 100, 5000)] == [400, 2000, 5000]


def test_blocks_are_shorter_where_the_corpus_is_small_and_never_longer_than_a_model_reads():
    recipe = make_pretrain_recipe({})
    assert [choose_max_length(recipe, tokens, None) for tokens in (100, 1500, 10**6)] == [32, 64, 128]
    assert choose_max_length(make_pretrain_recipe({"objective": "clm"}), 10**6, None) == 256
    assert choose_max_length(recipe, 10**6, 100) == 100
    with pytest.raises(PlanProblem, match="this model reads at most 100 tokens"):
        choose_max_length(make_pretrain_recipe({"max_length": 200}), 10**6, 100)

"""Contrastive tuning in the toy world: few labels are enough, plain Transformers agrees, and a stopped run goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import toy_world
import tunesmith
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.methods import contrastive
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.find import hash_file
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe

SHOTS = 4


@pytest.fixture(scope="module")
def few(toy_options, tmp_path_factory):
    """Recipe keys: four rows of each label to learn from."""
    folder = tmp_path_factory.mktemp("few")
    train = toy_world.write_csv(folder / "train.csv", toy_world.rows(3 * SHOTS, seed=1))
    keys = {name: toy_options[name] for name in ("valid", "test", "model")}
    return {**keys, "data": str(train), "method": "contrastive", "epochs": 8, "batch_size": 12}


def stop_at(job, last: int) -> None:
    """Run a job, and let it hear a signal after that step."""
    reached = {"step": 0}
    for event in job.run(lambda: 15 if reached["step"] >= last else 0):
        reached["step"] = event.step


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    return tunesmith.train(**few, out=str(tmp_path_factory.mktemp("runs") / "contrastive"))


def test_few_labels_are_enough(run):
    assert run.gain.after.value >= 0.95
    assert run.plan.options["pooling"] == "mean"


@pytest.mark.slow
def test_few_labels_are_not_enough_without_what_pretraining_knew(few, tmp_path):
    fresh = str(toy_world.make_base(tmp_path / "fresh", steps=0))
    assert tunesmith.train(**{**few, "model": fresh}, out=str(tmp_path / "run")).gain.after.value < 0.6


def test_plain_transformers_gives_the_same_scores(run):
    texts = [text for text, _ in toy_world.rows(30, seed=3, is_test=True)]
    pipeline = transformers.pipeline("text-classification", str(run.path), top_k=None)
    mine = run.predict(texts)
    for prediction, theirs in zip(mine, pipeline(texts), strict=True):
        assert {row["label"]: row["score"] for row in theirs} == pytest.approx(dict(prediction.alternatives), abs=1e-5)
    assert len({prediction.value for prediction in mine}) == 3
    assert transformers.AutoConfig.from_pretrained(run.path).num_hidden_layers == 3  # two, and the one that averages


def test_a_stopped_run_ends_with_the_same_bits(few, tmp_path):
    whole = prepare(make_recipe({**few, "out": str(tmp_path / "whole")}))
    list(whole.run())
    job = prepare(make_recipe({**few, "out": str(tmp_path / "stopped")}))
    with pytest.raises(Stopped):
        stop_at(job, 5)
    again = prepare_resume(tmp_path / "stopped")
    assert again.resumed_from.step == 5
    list(again.run())
    first, second = (hash_file(one.bundle.path / "model.safetensors") for one in (whole, again))
    assert first == second


@pytest.mark.slow
def test_what_is_learnt_does_not_depend_on_how_a_step_is_filled(few, tmp_path):
    """Rows of several fills are compared with each other: only rounding differs."""
    states = []
    for tokens in (10_000, 30):
        keys = {**few, "dropout": 0, "epochs": 2, "batch_tokens": tokens, "out": str(tmp_path / str(tokens))}
        job = prepare(make_recipe(keys))
        list(job.run())
        states.append({name: one for name, one in job.model.state_dict().items() if "encoder" in name})
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-4), name


@pytest.mark.parametrize(("layers", "free"), [(1, {"1"}), (0, {"0", "1", "embeddings"})])
def test_only_the_blocks_asked_for_learn(few, layers, free):
    job = prepare(make_recipe({**few, "contrast_layers": layers}))
    names = [name for name, one in job.model.bert.named_parameters() if one.requires_grad]
    found = {name.split(".")[2] if name.startswith("encoder") else name.split(".")[0] for name in names}
    assert found == free
    assert all(one.requires_grad for one in job.model.classifier.parameters())  # so that checkpoints keep it


@pytest.mark.slow
def test_first_token_pooling_adds_no_block(few, tmp_path):
    job = prepare(make_recipe({**few, "pooling": "first", "out": str(tmp_path / "run")}))
    assert job.model.config.num_hidden_layers == 2
    list(job.run())
    assert job.bundle.gain.after.value > 0.6


def test_the_head_is_fitted_to_the_body_as_it_is_when_it_is_judged(run, few):
    """The last layer of the run is the logistic regression of its own states, divided by its temperature."""
    job = prepare(make_recipe(few))
    model, tokenizer = run._engine
    states = contrastive.head_states(
        model, job.examples["train"], task=job.intake.task, tokenizer=tokenizer, batch_tokens=4096
    )
    targets = [example.target for example in job.examples["train"]]
    weight = model.classifier.weight.detach().numpy() * run.facts["temperature"]
    heads = [head.weight_LH for head in contrastive.fitted_heads(states, targets)]
    assert min(np.abs(weight - head).max() / np.abs(head).max() for head in heads) < 0.02


@pytest.mark.parametrize(
    ("keys", "what", "do"),
    [
        ({"pooling": "max"}, "pooling is 'max'", "use one of: auto, mean, first"),
        ({"contrast_layers": 9}, "contrast_layers is 9; this model has 2 blocks", "choose 1 to 2, or 0 for all"),
        ({"label_smoothing": 0.1}, "label_smoothing bends a cross-entropy", "leave label_smoothing out"),
        ({"averaging": "ema"}, "method 'contrastive' fits its head anew", "leave averaging out"),
    ],
)
def test_what_cannot_be_is_refused(few, keys, what, do):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe({**few, **keys}))
    assert what in caught.value.what
    assert do in caught.value.do


def test_other_tasks_and_decoders_are_declined_with_a_reason():
    config = transformers.GPT2Config(vocab_size=70, n_embd=16, n_layer=2, n_head=2, num_labels=3)
    decoder = find_anatomy(transformers.GPT2ForSequenceClassification(config))
    assert contrastive.why_not("text-classification", decoder) == (
        "it compares what an encoder makes of whole texts, and this base is a decoder"
    )
    assert "this task is token-classification" in contrastive.why_not("token-classification", decoder)


@pytest.mark.slow
def test_rows_that_were_held_back_are_learnt_from_in_the_end(few, tmp_path, monkeypatch):
    """Cut from the training file they end up in the head; as a file of their own they do not."""
    seen = []
    real = contrastive.fitted_heads

    def counting(states_NH, targets, **strengths):
        seen.append(len(targets))
        return real(states_NH, targets, **strengths)

    monkeypatch.setattr(contrastive, "fitted_heads", counting)
    for name, keys in (("cut", {**few, "valid": ""}), ("given", few)):
        seen.clear()
        job = prepare(make_recipe({**keys, "epochs": 2, "out": str(tmp_path / name)}))
        list(job.run())
        train, valid = len(job.examples["train"]), len(job.examples["valid"])
        both = train + valid if name == "cut" else train
        assert seen[0] == train
        assert seen[-1] == both
        assert valid > 0
        answers = job.intake.task.answer(
            job.model, job.examples["test"], tokenizer=job.tokenizer, labels=job.plan.labels, batch_tokens=4096
        )
        assert (answers.argmax(1) == [example.target for example in job.examples["test"]]).mean() > 0.9


def test_several_processes_are_refused(few, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanProblem, match="compares the rows of a step; of several processes each sees only a part"):
        prepare(make_recipe(few))

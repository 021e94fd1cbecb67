"""PET: it starts from what pretraining knew, finds words for codes, and its run is a masked language model."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from asked_toys import FAMILY_WORDS, answers_again, options, run

import toy_world
from toy_world import FAMILIES, WORDS
from tunesmith.errors import PlanProblem
from tunesmith.models.find import hash_file
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

ASKED = {"method": "pet", "template": "{text} {label}"}


def few_rows(folder, base, **more):
    """Eight rows of each label, whose names are codes."""
    codes = {family: str(place) for place, family in enumerate(FAMILIES)}
    given = options(folder, model=str(base), **more)
    for key, count, seed in (("data", 24, 1), ("valid", 24, 2), ("test", 60, 3)):
        rows = toy_world.rows(count, seed=seed, is_test=key == "test")
        text = "".join(json.dumps({"text": one, "label": codes[label]}) + "\n" for one, label in rows)
        path = folder / f"{key}.jsonl"
        path.write_text(text, encoding="utf-8")
        given[key] = str(path)
    return given


def test_with_eight_labels_of_each_it_beats_a_fresh_head_after_the_same_steps(toy_base, tmp_path):
    """Two small steps: a fresh head has learnt nothing by then, and the head of pretraining need not."""
    values = {}
    for method in ("full", "pet"):
        (tmp_path / method).mkdir()
        asked = ASKED if method == "pet" else {"method": "full"}
        job = run(few_rows(tmp_path / method, toy_base, epochs=1, learning_rate=1e-4, **asked))
        values[method] = job.bundle.gain.after.value
        if method == "pet":
            assert job.bundle.gain.before.value > 0.8, "before means the same cloze, untrained"
            words = job.plan.options["label_words"]
            for label, family in zip("012", FAMILIES, strict=True):
                assert set(words[label]) <= set(WORDS[family]), "found in the rows: the names are codes"
    assert values["pet"] > 0.9
    assert values["full"] < values["pet"] - 0.2


@pytest.mark.slow
def test_it_learns_names_that_pretraining_never_used(toy_base, tmp_path):
    job = run(options(tmp_path, model=str(toy_base), epochs=6, patience=10, method="pet", template="{text} {label}"))
    assert job.plan.options["label_words"] == {family: [family] for family in FAMILIES}
    assert job.bundle.gain.after.value > 0.95
    answers_again(job)
    model = transformers.AutoModelForMaskedLM.from_pretrained(job.bundle.path)
    assert model.config.architectures == ["BertForMaskedLM"]


@pytest.mark.slow
def test_without_pretraining_it_knows_nothing(tmp_path):
    base = toy_world.make_base(tmp_path / "base", steps=0)
    job = run(few_rows(tmp_path, base, epochs=3, label_words="search", **ASKED))
    assert job.bundle.gain.after.value < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-pair", "multi-label-classification"])
def test_other_tasks_learn_by_cloze(task, toy_base, tmp_path):
    if task == "text-pair":
        asked = {"template": "{text_a} {label} {text_b}", "label_words": "yes=the0,no=the1"}
    else:
        asked = {"template": "{text} {label}", "label_words": FAMILY_WORDS}
    job = run(options(tmp_path, task, model=str(toy_base), epochs=10, patience=10, **{**ASKED, **asked}))
    assert job.bundle.gain.after.value > (0.7 if task == "text-pair" else 0.9)
    answers_again(job)


@pytest.mark.slow
def test_same_seed_gives_same_bits_and_templates_are_averaged(toy_base, tmp_path):
    asked = {"method": "pet", "template": "{text} {label} || {label} {text}", "epochs": 1}
    given = options(tmp_path, model=str(toy_base), **asked)
    first, second = run(given), run({**given, "out": str(tmp_path / "again")})
    weights = [hash_file(job.bundle.path / "model.safetensors") for job in (first, second)]
    assert weights[0] == weights[1]
    assert len({len(example.asked) for example in first.examples["train"]}) == 1
    assert len(first.examples["train"][0].asked) == 2
    answers_again(first)


@pytest.mark.slow
@pytest.mark.parametrize(("tunes", "most"), [("bitfit", 0.2), ("top-layers", 0.6)])
def test_it_may_change_less_than_all(tunes, most, toy_base, tmp_path):
    given = {**ASKED, "pet_tunes": tunes, "top_layers": 1, "epochs": 1}
    job = run(options(tmp_path, model=str(toy_base), **given))
    assert 0 < job.bundle.gain.trainable_share < most
    answers_again(job)
    base = transformers.AutoModelForMaskedLM.from_pretrained(toy_base)
    embeddings = [model.get_input_embeddings().weight for model in (base, job.model)]
    assert torch.equal(*embeddings), "they are also the head's last matrix, and lie below all blocks"


def test_a_base_without_the_head_is_declined_with_what_to_take(tmp_path):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe(options(tmp_path, model="minilm", method="pet")))
    assert str(caught.value).split("\n")[0] == (
        "PlanProblem: method 'pet' cannot serve here: words are filled in by an encoder's masked-language-model head, "
        "which this base model has not; give a base model with one, e.g. bert-base-uncased, "
        "or one made by: tunesmith pretrain --objective mlm"
    )

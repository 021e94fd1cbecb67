"""Few-shot: examples like the text decide, they are kept with the bundle, and everything else is declined."""

from __future__ import annotations

import random

import pytest
import torch
import transformers
from asked_toys import answers_again, options, run

import toy_world
from toy_world import FAMILIES, FILLERS, WORDS
from tunesmith import load
from tunesmith.errors import PlanProblem
from tunesmith.tasks.shown_rows import read_rows
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

ASKED = {"method": "few-shot", "template": "{text} => {label}", "correct_prior": "no"}


@pytest.fixture(scope="module")
def copying_base(tmp_path_factory):
    """A small GPT-2 that repeats whatever label stood after the rows before: it can only learn from examples."""
    torch.manual_seed(0)
    generator = random.Random(0)
    tokenizer = toy_world.make_writing_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=48,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    words = [*FILLERS, *(word for family in FAMILIES for word in WORDS[family])]
    arrow = tokenizer.convert_tokens_to_ids("=>")
    for _ in range(70):
        lengths = [generator.randint(4, 14) for _ in range(3)]
        texts = []
        for _ in range(24):
            label = generator.choice(FAMILIES)
            texts.append(" ".join(f"{' '.join(generator.choices(words, k=n))} => {label}" for n in lengths))
        ids = tokenizer(texts, return_tensors="pt")["input_ids"][:, :47]
        ids = torch.cat([torch.full((len(ids), 1), tokenizer.eos_token_id), ids], 1)  # what a prompt starts with
        is_asked = ids[:, :-1] == arrow
        is_asked[:, : lengths[0] + 2] = False  # nobody can know the first label
        logits = model(input_ids=ids).logits[:, :-1][is_asked]
        torch.nn.functional.cross_entropy(logits, ids[:, 1:][is_asked]).backward()
        optimizer.step()
        optimizer.zero_grad()
    transformers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("copying") / "base"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def asked_run(copying_base, tmp_path_factory):
    """A run that is shown one row, the nearest by its words; the test rows share their words with training rows."""
    folder = tmp_path_factory.mktemp("few")
    given = options(folder, model=str(copying_base), shots=1, **ASKED)
    given["test"] = given["valid"]
    return run(given)


def test_the_most_similar_row_decides(asked_run):
    gain = asked_run.bundle.gain
    assert gain.after.value > 0.8
    assert gain.before.value < 0.55, "without examples the model knows nothing"
    assert gain.trainable_share == 0
    assert "the base model, of which nothing was trained," in gain.verdict.lower()


def test_the_rows_shown_are_part_of_the_bundle(asked_run):
    folder = asked_run.bundle.path
    kept = read_rows(folder / "shown_rows.jsonl")
    assert [(row.id, dict(row.fields), row.target) for row in kept] == [
        (row.id, dict(row.fields), row.target) for row in asked_run.intake.splits.train
    ]
    assert "shown_rows.jsonl" in (folder / "manifest.json").read_text(encoding="utf-8")
    assert "shown_rows.jsonl holds training rows, texts and labels" in (folder / "README.md").read_text("utf-8")
    assert load(folder).task.rows == kept
    answers_again(asked_run)


@pytest.mark.slow
def test_examples_by_the_models_own_states(copying_base, tmp_path):
    job = run(options(tmp_path, model=str(copying_base), shots=2, **{**ASKED, "examples_by": "states"}))
    assert job.plan.options["examples_by"] == "states"
    answers_again(job)


@pytest.mark.slow
def test_scores_can_be_corrected_by_a_text_without_content(copying_base, tmp_path):
    job = run(options(tmp_path, model=str(copying_base), shots=6, **{**ASKED, "correct_prior": "yes"}))
    answers_again(job)


def reason(tmp_path, **given):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe(options(tmp_path, **given)))
    return str(caught.value)


def test_a_base_that_does_not_write_is_declined(toy_base, tmp_path):
    told = reason(tmp_path, model=str(toy_base), method="few-shot")
    assert "examples are shown in the prompt of a causal model such as GPT-2, and this base model is none" in told


def test_several_labels_are_declined(copying_base, tmp_path):
    told = reason(tmp_path, task="multi-label-classification", model=str(copying_base), **ASKED)
    assert "an example in a prompt shows one label, and here a text may have several" in told


def test_one_template_writes_all_examples(copying_base, tmp_path):
    given = {**ASKED, "template": "{text} => {label} || {text} : {label}"}
    assert "the examples in a prompt are written by one template" in reason(tmp_path, model=str(copying_base), **given)


def test_unknown_ways_of_choosing_are_refused(copying_base, tmp_path):
    told = reason(tmp_path, model=str(copying_base), **{**ASKED, "examples_by": "luck"})
    assert told == (
        "PlanProblem: examples_by is 'luck'\n  where: examples_by\n  do:    use one of: tfidf, states, chance"
    )

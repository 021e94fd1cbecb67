"""Zero-shot: each way of asking knows what pretraining knew, and nothing without it."""

from __future__ import annotations

import json

import asked_toys
import pytest
import transformers
from asked_toys import FAMILY_WORDS, answers_again, options, run

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.models.find import hash_file
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

ASKED = {"method": "zero-shot", "template": "{text} {label}", "label_words": FAMILY_WORDS}


@pytest.fixture(scope="module")
def fresh_base(tmp_path_factory):
    return toy_world.make_base(tmp_path_factory.mktemp("fresh") / "base", steps=0)


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory):
    return toy_world.make_causal_base(tmp_path_factory.mktemp("causal") / "base", steps=60)


def test_a_cloze_knows_what_pretraining_knew(toy_base, fresh_base, tmp_path):
    job = run(options(tmp_path, model=str(toy_base), **ASKED))
    gain = job.bundle.gain
    assert job.plan.options["asked_by"] == "cloze"
    assert job.plan.steps == 0
    assert gain.after.value > 0.8
    assert gain.trainable_share == 0
    assert gain.verdict.startswith("The base model, of which nothing was trained, beats the majority class by")
    assert "nothing was trained" in (job.bundle.path / "report.html").read_text(encoding="utf-8")
    answers_again(job)
    (tmp_path / "other").mkdir()
    unknowing = run(options(tmp_path / "other", model=str(fresh_base), **ASKED))
    assert unknowing.bundle.gain.after.value < 0.55


@pytest.mark.slow
def test_likeness_knows_what_pretraining_knew(toy_base, tmp_path):
    given = {**ASKED, "template": "", "asked_by": "embedding"}
    job = run(options(tmp_path, model=str(toy_base), **given))
    assert job.bundle.gain.after.value > 0.8
    answers_again(job)


@pytest.mark.slow
def test_likelihood_knows_what_pretraining_knew(causal_base, tmp_path):
    job = run(options(tmp_path, model=str(causal_base), **ASKED))
    assert job.plan.options["asked_by"] == "likelihood"
    assert job.bundle.gain.after.value > 0.55
    answers_again(job)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-pair", "multi-label-classification"])
def test_other_tasks_are_asked_by_cloze(task, toy_base, tmp_path):
    template = "{text_a} {label} {text_b}" if task == "text-pair" else "{text} {label}"
    words = "yes=the0,no=the1" if task == "text-pair" else FAMILY_WORDS
    given = {"method": "zero-shot", "template": template, "label_words": words}
    job = run(options(tmp_path, task, model=str(toy_base), **given))
    answers_again(job)
    if task == "multi-label-classification":
        assert job.bundle.gain.after.values["micro_f1"] > 0.7
        assert job.bundle.gain.after.values["mean_average_precision"] > 0.95
        assert job.model.config.answer_offset != 0, "from which score on a text has a label is fitted"


@pytest.mark.slow
def test_pairs_are_asked_by_likeness_of_both_texts(toy_base, tmp_path):
    job = run(options(tmp_path, "text-pair", model=str(toy_base), method="zero-shot", asked_by="embedding"))
    assert job.plan.options["encoder"] == "bi"
    assert job.bundle.gain.after.value > 0.9
    answers_again(job)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "multi-label-classification"])
def test_a_base_that_knows_entailment_is_asked_by_it(task, tmp_path):
    judge = asked_toys.make_judge(tmp_path / "judge")
    job = run(options(tmp_path, task, model=str(judge), method="zero-shot"))
    assert job.plan.options["asked_by"] == "entailment"
    assert job.plan.options["template"] == "This text is about {label}."
    model = transformers.AutoModelForSequenceClassification.from_pretrained(job.bundle.path)
    assert model.config.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}, "the base's head stays"
    answers_again(job)


@pytest.mark.slow
def test_same_recipe_gives_same_bits(toy_base, tmp_path):
    given = options(tmp_path, model=str(toy_base), **ASKED)
    first, second = run(given), run({**given, "out": str(tmp_path / "again")})
    assert first.plan.id == second.plan.id
    files = [hash_file(job.bundle.path / "config.json") for job in (first, second)]
    assert files[0] == files[1]
    assert first.bundle.gain.after.values == second.bundle.gain.after.values


def test_the_plan_says_how_the_model_is_asked(toy_base, tmp_path, capsys):
    from tunesmith.cli import main

    given = options(tmp_path, model=str(toy_base), **ASKED)
    sets = [part for key, value in given.items() if key != "data" for part in ("--set", f"{key}={value}")]
    assert main(["train", given["data"], "--dry-run", *sets]) == 0
    told = capsys.readouterr().out
    assert "by cloze" in told
    assert "animal: a0|a1|a2|a3" in told
    assert "{text} {label}" in told
    assert "none: nothing is learnt" in told


def reason(tmp_path, **given):
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe(options(tmp_path, **given)))
    return str(caught.value)


def test_names_that_say_nothing_are_not_asked_for(toy_base, tmp_path):
    given = options(tmp_path, model=str(toy_base), method="zero-shot", template="{text} {label}")
    path = tmp_path / "codes.jsonl"
    rows = [{"text": f"a{row} the1 {row}", "label": str(row % 2)} for row in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {**{key: value for key, value in given.items() if key not in {"valid", "test"}}, "data": str(path)}
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe(given))
    assert str(caught.value) == (
        "PlanProblem: the label '0' says nothing of what it means\n  where: label_words\n"
        "  do:    say what each label means: --set label_words=label=word|word,label=word"
    )


def test_a_way_that_the_base_does_not_have_is_refused(toy_base, tmp_path):
    assert reason(tmp_path, model=str(toy_base), method="zero-shot", asked_by="likelihood") == (
        "PlanProblem: a base model of kind 'bert' cannot be asked by likelihood: "
        "it does not write from left to right\n  where: asked_by\n"
        "  do:    leave asked_by out, or give a base model that can (--model)"
    )


def test_rows_are_not_searched_for_words(toy_base, tmp_path):
    told = reason(tmp_path, model=str(toy_base), method="zero-shot", label_words="search")
    assert told.startswith("PlanProblem: words can be searched for only where rows may be learnt from\n")


def test_texts_encoded_apart_cannot_be_asked_about(toy_base, tmp_path):
    told = reason(tmp_path, task="text-pair", model=str(toy_base), method="zero-shot", encoder="bi")
    assert "texts that are encoded apart cannot be put into one question" in told


def test_a_head_that_was_drawn_is_not_asked(toy_base, tmp_path):
    transformers.utils.logging.disable_progress_bar()
    body = tmp_path / "body"
    transformers.AutoModel.from_pretrained(toy_base).save_pretrained(body)
    transformers.AutoTokenizer.from_pretrained(toy_base).save_pretrained(body)
    told = reason(tmp_path, model=str(body), asked_by="cloze", **ASKED)
    assert "this base model has no trained masked-language-model head (its files lack cls.predictions" in told
    assert "tunesmith pretrain --objective mlm" in told


def test_other_tasks_are_declined(toy_base):
    from tunesmith.methods import zero_shot
    from tunesmith.models.anatomy import find_anatomy
    from tunesmith.models.build import build_model

    anatomy = find_anatomy(build_model(toy_base, "AutoModelForTokenClassification"))
    assert zero_shot.why_not("token-classification", anatomy) == (
        "labels are asked for by their words, which suits text-classification, text-pair, "
        "multi-label-classification, and this task is token-classification"
    )

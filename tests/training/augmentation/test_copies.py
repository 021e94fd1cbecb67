"""Copies in a run: only learnt from, counted in the plan, the same when it is resumed."""

from __future__ import annotations

import json

import pytest
import torch

import toy_world
import tunesmith
from tunesmith.cli.tables import plan_lines, render
from tunesmith.data.augment.making import Made
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.tasks import find_task
from tunesmith.training.augmentation.kept import read_made, write_made
from tunesmith.training.job import Job
from tunesmith.training.memo import Memo
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe
from tunesmith.types import Augmentation, Inspection, Origin, Record, Span, from_json, to_json

ASKED = "delete:share=0.2,swap:copies=2"


def job_of(options, augment: str = ASKED, **more) -> Job:
    return prepare(make_recipe({**options, "threads": 1, "epochs": 1, "augment": augment, **more}))


@pytest.fixture(scope="module")
def job(toy_options) -> Job:
    return job_of(toy_options)


def test_copies_are_learnt_from_and_nothing_else(job, toy_options):
    plain = job_of(toy_options, "")
    splits = job.intake.splits
    assert splits == plain.intake.splits  # baselines, labels, what is written to splits.json: the user's own rows
    assert job.plan.data["fingerprint"] == plain.plan.data["fingerprint"]
    for part in ("valid", "test"):
        assert job.examples[part] == plain.examples[part]
        assert len(job.examples[part]) == len(getattr(splits, part))
    assert job.examples["train"][: len(splits.train)] == plain.examples["train"]
    added = job.examples["train"][len(splits.train) :]
    assert [example.record for example in added] == list(job.intake.made)
    own = {record.id for record in splits.train}
    assert {record.id.partition("~")[0] for record in job.intake.made} <= own
    read = {" ".join(record.fields["text"].split()) for part in (splits.valid, splits.test) for record in part}
    assert not read & {" ".join(record.fields["text"].split()) for record in job.intake.made}


def test_the_plan_counts_them(job, toy_options):
    found, account = job.plan.data["augmented"], job.intake.inspection.augmented
    assert found["rows"] == len(job.intake.made) == job.plan.data["examples"] - job.plan.data["train"]
    assert found["kinds"] == {each.kind: each.rows for each in account}
    assert all(each.rows > 50 for each in account)
    assert job.plan.options["augment"] == ASKED
    text = render(plan_lines(job.plan, job.intake.inspection, (), base="toy"))
    assert f"120 train and {found['rows']} copies, 45 valid, 90 test" in text
    said = "\n".join(job.remarks)
    assert f"augment delete: {account[0].rows} copies of training rows" in said
    assert f"'{account[0].samples[0][0]}' -> '{account[0].samples[0][1]}'"[:50] in said
    mixed = job_of(toy_options, "mixup")
    assert mixed.plan.data["augmented"]["rows"] == 0
    assert "120 train, 45 valid" in render(plan_lines(mixed.plan, mixed.intake.inspection, (), base="toy"))
    assert "augmented" not in job_of(toy_options, "").plan.data
    assert "augment" not in job_of(toy_options, "").plan.options


def test_the_same_recipe_gives_the_same_plan_and_another_seed_another(job, toy_options):
    again = job_of(toy_options)
    assert (again.plan.id, again.intake.made) == (job.plan.id, job.intake.made)
    assert job_of(toy_options, seed=1).plan.data["augmented"] != job.plan.data["augmented"]


def test_a_memo_makes_them_once(toy_options, monkeypatch):
    memo, calls = Memo(), []
    from tunesmith.training.augmentation import copies

    monkeypatch.setattr(copies, "make_rows", lambda *a, made=copies.make_rows, **k: calls.append(1) or made(*a, **k))
    recipe = make_recipe({**toy_options, "threads": 1, "epochs": 1, "augment": "delete"})
    first, second = prepare(recipe, memo=memo), prepare(recipe, memo=memo)
    assert len(calls) == 1
    assert first.plan.id == second.plan.id


def test_an_account_survives_json(job):
    found = from_json(Inspection, json.loads(json.dumps(to_json(job.intake.inspection))))
    assert found.augmented == job.intake.inspection.augmented


def learn(job: Job, **more) -> dict[str, torch.Tensor]:
    for _ in job.learn(**more):
        pass
    return job.model.state_dict()


def test_a_resumed_run_ends_with_the_same_bits(toy_options, tmp_path):
    table = tmp_path / "words.csv"
    table.write_text("word,synonym\nthe1,the2|the3\nthe4,the5\n", encoding="utf-8")
    settings = {"augment": f"synonyms:table={table},delete,mixup", "checkpoint_seconds": 0, "eval_steps": 4}
    whole = job_of(toy_options, **settings, out=str(tmp_path / "whole"))
    ended = learn(whole)
    steps = iter(range(100))
    with pytest.raises(Stopped):
        learn(job_of(toy_options, **settings, out=str(tmp_path / "broken")), stop_signal=lambda: next(steps) > 6)
    assert (tmp_path / "broken" / "augmented.jsonl").is_file()
    table.unlink()  # the copies are kept; nothing of what they were made with is needed again
    resumed = prepare_resume(tmp_path / "broken")
    assert resumed.intake.made == whole.intake.made
    assert resumed.plan.id == whole.plan.id
    again = learn(resumed)
    assert resumed.resumed_from is not None
    assert 0 < resumed.resumed_from.step < whole.plan.steps
    assert all(torch.equal(again[name], ended[name]) for name in ended)


def test_the_recipe_of_a_run_names_its_files_from_anywhere(toy_options, tmp_path, monkeypatch):
    (tmp_path / "words.csv").write_text("word,synonym\nthe1,the2\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    job = job_of(toy_options, "synonyms:table=words.csv")
    assert f"augment: synonyms:table={tmp_path / 'words.csv'}" in job.recipe_text
    assert job.plan.options["augment"] == "synonyms:table=words.csv"  # moved folders leave the plan as it is


def test_rows_that_were_kept_come_back_as_they_were(tmp_path):
    fields = {"text": "Ann went", "places": ((0, 3), (4, 8))}
    own = Record("7~x", fields, (Span(0, 3, "person"),), Origin("f.csv", 7))
    other = Record("7~x~swap1", {**fields, "text": "Ann goes"}, own.target, own.origin)
    pair = Record("8", {"text": "a b", "head": Span(0, 1, "x"), "tail": Span(2, 3)}, "r", Origin("f.csv", 8))
    label = Record("8~delete1", {"text": "a", "head": Span(0, 1, "x"), "tail": Span(0, 1)}, "r", pair.origin)
    made = Made((other, label), (Augmentation("swap", {"share": 0.1}, 2, {"why": 1}, (("a", "b"),)),))
    path = tmp_path / "kept.jsonl"
    write_made(path, made, [own, pair])
    assert read_made(path, [own, pair]) == made
    assert read_made(path, [own]) is None  # of other rows
    path.write_bytes(path.read_bytes()[:-20])
    assert read_made(path, [own, pair]) is None  # cut short
    assert read_made(tmp_path / "none", [own]) is None


WRITES = ("question-answering", "translation", "summarisation", "text-generation", "dialogue", "multiple-choice")


@pytest.mark.parametrize("name", WRITES)
def test_tasks_whose_answers_hang_on_words_say_that_they_cannot(name):
    from tunesmith.training.augmentation.copies import _demand_fields

    with pytest.raises(PlanProblem) as caught:
        _demand_fields(find_task(name), ())
    assert str(caught.value) == (
        f"PlanProblem: task {name} cannot learn from copies with other words: its answers stand in its texts, are "
        "themselves texts, or hang on single words\n  where: augment\n  do:    leave augment out"
    )


@pytest.mark.parametrize("name", ["token-classification", "relation-extraction"])
def test_entities_cannot_be_translated(toy_options, tmp_path, name):
    from tunesmith.data.augment.entries import read_entries
    from tunesmith.training.augmentation.copies import _demand_fields

    assert _demand_fields(find_task(name), read_entries("delete,swap,synonyms")) == ("text",)
    with pytest.raises(PlanProblem, match="nobody knows where in them the entities stand"):
        _demand_fields(find_task(name), read_entries("back_translate:there=a:back=b"))


@pytest.mark.parametrize("method", ["contrastive", "lora", "pet"])
def test_methods_of_every_kind_learn_from_copies(toy_options, method):
    job = job_of(toy_options, "delete:rows=0.5", method=method)
    assert len(job.examples["train"]) == 120 + len(job.intake.made)
    assert len(job.intake.made) > 40


@pytest.mark.parametrize("method", ["zero-shot", "few-shot", "meta"])
def test_methods_that_learn_nothing_from_copies_decline(toy_options, method):
    with pytest.raises(PlanProblem) as caught:
        job_of(toy_options, "delete", method=method)
    assert caught.value.where == "augment"
    assert f"method '{method}'" in caught.value.what


def test_entities_of_copies_are_learnt_with_their_places(toy_base, tmp_path):
    rows = [
        {"text": f"the1 {word} the2 the3 the4", "entities": [{"start": 5, "end": 5 + len(word), "label": "animal"}]}
        for word in toy_world.WORDS["animal"]
    ] * 3
    rows = [{**row, "text": row["text"] + f" the{place % 12}"} for place, row in enumerate(rows)]
    path = tmp_path / "ner.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = job_of({"data": str(path), "model": str(toy_base)}, "delete:copies=2,swap")
    assert job.plan.task == "token-classification"
    assert len(job.intake.made) > 50
    starts = set()
    for record in job.intake.made:
        (span,) = record.target
        assert record.fields["text"][span.start : span.end] in toy_world.WORDS["animal"]
        starts.add(span.start)
    assert len(starts) > 1  # some moved


@pytest.mark.slow
def test_a_whole_run_learns_and_keeps_no_copies(toy_options, tmp_path):
    folder, more = tmp_path / "run", {"epochs": 3, "threads": 1, "augment": "delete,swap,mixup"}
    run = tunesmith.train(**{**toy_options, **more}, out=str(folder))
    assert run.gain.after.value > 0.8
    assert run.plan.data["augmented"]["rows"] > 200
    assert not (folder / "augmented.jsonl").exists()  # the users' texts go with the unfinished run
    kept = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    assert [len(part) for part in kept.values()] == [120, 45, 90]
    assert not any("~" in one for part in kept.values() for one in part)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Copies of training rows" in page
    assert "it quotes rows of the data" in page

"""Runs that answer together: opened like a run, measured on rows that none has learnt from, and refused where unfit."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import toy_world
import tunesmith
from noisy_members import noisy_copies
from tunesmith import metrics
from tunesmith.bundle.compare import compare
from tunesmith.bundle.ensemble import Wishes, demand_same_tokens, make_ensemble, partly_known
from tunesmith.bundle.evaluate import evaluate
from tunesmith.bundle.export import export
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import load
from tunesmith.bundle.members import Ensemble, content_of
from tunesmith.bundle.shared_rows import shared_rows
from tunesmith.bundle.suggest import suggest
from tunesmith.bundle.token_mean import TokenMean
from tunesmith.bundle.voting import Vote, equal_vote
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem
from tunesmith.types import Origin, Record

QUICK = {"epochs": 1, "batch_size": 32, "threads": 1}


@pytest.fixture(scope="module")
def runs(toy_run, tmp_path_factory):
    """Three members of the same rows, each with mistakes of its own."""
    return noisy_copies(toy_run.path, tmp_path_factory.mktemp("members"), 3)


@pytest.fixture(scope="module")
def soft(runs, tmp_path_factory):
    return make_ensemble(runs, Wishes(out=str(tmp_path_factory.mktemp("soft") / "together")))


def copied(runs, folder):
    """Give copies of run folders that a test may change."""
    return [shutil.copytree(run, folder / run.name) for run in runs]


def test_a_soft_vote_is_the_calibrated_mean_of_its_members(soft, runs):
    texts = ["a1 a2 the3 a9", "m1 w2 the0", "the1 the2"]
    chances = np.mean([[list(_row(load(run), text)) for text in texts] for run in runs], axis=0)
    temperature = soft.bundle.ensemble.vote.temperature
    wanted = chances ** (1 / temperature)
    wanted /= wanted.sum(1, keepdims=True)
    found = [list(_row(soft.bundle, text)) for text in texts]
    assert np.allclose(found, wanted, atol=1e-5)


def _row(bundle, text):
    alternatives = bundle.predict(text)[0].alternatives
    return (alternatives[label] for label in bundle.labels)


def test_it_is_measured_on_the_shared_test_rows_against_every_member(soft, runs, toy_data):
    rows = part_rows(load(runs[0]), "test")
    assert [record.id for record in soft.rows.test] == [record.id for record in rows]
    assert soft.after.n == len(rows) == soft.differences["member-0"].n
    assert set(soft.scores) == {"member-0", "member-1", "member-2"}
    for name, run in zip(soft.scores, runs, strict=True):
        assert soft.scores[name].value == load(run).score(rows).value, "the members' own scores, on the same rows"
        assert soft.differences[name].value == pytest.approx(soft.after.value - soft.scores[name].value)
    assert soft.best == max(soft.scores, key=lambda name: soft.scores[name].value)
    assert soft.best in soft.bundle.gain.verdict
    assert evaluate(soft.bundle, toy_data["test"]).scores.value == soft.after.value


def test_the_folder_opens_like_a_run(soft, runs, toy_data):
    bundle = load(soft.bundle.path)
    assert bundle.id == soft.bundle.id
    assert bundle.labels == load(runs[0]).labels
    assert bundle.predict(["a1 a2 a3"])
    assert not list(bundle.path.glob("*.safetensors"))
    assert evaluate(bundle.path, toy_data["test"]).scores.value == soft.after.value
    found = compare([bundle.path, runs[0]], toy_data["test"])
    assert found.differences["together - member-0"].value == soft.differences["member-0"].value
    assert [record.id for record in part_rows(bundle, "test")] == [record.id for record in soft.rows.test]
    assert "Ensemble of 3 (soft)" in (bundle.path / "report.html").read_text(encoding="utf-8")
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert "3 models that answer together" in card
    assert str(runs[0].parent) not in card, "a card is made to be shown: no path is in it"


def test_one_by_one_is_as_in_a_batch(soft):
    texts = [text for text, _ in toy_world.rows(12, seed=5)]
    together = [answer.confidence for answer in soft.bundle.predict(texts)]
    apart = [soft.bundle.predict(text)[0].confidence for text in texts]
    assert np.allclose(together, apart, atol=1e-5)


def test_a_stacked_vote_is_fitted_on_the_shared_validation_rows(runs, tmp_path):
    made = make_ensemble(runs, Wishes(by="stacked", out=str(tmp_path / "stacked")))
    vote = load(made.bundle.path).ensemble.vote
    assert vote.by == "stacked"
    assert len(vote.weights) == len(vote.offsets) == 3
    assert "log loss on 45 validation rows: stacked (cross-validated)" in made.remarks[0]
    choices, right = made.bundle.ensemble.choices(made.rows.valid), made.bundle.ensemble.right(made.rows.valid)
    assert metrics.softmax(vote.mix(choices)).shape == (45, 3)
    assert len(right) == 45


def test_weights_may_follow_the_validation_rows(runs, tmp_path):
    made = make_ensemble(runs, Wishes(weights="validation", out=str(tmp_path / "weighted")))
    assert sum(made.weights.values()) == pytest.approx(1.0)
    assert set(made.weights) == {"member-0", "member-1", "member-2"}


def test_members_with_other_test_rows_are_measured_on_what_they_share(runs, toy_options, tmp_path):
    """One member has half of the test rows, and learnt from some of the others."""
    test = toy_world.rows(90, seed=3, is_test=True)
    half = toy_world.write_csv(tmp_path / "half.csv", test[:45])
    train = toy_world.write_csv(tmp_path / "train.csv", [*toy_world.rows(60, seed=1), *test[45:60]])
    other = {**toy_options, **QUICK, "data": str(train), "test": str(half), "out": str(tmp_path / "other")}
    run = tunesmith.train(**other)
    made = make_ensemble([runs[0], run.path], Wishes(out=str(tmp_path / "both")))
    assert made.after.n == 45
    assert made.rows.left_out == {"a member learnt from it": 15, "no test row of every member": 30}
    assert {record.fields["text"] for record in made.rows.test} == {text for text, _ in test[:45]}

    seen = toy_world.write_csv(tmp_path / "seen.csv", [*test[45:60], *toy_world.rows(9, seed=99, is_test=True)])
    given = make_ensemble([runs[0], run.path], Wishes(data=str(seen), out=str(tmp_path / "given")))
    assert given.after.n == 9, "rows of a given file that a member learnt from are left out too"
    assert given.rows.left_out == {"a member learnt from it": 15}
    gone = toy_world.write_csv(tmp_path / "gone.csv", test[45:60])
    with pytest.raises(DataProblem, match=r"every row of the file is known to a member \(15 left out: a member learnt"):
        make_ensemble([runs[0], run.path], Wishes(data=str(gone), out=str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_rows_are_shared_by_content_not_by_place(runs, tmp_path):
    rows = shared_rows([load(run) for run in runs])
    assert len(rows.test) == 90
    assert len(rows.valid) == 45
    assert rows.left_out == {}


def test_a_member_that_changed_is_a_clear_error(runs, tmp_path):
    members = copied(runs[:2], tmp_path)
    made = make_ensemble(members, Wishes(out=str(tmp_path / "together")))
    shutil.rmtree(members[1])
    with pytest.raises(BundleProblem) as caught:
        load(made.bundle.path)
    assert str(caught.value) == (
        f"BundleProblem: member 'member-1' of this ensemble is gone\n  where: {members[1]}\n"
        "  do:    put the run folder back, or make the ensemble again with: tunesmith ensemble RUN RUN ... "
        "(--copy keeps the members in its folder)"
    )
    shutil.copytree(runs[2], members[1])
    with pytest.raises(BundleProblem, match="member 'member-1' has changed since this ensemble was made and measured"):
        load(made.bundle.path)
    shutil.rmtree(members[1])
    shutil.copytree(runs[1], members[1])
    assert load(made.bundle.path).id == made.bundle.id
    (members[1] / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleProblem, match=r"damaged: model\.safetensors has changed"):
        load(made.bundle.path)


def test_members_may_move_together_with_their_ensemble(runs, tmp_path):
    members = copied(runs[:2], tmp_path / "here")
    made = make_ensemble(members, Wishes(out=str(tmp_path / "here" / "together")))
    wanted = made.bundle.predict("a1 a2 a3")[0].alternatives
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(tmp_path / "there" / "together").predict("a1 a2 a3")[0].alternatives == wanted


def test_copies_need_nothing_outside_of_the_folder(runs, tmp_path):
    members = copied(runs[:2], tmp_path / "here")
    made = make_ensemble(members, Wishes(is_copied=True, out=str(tmp_path / "together")))
    wanted = made.bundle.predict("a1 a2 a3")[0].alternatives
    shutil.rmtree(tmp_path / "here")
    assert load(tmp_path / "together").predict("a1 a2 a3")[0].alternatives == wanted
    (tmp_path / "together" / "members" / "1-member-0" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleProblem, match=r"damaged: members/1-member-0/config\.json has changed"):
        load(tmp_path / "together")
    facts = json.loads((made.bundle.path / "bundle.json").read_text(encoding="utf-8"))
    assert str(tmp_path / "here") not in json.dumps(facts), "no path of this machine is in a folder that stands alone"


def test_an_export_of_a_member_is_no_change_of_it(runs, tmp_path):
    (member,) = copied(runs[:1], tmp_path)
    before = content_of(member)
    manifest = json.loads((member / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["exports/onnx-1/model.onnx"] = {"sha256": "0", "bytes": 1}
    (member / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert content_of(member) == before
    manifest["files"]["config.json"]["sha256"] = "0"
    (member / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert content_of(member) != before


def test_labels_may_stand_in_another_order(runs, tmp_path):
    """A member whose outputs are turned round says the same under the same names."""
    (member,) = copied(runs[:1], tmp_path)
    bundle = load(runs[0])
    turned = dataclasses.replace(bundle, facts={**bundle.facts, "labels": list(reversed(bundle.labels))})
    records = part_rows(bundle, "test")[:6]
    both = Ensemble("text-classification", bundle.labels, (bundle, turned), equal_vote(2))
    logs = both.choices(records).logs_NCM
    assert np.allclose(logs[..., 0], logs[..., 1][:, ::-1])
    assert member.name == "member-0"


def test_what_does_not_fit_is_refused(runs, soft, tmp_path):
    def refused(match, given, **wishes):
        with pytest.raises(PlanProblem, match=match):
            make_ensemble(given, Wishes(**{"out": str(tmp_path / "no"), **wishes}))

    refused("one run alone is no ensemble", runs[:1])
    refused("the same run is given twice", [runs[0], runs[0]])
    refused("'together' is an ensemble itself", [runs[0], soft.bundle.path])
    refused("by is 'hard'", runs, by="hard")
    refused("weights is 'best'", runs, weights="best")
    refused("a stacked ensemble finds its own", runs, by="stacked", weights="validation")
    refused("is there already", runs, out=str(tmp_path))
    members = copied(runs[:2], tmp_path)
    for name, content in (("bundle.json", "labels"), ("plan.json", "labels")):
        path = members[1] / name
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts[content] = ["animal", "metal", "wind"]
        path.write_text(json.dumps(facts), encoding="utf-8")
    _written_anew(members[1])
    refused("do not know the same labels; not in both: 'weather', 'wind'", members)
    for name in ("plan.json", "bundle.json"):
        path = members[1] / name
        facts = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**facts, "task": "question-answering"}), encoding="utf-8")
    _written_anew(members[1])
    refused("for different tasks: question-answering, text-classification", members)
    assert not (tmp_path / "no").exists()


def _written_anew(folder):
    from tunesmith.bundle.atomic import write_manifest

    write_manifest(folder)


def test_tasks_without_probabilities_say_why():
    from tunesmith.bundle.members import KINDS, why_no_ensemble
    from tunesmith.tasks import TASKS

    assert set(KINDS) <= set(TASKS)
    for task in TASKS:
        assert (why_no_ensemble(task) is None) == (task in KINDS)
    assert why_no_ensemble("translation") == "its answers are texts, which have no probabilities over labels"


def test_what_needs_one_model_is_refused_with_a_way_out(soft, toy_data):
    with pytest.raises(PlanProblem, match="is an ensemble of 3 models and cannot be exported") as caught:
        export(soft.bundle.path)
    assert caught.value.do.endswith("tunesmith ensemble member-0 member-1 member-2 --distil")
    with pytest.raises(PlanProblem, match="cannot be asked which rows to label"):
        suggest(soft.bundle.path, toy_data["test"])
    with pytest.raises(BundleProblem, match="an ensemble answers with torch, and engine 'onnx' was asked for"):
        load(soft.bundle.path, engine="onnx")


def test_a_worker_of_the_service_can_hold_it(soft):
    from tunesmith.models.shared_weights import SharedWeights
    from tunesmith.service.loaded import LoadedBundle

    loaded = LoadedBundle({"run": str(soft.bundle.path)}, SharedWeights())
    loaded.probe()
    (answer,) = loaded.answer(["a1 a2 a3"], {})
    assert answer["prediction"]["value"] == soft.bundle.predict("a1 a2 a3")[0].value
    assert answer["observed"]["tokens"] > 0


class Member:
    """Stands for a run: gives fixed raw answers."""

    def __init__(self, labels, answers):
        self.labels, self.answers = tuple(labels), np.asarray(answers, dtype=float)
        self.facts = {"batch_tokens": 64}
        self.tokenizer = self.model = None
        self.task = self

    def answer(self, records):
        return self.answers

    def encode(self, records):
        return records

    def all_logits(self, model, examples, **_):
        return self.answers


def record_of(target, **fields):
    return Record("1", fields, target, Origin("rows.csv", 1))


def test_yes_and_no_of_each_label_are_mixed_by_themselves():
    logit = [[2.0, -1.0], [0.0, 3.0]]
    members = (Member("ab", logit), Member("ba", [[1.0, 4.0], [-2.0, 0.0]]))
    both = Ensemble("multi-label-classification", ("a", "b"), members, equal_vote(2))
    records = [record_of(("a",)), record_of(())]
    found = 1 / (1 + np.exp(-both.answer(records)))
    each = [1 / (1 + np.exp(-np.array(answers))) for answers in (logit, [[4.0, 1.0], [0.0, -2.0]])]
    assert np.allclose(found, np.mean(each, axis=0))
    assert both.right(records).tolist() == [1, 0, 0, 0]
    assert both.choices(records).labels_NC.tolist() == [[-1, 0], [-1, 1], [-1, 0], [-1, 1]]
    stacked = dataclasses.replace(both, vote=Vote("stacked", (0.5, 0.5), (1.0, 0.0)))
    unmoved = dataclasses.replace(both, vote=Vote("stacked", (0.5, 0.5), (0.0, 0.0)))
    moved = stacked.answer(records) - unmoved.answer(records)
    assert np.allclose(moved, [[1.0, 0.0], [1.0, 0.0]]), "an offset is of one label, and of its yes"


def test_choices_of_a_row_are_mixed_however_many_there_are():
    short = -np.inf
    members = (Member((), [[1.0, 0.0, short], [0.0, 1.0, 2.0]]), Member((), [[0.0, 2.0, short], [3.0, 0.0, 0.0]]))
    both = Ensemble("multiple-choice", (), members, equal_vote(2))
    records = [record_of(1, choices=["x", "y"]), record_of(2, choices=["x", "y", "z"])]
    answers = both.answer(records)
    means = np.mean([metrics.softmax(member.answers) for member in members], axis=0)
    for (value, confidence, alternatives), mean in zip(answers, means, strict=True):
        assert value == mean.argmax()
        assert confidence == pytest.approx(mean.max())
        assert sum(alternatives.values()) == pytest.approx(1.0)
    assert list(answers[0][2]) == ["y", "x"]
    assert both.right(records).tolist() == [1, 2]


def test_token_logits_are_averaged_under_the_names_of_their_tags():
    class Model(torch.nn.Module):
        def __init__(self, logits):
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor(logits))
            self.config = SimpleNamespace(id2label={})

        def forward(self, **_):
            return SimpleNamespace(logits=self.logits)

    models = [Model([[[1.0, 2.0, 3.0]]]), Model([[[10.0, 30.0, 20.0]]])]
    mean = TokenMean(models, [[0, 1, 2], [0, 2, 1]], ["O", "B-x", "I-x"])
    assert mean(input_ids=None).logits.tolist() == [[[5.5, 11.0, 16.5]]]
    assert mean.config.id2label == {0: "O", 1: "B-x", 2: "I-x"}
    assert models[0].config.id2label == {}, "the member stays as it is"


def test_tokens_of_unlike_tokenizers_are_refused():
    def member(vocabulary):
        def tokenizer(text):
            return {"input_ids": [vocabulary.get(word, 0) for word in text.split()]}

        tokenizer.get_vocab = lambda: vocabulary
        return SimpleNamespace(name="m", path=Path("runs/m"), tokenizer=tokenizer)

    rows = [record_of((), text="a b")]
    demand_same_tokens([member({"a": 1, "b": 2}), member({"a": 1, "b": 2})], rows)
    with pytest.raises(PlanProblem, match="cut texts into other tokens, so their tags cannot be mixed"):
        demand_same_tokens([member({"a": 1, "b": 2}), member({"a": 2, "b": 1})], rows)


def test_members_whose_rows_are_only_partly_known_are_told_of(soft, runs, tmp_path):
    members = copied(runs[:1], tmp_path)
    assert partly_known([load(run) for run in runs]) == []
    (members[0] / "kept_rows.jsonl").write_text("", encoding="utf-8")
    (said,) = partly_known([SimpleNamespace(path=members[0], name="late")])
    assert said.startswith("'late' is an update, which keeps some of its rows alone")


@pytest.mark.slow
def test_a_member_may_be_asked_in_words(runs, toy_options, tmp_path):
    asked = tunesmith.train(**{**toy_options, "method": "zero-shot", "threads": 1, "out": str(tmp_path / "asked")})
    made = make_ensemble([runs[0], asked.path], Wishes(by="stacked", out=str(tmp_path / "both")))
    assert load(made.bundle.path).predict("a1 a2 a3")[0].value in asked.labels
    assert made.after.n == 90


TOYS = ("token-classification", "multi-label-classification", "multiple-choice", "text-pair")


@pytest.mark.slow
@pytest.mark.parametrize("task", TOYS)
def test_other_tasks_are_mixed_too(task, toy_base, tmp_path):
    toy = importlib.import_module(f"toys.{task.replace('-', '_')}")
    files = {}
    for part, count in (("data", 30), ("valid", 24), ("test", 24)):
        rows = toy.rows("train" if part == "data" else part, count)
        files[part] = tmp_path / f"{part}.jsonl"
        files[part].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {**{part: str(path) for part, path in files.items()}, "task": task, "model": str(toy_base), **QUICK}
    runs = [tunesmith.train(**options, seed=seed, out=str(tmp_path / f"s{seed}")).path for seed in (0, 1)]
    ways = ["soft"] if task == "token-classification" else ["soft", "stacked"]
    for by in ways:
        made = make_ensemble(runs, Wishes(by=by, out=str(tmp_path / by)))
        bundle = load(made.bundle.path)
        records = part_rows(bundle, "test")
        assert bundle.score(records).value == made.after.value
        fields = {key: value for key, value in records[0].fields.items() if key != "places"}
        (answer,) = bundle.predict([fields])
        assert 0 <= answer.confidence <= 1
    if task == "token-classification":
        with pytest.raises(PlanProblem, match="tokens are mixed before the likeliest tags"):
            make_ensemble(runs, Wishes(by="stacked", out=str(tmp_path / "stacked")))
        means = [load(run) for run in runs]
        batch = bundle.task.batch(bundle.encode(records[:3]), bundle.tokenizer)
        batch = {name: tensor for name, tensor in batch.items() if name != "labels"}
        each = [one.model(**batch).logits.detach().numpy() for one in means]
        assert np.allclose(bundle.model(**batch).logits.detach().numpy(), np.mean(each, axis=0), atol=1e-5)

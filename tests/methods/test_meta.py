"""Learning to learn in the toy world: labels that training never saw, told apart by a few examples."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import transformers
from sklearn.neighbors import NearestCentroid

import toy_world
import tunesmith
from tunesmith.bundle.examples import with_examples
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, DataProblem, PlanProblem, Stopped
from tunesmith.methods import meta
from tunesmith.methods.prototypes import class_means, fitted_scale
from tunesmith.models.find import hash_file
from tunesmith.tasks.episodes import SCALE, EpisodicTask, Shape, draw_episodes, nearest_mean, unit
from tunesmith.tasks.text_classification import TASK
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe

METALS = toy_world.WORDS["metal"]
"""Sixteen labels: the metal that a text is about, among words of other families that say nothing."""


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Give texts with a metal twice and four words of other families, `count` for each metal."""
    generator = random.Random(seed)
    others = toy_world.WORDS["animal"] + toy_world.WORDS["weather"]
    found = []
    for _ in range(count):
        for metal in METALS:
            words = [metal, metal, *generator.sample(others, 4)]
            generator.shuffle(words)
            found.append((" ".join(words), f"about-{metal}"))
    return found


LABELS = {f"about-{metal}" for metal in METALS}
FILLERS = [" ".join(toy_world.FILLERS[start : start + 6]) for start in range(6)]


@pytest.fixture(scope="module")
def keys(toy_options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("meta")
    data = toy_world.write_csv(folder / "data.csv", rows(12, seed=1))
    small = {"episodes": 40, "episode_asked": 6, "measured_episodes": 60}
    return {"data": str(data), "model": toy_options["model"], "method": "meta", "learning_rate": 1e-3, **small}


def stop_at(job, last: int) -> None:
    """Run a job, and let it hear a signal after that step."""
    reached = {"step": 0}
    for event in job.run(lambda: 15 if reached["step"] >= last else 0):
        reached["step"] = event.step


@pytest.fixture(scope="module")
def run(keys, tmp_path_factory):
    return tunesmith.train(**keys, out=str(tmp_path_factory.mktemp("runs") / "meta"))


def test_labels_never_seen_are_told_apart_better_than_before(run):
    gain = run.gain
    assert gain.after.details["episode_labels"] == 5
    assert gain.after.value > gain.before.value + 0.2
    assert gain.after.value > 0.5
    assert gain.differences["before"].is_clear
    assert gain.differences["before"].value == pytest.approx(gain.after.value - gain.before.value)
    assert 0 < gain.baselines["tfidf-means"].value < 1
    low, high = gain.after.interval
    assert low < gain.after.value < high


def test_whole_labels_are_held_out(keys):
    job = prepare(make_recipe(keys))
    labels = {
        part: {record.target for record in getattr(job.intake.splits, part)} for part in ("train", "valid", "test")
    }
    assert set().union(*labels.values()) == LABELS
    assert sum(map(len, labels.values())) == len(LABELS)
    assert (len(labels["valid"]), len(labels["test"])) == (5, 5)
    assert any("whole labels are held out: 6 are learnt from" in remark for remark in job.remarks)
    assert job.plan.steps == 40
    other = prepare(make_recipe({**keys, "seed": 1}))
    assert {record.target for record in other.intake.splits.test} != labels["test"]


@pytest.mark.slow
def test_reptile_learns_to_be_adapted(keys, tmp_path):
    run = tunesmith.train(**{**keys, "meta": "reptile", "inner_steps": 3, "episodes": 25}, out=str(tmp_path / "run"))
    assert run.gain.after.value > run.gain.before.value + 0.05
    inside = run.gain.after.details["after_inner_steps"]
    assert inside["after"] != inside["before"]
    assert inside["episodes"] == 20
    assert set(run.labels) == LABELS


def test_the_run_answers_with_the_means_of_all_labels(run):
    texts = rows(4, seed=9)
    found = run.predict([text for text, _ in texts])
    right = np.mean([one.value == label for one, (_, label) in zip(found, texts, strict=True)])
    assert right > 0.3  # of sixteen, ten of which it was never trained on
    assert set(run.labels) == LABELS
    pipeline = transformers.pipeline("text-classification", str(run.path))
    for one, theirs in zip(found, pipeline([text for text, _ in texts]), strict=True):
        assert theirs["label"] == one.value
        assert theirs["score"] == pytest.approx(one.confidence, abs=1e-4)


def test_a_new_label_needs_examples_and_no_training(run):
    told = with_examples(run, {"filler": FILLERS[:4]})
    assert [one.value for one in told.predict(FILLERS[4:])] == ["filler", "filler"]
    assert "filler" not in run.labels
    assert {one.value for one in run.predict(FILLERS)} <= LABELS
    texts = [text for text, _ in rows(2, seed=10)]
    before, after = (
        np.array([[one.alternatives[label] for label in run.labels] for one in each.predict(texts)])
        for each in (run, told)
    )
    assert np.allclose(before, after / after.sum(1, keepdims=True), atol=1e-5)


def test_examples_are_told_on_the_command_line(run, tmp_path, capsys):
    path = toy_world.write_csv(tmp_path / "support.csv", [(text, "filler") for text in FILLERS[:4]])
    assert main(["predict", str(run.path), FILLERS[5], "--support", str(path)]) == 0
    assert capsys.readouterr().out.startswith("filler")


def test_what_cannot_be_told_is_refused(run, toy_run):
    with pytest.raises(DataProblem, match="label 'about-m0' is one that the run knows already"):
        with_examples(run, {"about-m0": ["m0 m0"]})
    with pytest.raises(DataProblem, match="label 'new' has an example without text"):
        with_examples(run, {"new": [" "]})
    with pytest.raises(BundleProblem) as caught:
        with_examples(toy_run, {"new": ["a1"]})
    assert caught.value.do == "train with --method meta, or train anew with rows of the new labels"


@pytest.mark.parametrize("kind", ["prototypical", pytest.param("reptile", marks=pytest.mark.slow)])
def test_a_stopped_run_ends_with_the_same_bits(kind, keys, tmp_path):
    keys = {**keys, "meta": kind, "inner_steps": 2, "episodes": 8, "measured_episodes": 5}
    whole = prepare(make_recipe({**keys, "out": str(tmp_path / "whole")}))
    list(whole.run())
    job = prepare(make_recipe({**keys, "out": str(tmp_path / "stopped")}))
    with pytest.raises(Stopped):
        stop_at(job, 3)
    again = prepare_resume(tmp_path / "stopped")
    list(again.run())
    first, second = (hash_file(one.bundle.path / "model.safetensors") for one in (whole, again))
    assert first == second


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"meta": "maml"}, "meta is 'maml'"),
        ({"episode_labels": 9}, "episodes of 9 labels, apart for learning, choosing and the test, need 27 labels"),
        ({"episode_shots": 12}, "need 6 labels with more than 12 rows each; here are 0"),
        ({"meta": "reptile", "adversarial": "fgm"}, "adversarial"),
    ],
)
def test_what_cannot_be_is_refused(changes, what, keys):
    with pytest.raises((PlanProblem, DataProblem)) as caught:
        prepare(make_recipe({**keys, **changes}))
    assert what in caught.value.what


def test_test_rows_of_their_own_are_refused(keys, toy_options):
    with pytest.raises(PlanProblem, match="holds out whole labels of one file"):
        prepare(make_recipe({**keys, "data": toy_options["data"], "test": toy_options["test"]}))


def test_episodes_are_drawn_alike_by_name_and_by_index():
    names = [name for name in "cabbac" for _ in range(3)]
    places = [{"a": 2, "b": 0, "c": 1}[name] for name in names]
    shape = Shape(2, 2, 3)
    first, second = (draw_episodes(targets, shape, 20, chance="x") for targets in (names, places))
    assert first == second
    for episode in first:
        for examples, asked in zip(episode.examples, episode.asked, strict=True):
            assert len(examples) == 2
            assert 1 <= len(asked) <= 3
            assert not set(examples) & set(asked)
            assert len({names[row] for row in (*examples, *asked)}) == 1


def test_the_nearest_mean_is_that_of_scikit_learn():
    chance = np.random.default_rng(0)
    targets = np.arange(60) % 6
    points = unit(chance.normal(size=(60, 5)) + 0.7 * chance.normal(size=(6, 5))[targets])
    episodes = draw_episodes(list(targets), Shape(4, 3, 5), 30, chance="y")
    accuracies, loss = nearest_mean(points, episodes)
    wanted = []
    for episode in episodes:
        examples = [row for rows in episode.examples for row in rows]
        asked = [row for rows in episode.asked for row in rows]
        fitted = NearestCentroid().fit(points[examples], targets[examples])
        wanted.append((fitted.predict(points[asked]) == targets[asked]).mean())
    assert accuracies.tolist() == pytest.approx(wanted)
    assert loss > 0


def test_the_loss_of_a_step_is_that_of_an_episode():
    """With one example each, whichever is drawn is the mean; written out for all draws that can be."""
    states = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([7, 7, 2, 2])
    task = EpisodicTask(TASK, Shape(2, 1, 1), 10)
    points = torch.nn.functional.normalize(states, dim=1)
    possible = []
    for first, second in ((0, 2), (0, 3), (1, 2), (1, 3)):
        total = 0.0
        for row, own, other in ((1 - first, first, second), (5 - second, second, first)):
            distances = [float((points[row] - points[mean]).square().sum()) for mean in (own, other)]
            total += np.log(1 + np.exp(-SCALE * (distances[1] - distances[0])))
        possible.append(total / 2 * 4)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        found = float(task.compare(states, labels))
        assert min(abs(found - one) for one in possible) < 1e-6
        seen.add(round(found, 6))
    assert len(seen) == len({round(one, 6) for one in possible})


def test_a_head_of_means_leaves_each_judged_row_out():
    """Against a slow one that makes the means anew for every row."""
    chance = np.random.default_rng(1)
    targets = [row % 3 for row in range(18)]
    points = unit(chance.normal(size=(18, 4)) + np.eye(3, 4)[targets])
    means = class_means(points, targets, 3)
    assert np.allclose(means[1], points[[row for row in range(18) if targets[row] == 1]].mean(0))
    logits = []
    for row in range(6):
        others = [place for place in range(18) if place != row]
        own = class_means(points[others], [targets[place] for place in others], 3)
        logits.append([-SCALE * ((points[row] - mean) ** 2).sum() for mean in own])
    from tunesmith.metrics import fit_temperature

    wanted = SCALE / fit_temperature(np.array(logits), np.array(targets[:6]))
    assert fitted_scale(points, targets, range(6), 3) == pytest.approx(wanted, rel=1e-6)


def test_other_tasks_and_families_are_declined_with_a_reason():
    from tunesmith.models.anatomy import find_anatomy

    config = transformers.DistilBertConfig(vocab_size=70, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    anatomy = find_anatomy(transformers.DistilBertForSequenceClassification(config))
    assert meta.why_not("text-pair", anatomy) == "an episode asks for one label of a text, and this task is text-pair"
    assert meta.why_not("text-classification", anatomy).startswith("means are taken of averaged states, and the blocks")

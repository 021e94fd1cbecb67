"""Which rows are worth a label: against slow plain references, and on cases worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import toy_world
from tunesmith.bundle.worth_labelling import (
    answers_and_states,
    demand_by,
    leanings,
    pick_far,
    pick_spread,
    pick_unsure,
    uncertainties,
)
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task
from tunesmith.types import Origin, Record

CLASSIFICATION = find_task("text-classification")
MULTI_LABEL = find_task("multi-label-classification")


def decoded(chances):
    return list(CLASSIFICATION.decode(np.log(np.array(chances)), labels=["a", "b", "c"]))


def unit(rows):
    rows = np.asarray(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_one_label_is_unsure_by_its_margin():
    answered = decoded([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [1 / 3, 1 / 3, 1 / 3]])
    assert uncertainties(CLASSIFICATION, answered, None) == pytest.approx([0.9, 0.15, 1.0])


def test_several_labels_are_unsure_by_the_least_sure_one():
    logits = np.log([[0.9 / 0.1, 0.4 / 0.6], [0.99 / 0.01, 0.02 / 0.98]])
    answered = list(MULTI_LABEL.decode(logits, labels=["a", "b"]))
    assert uncertainties(MULTI_LABEL, answered, logits) == pytest.approx([0.8, 0.04])
    assert leanings(MULTI_LABEL, answered, np.zeros(2), ["a", "b"]) == pytest.approx(
        np.array([[-0.1, 0.4], [-0.01, 0.02]]), abs=1e-6
    )


def test_entities_are_unsure_by_the_mean_over_tokens_and_not_by_length():
    from tunesmith.tasks.token_classification import Found

    task = find_task("token-classification")
    answers = [Found((), 0.1, unsure=0.05), Found((), 0.6, unsure=0.2)]
    unsure = uncertainties(task, task.decode(answers, labels=["x"]), answers)
    assert unsure.tolist() == [0.05, 0.2]
    assert leanings(task, task.decode(answers, labels=["x"]), unsure, ["x"]).tolist() == [
        [pytest.approx(0.05)],
        [pytest.approx(0.2)],
    ]


def test_the_leaning_is_the_gradient_of_the_loss_at_the_logits():
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.3, 0.2, 0.1]], requires_grad=True)
    torch.nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    answers = logits.detach().numpy()
    answered = list(CLASSIFICATION.decode(answers, labels=["a", "b", "c"]))
    found = leanings(CLASSIFICATION, answered, np.zeros(2), ["a", "b", "c"])
    assert found == pytest.approx(logits.grad.numpy(), abs=1e-6)


def test_answers_without_labels_lean_by_how_unsure_they_are():
    answered = [("here", 0.5, {"here": 0.5, "there": 0.4})]
    assert leanings(find_task("question-answering"), answered, np.array([0.25]), ()).tolist() == [[0.25]]


def test_the_least_sure_come_first_and_the_earlier_of_equals():
    assert pick_unsure(np.array([0.1, 0.9, 0.5, 0.9]), 3) == [1, 3, 2]


def plain_spread(gradients, count, seed):
    """k-means++ over the gradients themselves, with the origin taken."""
    generator = np.random.default_rng(seed)
    chosen = [int((gradients**2).sum(1).argmax())]
    while len(chosen) < count:
        taken = np.vstack([gradients[chosen], np.zeros(gradients.shape[1])])
        nearest = cdist(gradients, taken, "sqeuclidean").min(1)
        nearest[chosen] = 0
        chosen.append(int(np.searchsorted(np.cumsum(nearest), generator.random() * nearest.sum(), side="right")))
    return chosen


@pytest.mark.parametrize("seed", range(4))
def test_spread_rows_are_those_of_the_whole_gradients(seed):
    generator = np.random.default_rng(seed)
    leaning, states = generator.normal(size=(60, 4)), unit(generator.normal(size=(60, 6)))
    gradients = np.einsum("nl,nh->nlh", leaning, states).reshape(60, -1)
    assert pick_spread(leaning, states, 12, seed=seed) == plain_spread(gradients, 12, seed)


def test_spread_rows_are_unsure_and_unlike_each_other():
    """Three places, one of them sure: the two unsure places are taken first, each once."""
    states = unit([[1, 0, 0]] * 10 + [[0, 1, 0]] * 10 + [[0, 0, 1]] * 10)
    leaning = np.array([[0.5, -0.5]] * 10 + [[0.4, -0.4]] * 10 + [[1e-6, -1e-6]] * 10, dtype=np.float32)
    for seed in range(5):
        assert {place // 10 for place in pick_spread(leaning, states, 2, seed=seed)} == {0, 1}


def test_where_all_rows_are_alike_each_is_still_taken_once():
    states, leaning = unit(np.ones((5, 3))), np.full((5, 2), 0.5, dtype=np.float32)
    assert sorted(pick_spread(leaning, states, 5, seed=0)) == [0, 1, 2, 3, 4]
    assert sorted(pick_spread(np.zeros((5, 2)), states, 9, seed=0)) == [0, 1, 2, 3, 4]
    assert sorted(pick_far(states, 9)[0]) == [0, 1, 2, 3, 4]


def test_far_rows_are_those_of_greedy_k_centre():
    generator = np.random.default_rng(1)
    states, known = unit(generator.normal(size=(80, 5))), unit(generator.normal(size=(7, 5)))
    chosen, distances = pick_far(states, 10, known_MH=known)
    centres = list(known)
    for place, distance in zip(chosen, distances, strict=True):
        nearest = cdist(states, np.array(centres)).min(1)
        assert nearest[place] == pytest.approx(nearest.max(), abs=1e-4)
        assert distance == pytest.approx(nearest[place], abs=1e-3)
        centres.append(states[place])
    assert len(set(chosen)) == 10


@pytest.mark.parametrize("batch_tokens", [16, 400])
def test_answers_are_the_same_and_states_are_the_mean_of_the_last_ones(toy_run, batch_tokens):
    texts = [text for text, _ in toy_world.rows(9, seed=5)]
    records = [Record(str(row), {"text": text}, None, Origin("x", row)) for row, text in enumerate(texts, 1)]
    settings = {"tokenizer": toy_run.tokenizer, "labels": toy_run.labels, "batch_tokens": batch_tokens}
    examples = toy_run.encode(records)
    answers, states = answers_and_states(toy_run.task, toy_run.model, examples, **settings)
    assert np.array_equal(answers, toy_run.task.answer(toy_run.model, examples, **settings))
    for row, example in enumerate(examples):
        with torch.inference_mode():
            found = toy_run.model.base_model(input_ids=torch.tensor([example.tokens])).last_hidden_state[0].mean(0)
        assert states[row] == pytest.approx((found / found.norm()).numpy(), abs=1e-4)
    assert not toy_run.model.base_model._forward_hooks


def test_ways_and_tasks_that_cannot_be_are_refused():
    with pytest.raises(PlanProblem, match="rows are chosen by 'uncertain'") as caught:
        demand_by("uncertain", CLASSIFICATION)
    assert caught.value.do.startswith("use one of: uncertainty")
    with pytest.raises(PlanProblem, match="text-similarity cannot say how sure it is"):
        demand_by("both", find_task("text-similarity"))
    task = SimpleNamespace(name="own", answer=lambda *_, **__: None)
    model = SimpleNamespace(base_model=torch.nn.Linear(1, 1))
    example = SimpleNamespace(length=3)
    with pytest.raises(PlanProblem, match="no one state for each row"):
        answers_and_states(task, model, [example], tokenizer=None, labels=(), batch_tokens=8)

"""The fitted head is scikit-learn's, written into the output layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from sklearn.linear_model import LogisticRegression

from tunesmith.methods.fitted_head import Head, fitted_heads
from tunesmith.tasks import Example
from tunesmith.tasks.contrast import head_states
from tunesmith.tasks.text_classification import TASK


def rows(labels: int, seed: int = 0):
    chance = np.random.default_rng(seed)
    targets = np.arange(60) % labels
    states = chance.normal(size=(60, 8)) + 2.0 * chance.normal(size=(labels, 8))[targets]
    return 5.0 * states, targets


@pytest.mark.parametrize("labels", [2, 3, 7])
def test_it_gives_the_probabilities_of_scikit_learn(labels):
    states, targets = rows(labels)
    length = np.linalg.norm(states, axis=1).mean()
    for strength, head in zip((1.0, 10.0), fitted_heads(states, list(targets), strengths=(1.0, 10.0)), strict=True):
        fitted = LogisticRegression(C=strength, tol=1e-6, max_iter=2000).fit(states / length, targets)
        logits = head.logits(states)
        assert logits.shape == (60, labels)
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert np.abs(chances - fitted.predict_proba(states / length)).max() < 0.02


def test_several_labels_are_fitted_each_by_itself():
    states, targets = rows(3)
    truth = np.stack([targets == 0, targets > 0, np.ones(60), np.zeros(60)], axis=1).astype(float)
    (head,) = fitted_heads(states, [tuple(row) for row in truth], strengths=(10.0,))
    logits = head.logits(states)
    assert ((logits > 0) == truth).mean() > 0.97
    assert (logits[:, 2] == 12.0).all()
    assert (logits[:, 3] == -12.0).all()


def test_the_model_answers_with_it():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=70, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, num_labels=3
    )
    model = transformers.BertForSequenceClassification(config).eval()

    class Tokenizer:
        pad_token_id = 0

    examples = [Example(tuple(range(5, 8 + row)), row % 3) for row in range(9)]
    settings = {"tokenizer": Tokenizer, "batch_tokens": 20}
    states = head_states(model, examples, task=TASK, **settings)
    assert states.shape == (9, 16)
    chance = np.random.default_rng(0)
    head = Head(chance.normal(size=(3, 16)), chance.normal(size=3))
    head.put_into(model)
    answers = TASK.answer(model, examples, labels=("a", "b", "c"), **settings)
    assert np.allclose(answers, head.logits(states), atol=1e-5)

"""Rows that count less: the gradient is that of the weighted sum, whatever the loss is made of."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

import toy_world
from tunesmith.tasks import find_task
from tunesmith.tasks.losses import LossShape
from tunesmith.tasks.weighed_rows import WEIGHTS, WeighedTask, weighed, why_not
from tunesmith.training.learning import ShapedLoss, TaskLoss
from tunesmith.types import Origin, Record, Span

TOKENIZER = toy_world.make_tokenizer()
ROWS = toy_world.rows(6, seed=0)
WEIGHTED = {"1": 0.5, "3": 0.25, "4": 0.0}


def config(**more):
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertConfig(vocab_size=len(TOKENIZER), max_position_embeddings=32, **size, **still, **more)


def classification():
    records = [Record(str(row), {"text": text}, label, Origin("x", row)) for row, (text, label) in enumerate(ROWS)]
    return find_task("text-classification"), BertForSequenceClassification(config(num_labels=3)), records


def entities():
    records = [
        Record(str(row), {"text": text}, (Span(0, len(text.split()[0]), label),), Origin("x", row))
        for row, (text, label) in enumerate(ROWS)
    ]
    return find_task("token-classification"), BertForTokenClassification(config(num_labels=7)), records


def apart():
    pairs = [{"text_a": text, "text_b": f"{text} the1"} for text, _ in ROWS]
    records = [Record(str(row), pair, float(row % 2), Origin("x", row)) for row, pair in enumerate(pairs)]
    task = find_task("text-similarity").configured({"encoder": "bi"})
    return task, BertModel(config()), records


def gradients(model, losses):
    model.zero_grad()
    sum(losses).backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


SHAPE = LossShape(0.1, 2.0)
CASES = [(classification, None), (classification, SHAPE), (entities, None), (entities, SHAPE), (apart, None)]


@pytest.mark.parametrize(("made", "shape"), CASES, ids=["label", "label-shaped", "tags", "tags-shaped", "apart"])
def test_the_gradient_is_that_of_the_weighted_sum(made, shape):
    torch.manual_seed(0)
    task, model, records = made()
    labels = task.labels(records)
    examples = task.encode(records, TOKENIZER, labels=labels, max_length=32)

    def loss_of(one, some):
        criterion = TaskLoss(one) if shape is None else ShapedLoss(one, shape)
        return criterion(model, one.batch(some, TOKENIZER))

    heavy = weighed(task, WEIGHTED)
    found, plain = loss_of(heavy, examples)
    mine = gradients(model, [found])
    each = [loss_of(task, [example])[0] * WEIGHTED.get(example.record.id, 1.0) for example in examples]
    assert torch.allclose(mine, gradients(model, each), atol=1e-5)
    assert plain.item() == pytest.approx(sum(loss_of(task, [example])[1].item() for example in examples), rel=1e-4)
    assert not model._forward_hooks


def test_units_and_all_else_are_the_tasks_own():
    task, _, records = classification()
    examples = task.encode(records, TOKENIZER, labels=task.labels(records), max_length=32)
    heavy = weighed(task, WEIGHTED)
    batch = heavy.batch(examples, TOKENIZER)
    assert batch[WEIGHTS].tolist() == [1.0, 0.5, 1.0, 0.25, 0.0, 1.0]
    copies = [dataclasses.replace(one, record=dataclasses.replace(one.record, id="3~delete1")) for one in examples[:1]]
    assert heavy.batch(copies, TOKENIZER)[WEIGHTS].tolist() == [0.25]
    assert heavy.weight(batch) == 6
    assert heavy.name == task.name
    assert heavy.resolved(examples) == heavy == heavy.configured({})
    assert weighed(task, {}) is task


def test_what_compares_rows_or_asks_in_words_declines():
    from tunesmith.tasks.contrast import ContrastedTask

    task = find_task("text-classification")
    assert why_not(task) is None
    assert "compares rows" in why_not(ContrastedTask(task, 0.05))
    assert WeighedTask(task, {"1": 0.5}).labels_of("x") == ("x",)

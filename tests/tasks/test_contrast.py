"""The contrastive loss against a slow one, the order of rows, and steps made of several fills."""

from __future__ import annotations

import copy
import math
from collections import Counter

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as some

from tunesmith.tasks import Example
from tunesmith.tasks.contrast import ContrastedTask, alike, contrast, grouped_steps, head_layer, reading
from tunesmith.tasks.multi_label_classification import TASK as SEVERAL
from tunesmith.tasks.text_classification import TASK as ONE


def slow(states, alike_rows, temperature):
    """Khosla et al. 2020, equation 2, written out."""
    total = 0.0
    for row, state in enumerate(states):
        others = [place for place in range(len(states)) if place != row]
        likeness = {
            place: sum(a * b for a, b in zip(state, states[place], strict=True))
            / math.hypot(*state)
            / math.hypot(*states[place])
            / temperature
            for place in others
        }
        whole = math.log(sum(math.exp(likeness[place]) for place in others))
        mass = sum(alike_rows[row][place] for place in others)
        if mass:
            total -= sum(alike_rows[row][place] * (likeness[place] - whole) for place in others) / mass
    return total


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_the_loss_is_that_of_the_paper(temperature):
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    wanted = slow(states.tolist(), alike(labels).tolist(), temperature)
    assert float(contrast(states, alike(labels), temperature)) == pytest.approx(wanted, rel=1e-5)


def test_rows_without_a_like_have_no_loss():
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert float(contrast(states, alike(torch.tensor([0, 1, 2])), 0.1)) == 0.0
    assert float(contrast(states[:1], alike(torch.tensor([0])), 0.1)) == 0.0


def test_rows_of_several_labels_are_alike_by_what_they_share():
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = alike(labels)
    assert found[0].tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert found[3].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert float(contrast(states, found, 0.2)) == pytest.approx(slow(states.tolist(), found.tolist(), 0.2), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(targets=some.lists(some.integers(0, 5), min_size=1, max_size=60), size=some.integers(1, 17))
def test_every_row_stands_in_one_step(targets, size):
    steps = grouped_steps(targets, size, seed=1, epoch=2)
    assert sorted(row for step in steps for row in step) == list(range(len(targets)))
    assert [len(step) for step in steps[:-1]] == [size] * (len(steps) - 1)
    assert len(steps) == -(-len(targets) // size)
    assert steps == grouped_steps(targets, size, seed=1, epoch=2)


def test_likes_stand_together_and_epochs_differ():
    targets = [row % 20 for row in range(100)]
    first, second = (grouped_steps(targets, 10, seed=0, epoch=epoch) for epoch in (0, 1))
    assert first != second
    counts = [Counter(targets[row] for row in step) for step in first]
    alone = sum(number == 1 for count in counts for number in count.values())
    assert alone <= 2 * len(first)  # only a group that a step's end has cut
    assert max(len(count) for count in counts) >= 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=70, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=4
    )
    return transformers.BertForSequenceClassification(config)


class Tokenizer:
    pad_token_id = 0


def examples(count: int, *, is_several: bool = False) -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for row in range(count):
        length = int(torch.randint(3, 12, (1,), generator=generator))
        tokens = tuple(torch.randint(5, 60, (length,), generator=generator).tolist())
        target = tuple(float(place == row % 4) for place in range(4)) if is_several else row % 4
        found.append(Example(tokens, target))
    return found


@pytest.mark.parametrize(("task", "is_several"), [(ONE, False), (SEVERAL, True)])
def test_the_task_compares_what_the_output_layer_reads(model, task, is_several):
    model.eval()
    contrasted = ContrastedTask(task, 0.1)
    batch = contrasted.batch(examples(40, is_several=is_several), Tokenizer)
    with torch.no_grad(), reading(model) as seen:
        contrasted.inner.logits(model, batch)
    wanted = contrast(seen[0], alike(batch["labels"]), 0.1)
    assert float(contrasted.loss(model, batch).detach()) == pytest.approx(float(wanted), rel=1e-5)
    assert float(wanted) > 0
    assert head_layer(model) is model.classifier
    assert contrasted.weight(batch) == 40


def test_a_step_of_several_fills_has_the_gradient_of_the_whole(model):
    """With dropout off, so that one fill of all rows is the same step."""
    model.eval()
    task, rows = ContrastedTask(ONE, 0.1), examples(24)
    other = copy.deepcopy(model)
    whole = task.loss(other, task.batch(rows, Tokenizer))
    whole.backward()
    batches = [task.batch(rows[start : start + 8], Tokenizer) for start in (0, 8, 16)]
    total = 0.0
    with task.looking_ahead(model, batches):
        for batch in batches:
            loss = task.loss(model, batch)
            loss.backward()
            total += float(loss.detach())
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    gradients = {name: one.grad for name, one in other.named_parameters() if one.grad is not None}
    assert len(gradients) > 20
    for name, one in model.named_parameters():
        if name in gradients:
            assert torch.allclose(one.grad, gradients[name], atol=1e-5), name
    alone = sum(
        float(task.loss(model, batch).detach()) for batch in batches
    )  # afterwards fills are compared by themselves
    assert alone != pytest.approx(total, rel=1e-3)


def test_both_passes_of_a_fill_have_the_same_dropout(model):
    model.train()
    task, rows = ContrastedTask(ONE, 0.1), examples(16)
    batches = [task.batch(rows[start : start + 8], Tokenizer) for start in (0, 8)]
    torch.manual_seed(1)
    with task.looking_ahead(model, batches):
        ahead = [gradient for _, gradient, _ in task._ahead.fills]
        states = []
        for batch in batches:
            with reading(model) as seen:
                task.loss(model, batch)
            states.append(torch.cat(seen))
    # By length, as the task puts rows through the model; the gradient of a row is right only for these very states.
    joined = torch.cat([part[_by_length(batch)] for part, batch in zip(states, batches, strict=True)])
    joined = joined.detach().requires_grad_(True)
    contrast(joined, alike(torch.cat([batch["labels"] for batch in batches])), 0.1).backward()
    assert torch.allclose(joined.grad, torch.cat(ahead), atol=1e-5)


def _by_length(batch):
    return batch["attention_mask"].sum(1).argsort(stable=True).argsort()


def test_everything_else_is_the_inner_tasks():
    task = ContrastedTask(ONE, 0.1)
    assert (task.name, task.main, task.options, task.pipeline) == (ONE.name, ONE.main, ONE.options, ONE.pipeline)
    assert task.configured({}) == task
    assert task != ContrastedTask(ONE, 0.2)

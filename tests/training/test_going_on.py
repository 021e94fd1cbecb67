"""What holds old answers: distillation and consolidation against slow plain references, and a head that grows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.errors import BundleProblem
from tunesmith.tasks import Example
from tunesmith.training.consolidation import FILE, MEMORY, Consolidation, measure_fisher
from tunesmith.training.going_on import Distillation, _row_keys, find_parent, keep_knowing
from tunesmith.training.learning import WithBeside
from tunesmith.training.recipe import make_recipe


class Linear(nn.Module):
    """Three numbers in, logits out."""

    def __init__(self, labels: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, labels)

    def forward(self, x):
        return self.layer(x)


class Task:
    """Labels of one kind or of yes and no."""

    name = "stand-in"

    def __init__(self, *, is_binary=False):
        self.is_binary = is_binary

    def labelled_logits(self, model, batch):
        return model(batch["x"]), batch["labels"]

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["labels"], reduction="sum")

    def batch(self, examples, tokenizer):
        x = torch.tensor([example.tokens for example in examples], dtype=torch.float32)
        return {"x": x, "labels": torch.tensor([example.target for example in examples])}


def batch(seed=7, rows=5):
    torch.manual_seed(seed)
    return {"x": torch.randn(rows, 3), "labels": torch.zeros(rows, dtype=torch.long)}


def distillation(teacher, task, *, known, weight, temperature):
    found = Distillation(Path("unused"), task, known, weight, temperature)
    found.__dict__["_teacher"] = teacher
    return found


def softmax(row):
    highest = max(row)
    shares = [math.exp(value - highest) for value in row]
    return [share / sum(shares) for share in shares]


def test_distillation_is_the_divergence_from_the_parents_softened_answers():
    teacher, student, rows = Linear(2, 0), Linear(4, 1), batch()
    found = distillation(teacher, Task(), known=2, weight=0.5, temperature=2.0)(student, rows, [])
    wanted = 0.0
    for old, new in zip(teacher(rows["x"]).tolist(), student(rows["x"]).tolist(), strict=True):
        p, q = softmax([value / 2 for value in old]), softmax([value / 2 for value in new[:2]])
        wanted += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(found.detach()) == pytest.approx(0.5 * 4 * wanted, rel=1e-5)


def test_the_tasks_own_pass_is_used_again():
    teacher, student, rows = Linear(2, 0), Linear(4, 1), batch()
    loss = distillation(teacher, Task(), known=2, weight=0.5, temperature=2.0)
    asked = []
    student.register_forward_hook(lambda *_: asked.append(1))
    both, plain = WithBeside(lambda model, each: (model(each["x"]).sum(),) * 2, loss)(student, rows)
    assert len(asked) == 1
    assert float((both - plain).detach()) == pytest.approx(float(loss(student, rows, []).detach()), rel=1e-5)


def test_distillation_of_the_parent_itself_has_no_slope():
    teacher, rows = Linear(3, 0), batch()
    student = Linear(3, 0)
    loss = distillation(teacher, Task(), known=3, weight=1.0, temperature=2.0)(student, rows, [])
    loss.backward()
    assert abs(float(loss.detach())) < 1e-6
    assert float(student.layer.weight.grad.abs().max()) < 1e-6
    assert teacher.layer.weight.grad is None


class Counting(Linear):
    """Knows how many rows it was asked about."""

    def forward(self, x):
        self.asked = getattr(self, "asked", 0) + len(x)
        return super().forward(x)


def test_the_parent_is_asked_once_about_each_row():
    teacher, student, rows = Counting(2, 0), Linear(4, 1), batch()
    loss = distillation(teacher, Task(), known=2, weight=1.0, temperature=2.0)
    first = loss(student, rows, [])
    examples = [Example(tuple(x), 0) for x in rows["x"].tolist()]
    loss.before_training(examples, None, batch_tokens=6, device=torch.device("cpu"))
    assert teacher.asked == 10
    turned = {name: tensor.flip(0) for name, tensor in rows.items()}
    assert float(loss(student, turned, []).detach()) == pytest.approx(float(first.detach()), rel=1e-5)
    assert teacher.asked == 10
    loss(student, batch(seed=8), [])  # rows that nobody announced
    assert teacher.asked == 15


def test_padding_does_not_make_another_row():
    ids, mask = torch.tensor([[5, 6, 0], [5, 6, 7]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
    labels = torch.zeros(2, dtype=torch.long)
    short, long = _row_keys({"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert short != long
    narrow = {"input_ids": ids[:1, :2], "attention_mask": mask[:1, :2], "labels": labels[:1]}
    assert _row_keys(narrow) == [short]
    assert _row_keys({**narrow, "labels": labels[:1] + 1}) == [short]


def test_units_of_a_row_are_asked_about_in_every_step():
    """Tags: as many labels as words, so that an answer does not belong to a row."""

    class Tags(Task):
        def labelled_logits(self, model, batch):
            return model(batch["x"]).flatten(0, 1), batch["labels"].flatten()

    teacher, student = Counting(2, 0), Linear(4, 1)
    rows = {"x": torch.randn(2, 4, 3), "labels": torch.zeros(2, 4, dtype=torch.long)}
    loss = distillation(teacher, Tags(), known=2, weight=1.0, temperature=2.0)
    first, second = (float(loss(student, rows, []).detach()) for _ in range(2))
    assert first == pytest.approx(second)
    assert teacher.asked == 4


def test_labels_of_yes_and_no_are_distilled_one_by_one():
    teacher, student, rows = Linear(2, 0), Linear(3, 1), batch()
    rows["labels"] = torch.zeros(5, 3)
    found = distillation(teacher, Task(is_binary=True), known=2, weight=1.0, temperature=2.0)(student, rows, [])
    p, x = torch.sigmoid(teacher(rows["x"])), student(rows["x"])[:, :2]
    wanted = -(p * torch.log(torch.sigmoid(x)) + (1 - p) * torch.log(1 - torch.sigmoid(x))).sum() / 2
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_the_fisher_is_the_mean_of_squared_gradients():
    model, task = Linear(3, 2), Task()
    examples = [Example((0.5, -1.0, 2.0), 0), Example((1.0, 0.0, 0.5), 2), Example((0.0, 1.0, 1.0), 1)]
    wanted = torch.zeros(3, 3)
    for example in examples:
        x = np.array(example.tokens)
        p = np.array(softmax(model(torch.tensor(x, dtype=torch.float32)).tolist()))
        p[example.target] -= 1
        wanted += torch.tensor(np.outer(p, x) ** 2) / 3
    found = measure_fisher(model, task, examples, None)
    assert torch.allclose(found["layer.weight"], wanted.float(), atol=1e-6)
    before = {"layer.weight": torch.ones(2, 3), "gone": torch.ones(1)}  # of a head with a row less
    again = measure_fisher(model, task, examples, None, before=before)
    assert torch.allclose(again["layer.weight"][:2], wanted[:2].float() + MEMORY, atol=1e-6)
    assert torch.allclose(again["layer.weight"][2], wanted[2].float(), atol=1e-6)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_consolidation_pulls_back_where_the_fisher_is_large(tmp_path):
    old, model = Linear(2, 0), Linear(3, 1)  # a head that has grown by a row
    save_file({name: value.detach() for name, value in old.named_parameters()}, tmp_path / "model.safetensors")
    torch.manual_seed(3)
    fisher = {"layer.weight": torch.rand(2, 3), "layer.bias": torch.rand(2)}
    save_file(fisher, tmp_path / FILE)
    loss = Consolidation(tmp_path, tmp_path, 10.0)(model, batch(rows=4))
    wanted = sum(
        (fisher[name] * (dict(model.named_parameters())[name][:2] - value) ** 2).sum()
        for name, value in old.named_parameters()
    )
    assert float(loss.detach()) == pytest.approx(float((10.0 / 2 * 4 * wanted).detach()), rel=1e-5)
    loss.backward()
    assert float(model.layer.weight.grad[2].abs().max()) == 0.0, "a new row is free"


def test_a_parent_without_a_fisher_says_what_to_do(tmp_path):
    save_file({"layer.weight": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(BundleProblem, match="does not hold how much each weight matters"):
        Consolidation(tmp_path, tmp_path, 1.0)(Linear(2, 0), batch())


def test_a_run_that_is_not_finished_is_no_parent(tmp_path):
    with pytest.raises(BundleProblem, match="is not there, or is not finished"):
        find_parent(make_recipe({"parent": str(tmp_path)}))
    assert find_parent(make_recipe({})) is None
    assert keep_knowing(make_recipe({}), None, None) is None


def test_the_fisher_of_a_run_is_kept_as_tensors(tmp_path):
    found = measure_fisher(Linear(3, 2), Task(), [Example((0.5, -1.0, 2.0), 0)], None)
    save_file(found, tmp_path / FILE)
    assert {name: tuple(value.shape) for name, value in load_file(tmp_path / FILE).items()} == {
        "layer.weight": (3, 3),
        "layer.bias": (3,),
    }
    assert json.dumps(sorted(found)) == '["layer.bias", "layer.weight"]'

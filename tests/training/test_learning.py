"""The gradient of a fill: plain, of two passes, and adversarial."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tunesmith.models.build import build_model
from tunesmith.tasks.losses import LossShape
from tunesmith.tasks.text_classification import TASK
from tunesmith.training.adversarial import Adversary, FreeLargeBatch, ProjectedGradient, Shifts
from tunesmith.training.learning import Fill, OnePass, ShapedLoss, TaskLoss, TwoPasses, criterion_of

KINDS = {
    "fgm": lambda adversary: ProjectedGradient(adversary),
    "pgd": lambda adversary: ProjectedGradient(adversary, 3),
    "freelb": lambda adversary: FreeLargeBatch(adversary, 3),
}


@pytest.fixture
def model(toy_base):
    return build_model(toy_base, "AutoModelForSequenceClassification", num_labels=3).train()


@pytest.fixture
def batch():
    ids_BT = torch.tensor([[2, 20, 21, 7, 3], [2, 40, 3, 0, 0], [2, 52, 8, 3, 0]])
    return {"input_ids": ids_BT, "attention_mask": (ids_BT > 0).long(), "labels": torch.tensor([0, 1, 2])}


def quiet(model):
    """Take all dropout away."""
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def gradients(model, learning, batch) -> tuple[dict[str, torch.Tensor], float]:
    model.zero_grad()
    loss = learning.learn(Fill(model, batch, lambda loss: loss.backward()))
    assert not loss.requires_grad
    return {name: one.grad.clone() for name, one in model.named_parameters()}, float(loss)


def test_the_plain_options_give_the_tasks_own_loss(model, batch):
    assert criterion_of(TASK, {}) == TaskLoss(TASK)
    assert criterion_of(TASK, {"label_smoothing": 0.0, "class_weights": "none", "r_drop": 0.0}) == TaskLoss(TASK)
    assert criterion_of(TASK, {"label_smoothing": 0.1}) == ShapedLoss(TASK, LossShape(0.1))
    weighted = criterion_of(TASK, {"class_weights": [1.0, 2.0, 3.0], "r_drop": 2.0})
    assert weighted == TwoPasses(TASK, LossShape(class_weights=(1.0, 2.0, 3.0)), 2.0)


def test_a_bent_loss_is_learnt_from_and_the_plain_one_reported(model, batch):
    quiet(model)
    plain, reported = gradients(model, OnePass(TaskLoss(TASK)), batch)
    bent, still = gradients(model, OnePass(ShapedLoss(TASK, LossShape(focal_gamma=2.0))), batch)
    assert still == pytest.approx(reported, rel=1e-6)
    assert not torch.allclose(bent["classifier.weight"], plain["classifier.weight"], rtol=0.1)


def test_two_passes_by_hand(model, batch):
    torch.manual_seed(5)
    first_NL, second_NL = (TASK.logits(model, batch) for _ in range(2))
    assert not torch.equal(first_NL, second_NL)
    losses = [functional.cross_entropy(one, batch["labels"], reduction="sum") for one in (first_NL, second_NL)]
    p, q = first_NL.softmax(1), second_NL.softmax(1)
    apart = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    wanted = (losses[0] + losses[1]) / 2 + 4.0 * apart
    torch.manual_seed(5)
    loss, plain = TwoPasses(TASK, LossShape(), 4.0)(model, batch)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)
    assert float(plain) == pytest.approx(float(losses[0].detach() + losses[1].detach()) / 2, rel=1e-6)
    assert float(apart.detach()) > 1e-6


def test_fgm_by_hand(model, batch):
    """The gradient is the mean of that at the texts and that one radius up the gradient of the embeddings."""
    quiet(model)
    embeddings = model.get_input_embeddings()
    embedded_BTH = embeddings(batch["input_ids"]).detach().requires_grad_()
    mask_BT1 = batch["attention_mask"].unsqueeze(-1)
    inputs = {"attention_mask": batch["attention_mask"]}

    def loss_at(states_BTH):
        logits_BL = model(inputs_embeds=states_BTH, **inputs).logits
        return functional.cross_entropy(logits_BL, batch["labels"], reduction="sum")

    model.zero_grad()
    loss_at(embedded_BTH).backward()
    clean = model.classifier.weight.grad.clone()
    length_B = (embedded_BTH * mask_BT1).detach().flatten(1).norm(dim=1)
    up_BTH = embedded_BTH.grad / embedded_BTH.grad.flatten(1).norm(dim=1).view(-1, 1, 1)
    moved_BTH = embedded_BTH.detach() + 0.3 * length_B.view(-1, 1, 1) * up_BTH
    model.zero_grad()
    loss_at(moved_BTH).backward()
    wanted = (clean + model.classifier.weight.grad) / 2
    found, reported = gradients(model, ProjectedGradient(Adversary(TaskLoss(TASK), model, 0.3)), batch)
    assert torch.allclose(found["classifier.weight"], wanted, atol=1e-6)
    assert reported == pytest.approx(float(loss_at(embedded_BTH.detach()).detach()), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_hooks_are_as_they_were(model, batch, kind):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients(model, KINDS[kind](Adversary(TaskLoss(TASK), model, 0.2)), batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_worse_where_the_texts_are_moved_to_and_never_beyond_the_radius(model, batch, kind, monkeypatch):
    quiet(model)
    seen = []
    real = Adversary.run

    def watched(self, fill, shifts):
        loss, plain = real(self, fill, shifts)
        inside = [
            shift.detach().flatten(1).norm(dim=1) <= radius.flatten() * (1 + 1e-5)
            for shift, radius in zip(shifts.shifts, shifts.radii, strict=True)
        ]
        assert all(bool(one.all()) for one in inside)
        seen.append(float(loss.detach()))
        return loss, plain

    monkeypatch.setattr(Adversary, "run", watched)
    gradients(model, KINDS[kind](Adversary(TaskLoss(TASK), model, 0.2)), batch)
    assert len(seen) == {"fgm": 2, "pgd": 4, "freelb": 3}[kind]
    assert seen[-1] > seen[0]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_radius_it_is_plain_learning(model, batch, kind):
    """All passes share their dropout, so that nothing but rounding is left."""
    torch.manual_seed(7)
    plain, loss = gradients(model, OnePass(TaskLoss(TASK)), batch)
    torch.manual_seed(6)
    if kind == "freelb":
        torch.manual_seed(7)
        torch.randint(2**62, ())  # what the random start draws
        plain, loss = gradients(model, OnePass(TaskLoss(TASK)), batch)
    torch.manual_seed(7)
    found, same = gradients(model, KINDS[kind](Adversary(TaskLoss(TASK), model, 1e-9)), batch)
    assert same == pytest.approx(loss, rel=1e-5)
    for name, gradient in plain.items():
        assert torch.allclose(found[name], gradient, atol=2e-5), name


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_embeddings_are_attacked_too(model, batch, kind):
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    model.zero_grad()
    KINDS[kind](Adversary(TaskLoss(TASK), model, 0.3)).learn(Fill(model, batch, lambda loss: loss.backward()))
    assert float(model.classifier.weight.grad.abs().max()) > 0
    assert model.get_input_embeddings().weight.grad is None


def test_padding_does_not_lengthen_a_texts_radius(model, batch):
    quiet(model)
    narrow = {"input_ids": batch["input_ids"][1:2, :3], "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    wide = {name: batch[name][1:2] for name in ("input_ids", "attention_mask")}
    radii = []
    for one in (narrow, wide):
        shifts = Shifts(model, 0.2)
        with shifts.added(one):
            model(**one)
        radii.append(float(shifts.radii[0]))
    assert radii[0] == pytest.approx(radii[1], rel=1e-6)

"""Mix-up: the loss of mixtures, against plain references."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model
from tunesmith.tasks.losses import LossShape, shaped_loss
from tunesmith.tasks.multi_label_classification import TASK as LABELS
from tunesmith.tasks.text_classification import TASK
from tunesmith.training.adversarial import Adversary, ProjectedGradient
from tunesmith.training.augmentation.mixup import EMBEDDINGS, Mixed, mixing
from tunesmith.training.economy import choose_economy
from tunesmith.training.learning import Fill, OnePass, criterion_of
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe


@pytest.fixture(scope="module")
def model(toy_base):
    return build_model(toy_base, "AutoModelForSequenceClassification", num_labels=3).eval()


@pytest.fixture
def batch():
    ids_BT = torch.tensor([[2, 20, 21, 7, 3], [2, 40, 3, 0, 0], [2, 52, 8, 3, 0], [2, 33, 12, 14, 3]])
    return {"input_ids": ids_BT, "attention_mask": (ids_BT > 0).long(), "labels": torch.tensor([0, 1, 2, 0])}


def drawn(alpha: float, rows: int, seed: int = 3) -> tuple[float, torch.Tensor]:
    """Give the share and the partners that the next mixture has."""
    torch.manual_seed(seed)
    share, order = float(torch.distributions.Beta(alpha, alpha).sample()), torch.randperm(rows)
    torch.manual_seed(seed)
    return share, order


def test_the_plans_entry_makes_it_and_nothing_else_does():
    shape = LossShape(0.1)
    options = {"mixup": {"alpha": 0.4, "at": "pooled"}, "label_smoothing": 0.1}
    assert criterion_of(TASK, options) == Mixed(TASK, shape, 0.4, "pooled")
    assert not isinstance(criterion_of(TASK, {"label_smoothing": 0.1}), Mixed)


@pytest.mark.parametrize("shape", [LossShape(), LossShape(0.2), LossShape(class_weights=(1.0, 2.0, 3.0))], ids=range(3))
@torch.no_grad()
def test_pooled_mixes_what_the_last_layer_reads(model, batch, shape):
    share, order = drawn(0.5, 4)
    loss, plain = Mixed(TASK, shape, 0.5, "pooled")(model, batch)
    read: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    logits_NL = TASK.logits(model, batch)
    hook.remove()
    mixed_NH = share * read[0] + (1 - share) * read[0][order]  # the states themselves, then the layer
    mixed_NL, labels = model.classifier(mixed_NH), batch["labels"]
    wanted = share * shaped_loss(mixed_NL, labels, shape) + (1 - share) * shaped_loss(mixed_NL, labels[order], shape)
    assert 0 < share < 1
    assert order.tolist() != [0, 1, 2, 3]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert plain.item() == pytest.approx(float(functional.cross_entropy(logits_NL, labels, reduction="sum")), rel=1e-5)


@torch.no_grad()
def test_embeddings_are_mixed_position_by_position(model, batch):
    share, order = drawn(0.5, 4)
    loss, reported = Mixed(TASK, LossShape(), 0.5, EMBEDDINGS)(model, batch)
    table, ids_BT, mask_BT = model.get_input_embeddings().weight, batch["input_ids"], batch["attention_mask"]
    mixed_BTH = share * table[ids_BT] + (1 - share) * table[ids_BT[order]]
    both_BT = mask_BT | mask_BT[order]
    logits_NL = model(inputs_embeds=mixed_BTH, attention_mask=both_BT).logits
    losses = [
        functional.cross_entropy(logits_NL, labels, reduction="sum")
        for labels in (batch["labels"], batch["labels"][order])
    ]
    assert loss.item() == pytest.approx(share * float(losses[0]) + (1 - share) * float(losses[1]), rel=1e-5)
    assert reported.item() == pytest.approx(loss.item(), rel=1e-5)
    assert not model.get_input_embeddings()._forward_hooks


@torch.no_grad()
def test_answers_of_yes_and_no_mix_as_their_targets_do(toy_base, batch):
    model = build_model(toy_base, "AutoModelForSequenceClassification", num_labels=3).eval()
    truth_NL = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]])
    share, order = drawn(1.0, 4)
    loss, _ = Mixed(LABELS, LossShape(), 1.0, "pooled")(model, {**batch, "labels": truth_NL})
    logits_NL = LABELS.logits(model, batch)
    mixed_NL = share * logits_NL + (1 - share) * logits_NL[order]
    soft_NL = share * truth_NL + (1 - share) * truth_NL[order]
    wanted = functional.binary_cross_entropy_with_logits(mixed_NL, soft_NL, reduction="sum") / 3
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("at", ["pooled", EMBEDDINGS])
@torch.no_grad()
def test_chance_is_the_seeds_alone(model, batch, at):
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(Mixed(TASK, LossShape(), 0.5, at)(model, batch)[0]))
    assert losses[0] == losses[1] != losses[2]


@torch.no_grad()
def test_a_row_alone_is_mixed_with_itself(model, batch):
    one = {name: tensor[:1] for name, tensor in batch.items()}
    loss, plain = Mixed(TASK, LossShape(), 0.5, "pooled")(model, one)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("at", ["pooled", EMBEDDINGS])
def test_everything_below_learns(model, batch, at):
    model.zero_grad()
    OnePass(Mixed(TASK, LossShape(), 0.5, at)).learn(Fill(model, batch, lambda loss: loss.backward()))
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in model.bert.encoder.layer.parameters())


def test_an_adversary_attacks_the_same_mixture(model, batch):
    torch.manual_seed(0)
    attacked = ProjectedGradient(Adversary(Mixed(TASK, LossShape(), 0.5, "pooled"), model, 1e-6))
    near = float(attacked.learn(Fill(model, batch, lambda loss: None)))
    torch.manual_seed(0)
    assert near == pytest.approx(Mixed(TASK, LossShape(), 0.5, "pooled")(model, batch)[1].item(), rel=1e-3)


def test_hooks_are_gone_when_the_model_fails(model):
    with pytest.raises(RuntimeError), mixing(model, torch.tensor([0]), 0.5):
        raise RuntimeError
    assert not model.get_input_embeddings()._forward_hooks


DECLINED = {
    "twice": ({"augment": "mixup,mixup"}, "it is asked for twice"),
    "r_drop": ({"r_drop": 1.0, "dropout": 0.1}, "r_drop compares two passes of the same texts"),
    "adversarial": (
        {"augment": "mixup:at=embeddings", "adversarial": "fgm"},
        "adversarial training moves the embeddings, too",
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_what_cannot_go_together_is_refused(toy_options, name):
    options, reason = DECLINED[name]
    with pytest.raises(PlanProblem) as caught:
        prepare(make_recipe({**toy_options, "augment": "mixup", **options, "threads": 1}))
    assert caught.value.what.startswith(f"mixup cannot be used here: {reason}")
    assert (caught.value.where, caught.value.do) == ("augment", "leave mixup out of augment")


@pytest.mark.parametrize("method", ["contrastive", "meta", "few-shot"])
def test_methods_with_another_loss_decline(toy_options, method):
    with pytest.raises(PlanProblem):
        prepare(make_recipe({**toy_options, "augment": "mixup", "method": method, "threads": 1}))


def test_mixed_embeddings_leave_no_states_to_keep(toy_options):
    plain = {**toy_options, "method": "top-layers", "top_layers": 1, "threads": 1}
    kept = prepare(make_recipe({**plain, "augment": "mixup"}))
    assert kept.plan.options["prefix_blocks"] == 1
    assert kept.plan.options["mixup"] == {"alpha": 0.2, "at": "pooled"}
    mixed = prepare(make_recipe({**plain, "augment": "mixup:at=embeddings"}))
    assert mixed.plan.options["prefix_blocks"] == 0
    wanted = dataclasses.replace(mixed.recipe, prefix_cache="yes")
    with pytest.raises(PlanProblem, match="mixed embeddings work on the lowest part"):
        choose_economy(wanted, mixed.model, mixed.anatomy, lengths=[5], epochs=2)

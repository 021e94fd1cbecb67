"""The block that averages gives the mean, and an ordinary block with its weights gives the same."""

from __future__ import annotations

import pytest
import torch
import transformers

from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.mean_block import add_mean_block, why_not

_SIZES = {
    "vocab_size": 70,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "num_labels": 3,
    "pad_token_id": 0,
}
MAKERS = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**_SIZES)),
    "roberta": lambda: transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**_SIZES)),
}


def make(family: str):
    torch.manual_seed(0)
    return MAKERS[family]().eval()


def inputs(*, is_padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 60, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if is_padded:
        ids[1, 4:], mask[1, 4:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("is_padded", [True, False])
@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_it_hands_the_mean_to_the_first_token(family, attention, is_padded):
    model, given = make(family), inputs(is_padded=is_padded)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        states_BTH, mask_BT1 = model.base_model(**given).last_hidden_state, given["attention_mask"].unsqueeze(-1)
        mean_BH = (states_BTH * mask_BT1).sum(1) / mask_BT1.sum(1)
        wanted_BH = torch.nn.functional.layer_norm(mean_BH, (16,))
        add_mean_block(model, find_anatomy(model))
        found_BH = model.base_model(**given).last_hidden_state[:, 0]
    # A thousandth of what the first token had by itself stays in it.
    assert torch.allclose(found_BH / 0.01, wanted_BH, atol=0.01)


@pytest.mark.parametrize("family", MAKERS)
def test_an_ordinary_block_with_its_weights_answers_alike(family, tmp_path):
    model, given = make(family), inputs()
    add_mean_block(model, find_anatomy(model))
    torch.nn.init.normal_([one for one in model.modules() if isinstance(one, torch.nn.Linear)][-1].weight, std=10.0)
    model.save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path).eval()
    assert plain.config.num_hidden_layers == 3
    assert type(plain.base_model.encoder.layer[-1]) is type(plain.base_model.encoder.layer[0])
    with torch.no_grad():
        mine, theirs = model(**given).logits, plain(**given).logits
    assert mine.abs().max() > 0.1
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_nothing_of_it_learns_and_the_gradient_goes_through():
    model = make("bert")
    anatomy = find_anatomy(model)
    block = add_mean_block(model, anatomy)
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert not model.base_model.pooler.dense.weight.requires_grad
    model(**inputs()).logits.square().sum().backward()
    assert anatomy.blocks[-1].output.dense.weight.grad.abs().max() > 0


def test_what_the_head_reads_is_the_mean_itself():
    """Pooler and tanh stand between block and head; for so small numbers they change next to nothing."""
    model, seen = make("bert"), []
    add_mean_block(model, find_anatomy(model))
    model.classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(**inputs())
        states_BH = model.base_model(**inputs()).last_hidden_state[:, 0]
    assert torch.allclose(seen[0], states_BH, rtol=1e-3)


def test_other_families_are_declined_with_a_reason():
    config = transformers.DistilBertConfig(vocab_size=70, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    other = find_anatomy(transformers.DistilBertForSequenceClassification(config))
    assert why_not(other) == "the blocks of distilbert are not those of bert, roberta, xlm-roberta, camembert"
    assert why_not(find_anatomy(make("bert"))) is None

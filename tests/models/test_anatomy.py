"""Blocks, body and head of several families are told apart."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from tunesmith.errors import ModelProblem, PlanProblem
from tunesmith.methods import full, top_layers
from tunesmith.models.anatomy import Anatomy, find_anatomy, output_layer, trainable_share

NARROW = {
    "vocab_size": 70,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**NARROW, num_labels=5),
    "roberta": lambda: transformers.RobertaConfig(**NARROW, num_labels=5),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=70, dim=16, n_layers=3, n_heads=2, hidden_dim=24, num_labels=5
    ),
    "electra": lambda: transformers.ElectraConfig(**NARROW, embedding_size=8, num_labels=5),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=70, n_embd=16, n_layer=3, n_head=2, pad_token_id=0, num_labels=5
    ),
}


@pytest.fixture(params=CONFIGS)
def model(request) -> nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(CONFIGS[request.param]()).eval()


def test_body_blocks_and_head_make_the_model(model):
    anatomy = find_anatomy(model)
    assert len(anatomy.blocks) == 3
    assert len({type(block) for block in anatomy.blocks}) == 1
    assert anatomy.hidden == 16
    assert anatomy.embeddings.num_embeddings == 70
    body = {id(parameter) for parameter in anatomy.body.parameters()}
    head = {id(parameter) for part in anatomy.head for parameter in part.parameters()}
    assert head
    assert not body & head
    assert body | head == {id(parameter) for parameter in model.parameters()}


def test_the_output_layer_gives_the_logits(model):
    layer = output_layer(find_anatomy(model))
    assert layer.out_features == 5
    ids = torch.randint(5, 60, (2, 6))
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        layer.weight.div_(2.0)
        if layer.bias is not None:
            layer.bias.div_(2.0)
        after = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(after, before / 2, atol=1e-6), "dividing it by a temperature divides the logits"


def free_blocks(anatomy: Anatomy) -> list[bool]:
    return [all(parameter.requires_grad for parameter in block.parameters()) for block in anatomy.blocks]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_top_layers_frees_the_top(model, count):
    anatomy = find_anatomy(model)
    assert top_layers.apply(model, anatomy, {"top_layers": count}) is model
    assert free_blocks(anatomy) == [index >= 3 - count for index in range(3)]
    assert all(parameter.requires_grad for part in anatomy.head for parameter in part.parameters())
    assert not anatomy.embeddings.weight.requires_grad
    pooler = getattr(anatomy.body, "pooler", None)
    assert pooler is None or all(parameter.requires_grad is (count > 0) for parameter in pooler.parameters())
    assert 0 < trainable_share(model) < 1


@pytest.mark.parametrize("count", [-1, 4])
def test_more_top_layers_than_blocks_is_refused(model, count):
    with pytest.raises(PlanProblem) as caught:
        top_layers.apply(model, find_anatomy(model), {"top_layers": count})
    assert str(caught.value) == (
        f"PlanProblem: top_layers is {count}; this model has 3 blocks\n"
        "  where: top_layers\n"
        "  do:    choose 0 (a linear probe) to 3"
    )


def test_full_frees_everything(model):
    anatomy = find_anatomy(model)
    model.requires_grad_(False)
    assert trainable_share(model) == 0
    full.apply(model, anatomy, {})
    assert trainable_share(model) == 1
    assert full.why_not("text-classification", anatomy) is None


def test_the_default_rate_falls_with_the_width():
    nothing = nn.Identity()
    rates = [
        full.default_learning_rate(Anatomy(nothing, nothing, (), (), hidden)) for hidden in (8, 384, 768, 1024, 10**6)
    ]
    assert rates[1:4] == pytest.approx([1e-4, 5e-5, 3.75e-5])
    assert (rates[0], rates[-1]) == (1e-3, 1e-5)


def test_a_model_without_head_has_blocks_all_the_same():
    anatomy = find_anatomy(transformers.BertModel(CONFIGS["bert"]()))
    assert anatomy.head == ()
    assert len(anatomy.blocks) == 3


def test_a_pooler_that_starts_as_the_identity_is_fresh_and_a_trained_one_is_not():
    model = transformers.BertForSequenceClassification(CONFIGS["bert"]())
    assert find_anatomy(model).fresh == (model.classifier,)
    nn.init.eye_(model.bert.pooler.dense.weight)
    assert find_anatomy(model).fresh == (model.classifier, model.bert.pooler)
    assert find_anatomy(model, has_fresh_head=False).fresh == (model.bert.pooler,)


def test_an_encoder_decoder_has_two_stacks():
    config = transformers.T5Config(
        vocab_size=70, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_decoder_layers=2, num_heads=2
    )
    anatomy = find_anatomy(transformers.T5ForConditionalGeneration(config))
    assert [len(stack) for stack in anatomy.stacks] == [3, 2]
    assert anatomy.is_encoder_decoder
    assert not anatomy.is_decoder


def test_a_head_without_linear_layer_is_refused():
    nothing = nn.Identity()
    with pytest.raises(ModelProblem, match="the head has no linear layer"):
        output_layer(Anatomy(nothing, nothing, (), (nothing,), 8))

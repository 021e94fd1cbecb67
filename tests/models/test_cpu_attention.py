"""Products in bf16 where a CPU has units for them, and attention in float32 beside them."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from tunesmith.models.cpu_attention import cpu_attention
from tunesmith.models.matrix_units import in_bf16

BERT = {
    "vocab_size": 70,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = transformers.BertConfig(**BERT, num_labels=3)
    return transformers.BertForSequenceClassification(config)


@pytest.fixture
def batch():
    ids = torch.randint(5, 60, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1, 2, 1])}


def test_without_autocast_nothing_changes(model, batch):
    plain = model(**batch).logits
    with cpu_attention(model):
        assert torch.equal(model(**batch).logits, plain)


def test_attention_computes_in_float32_and_hands_on_what_it_was_given(model, batch, monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def note(query, *others, **settings):
        seen.append(query.dtype)
        return attend(query, *others, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    with in_bf16(model):
        logits = model(**batch).logits
    assert seen == [torch.float32, torch.float32]
    assert logits.dtype == torch.bfloat16  # the products around it were in bf16
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**batch)
    assert seen == [torch.bfloat16, torch.bfloat16]  # afterwards the model is as it was


def test_gradients_are_those_of_float32_up_to_the_rounding_of_bf16(model, batch):
    exact, rounded = copy.deepcopy(model), model
    exact(**batch).loss.backward()
    with in_bf16(rounded):
        loss = rounded(**batch).loss
    loss.backward()
    for (name, one), other in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        if one.grad is not None:
            assert other.grad.dtype == torch.float32
            assert (one.grad - other.grad).norm() <= 0.05 * one.grad.norm() + 1e-6, name


def test_another_kind_of_attention_is_left_alone():
    config = transformers.BertConfig(**BERT)
    model = transformers.BertForSequenceClassification._from_config(config, attn_implementation="eager")
    with cpu_attention(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


def test_the_model_is_as_it_was_after_a_fault(model):
    with pytest.raises(KeyError), cpu_attention(model):
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("has_mask", [True, False])
def test_with_dropout_it_attends_as_torch_does_on_average(has_mask):
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**BERT, "attention_probs_dropout_prob": 0.3}, num_labels=3)
    model = transformers.BertModel(config, add_pooling_layer=False)
    ids = torch.randint(5, 60, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    given = {"input_ids": ids, "attention_mask": mask if has_mask else None}

    def mean_state() -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([model(**given).last_hidden_state for _ in range(400)]).mean(0)[mask.bool()]

    model.eval()
    with torch.no_grad():
        still = model(**given).last_hidden_state[mask.bool()]
    model.train()
    plain = mean_state()
    with cpu_attention(model):
        quick = mean_state()
    noise = float((plain - still).abs().mean())
    assert 0 < float((quick - plain).abs().mean()) < max(0.02, 2 * noise)


def test_a_causal_model_with_dropout_looks_at_nothing_later():
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 70, "n_positions": 32}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0)
    )
    ids = torch.randint(5, 60, (2, 9))
    other = ids.clone()
    other[:, 5:] = 7
    with cpu_attention(model):
        first, second = ((torch.manual_seed(2), model(input_ids=each).logits[:, :5])[1] for each in (ids, other))
    assert torch.allclose(first, second, atol=1e-6)

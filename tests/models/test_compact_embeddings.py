"""A table of the rows in use: training ends with the same weights."""

from __future__ import annotations

import pytest
import torch
import transformers

from tunesmith.models.compact_embeddings import CompactEmbedding, compacted, ids_in_use, why_not

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def make(cls=transformers.BertForSequenceClassification):
    torch.manual_seed(0)
    return cls(transformers.BertConfig(vocab_size=50, **SHAPE)).eval()


def optimizers(parameters, name):
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


def learn(model, name: str) -> None:
    optimizer = optimizers(model.parameters(), name)
    for step in range(8):
        ids = torch.tensor([[3, 9, 4 + step % 3, 0], [7, 8, 9, 3]])
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
        model(input_ids=ids, attention_mask=mask, labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_weights_end_the_same(name):
    whole, model = make(), make()
    learn(whole, name)
    table = model.get_input_embeddings()
    with compacted(model, torch.tensor([3, 4, 5, 6, 7, 8, 9])) as is_compact:
        assert is_compact
        assert len(model.get_input_embeddings().weight) == 7 + 1 + 1  # the padding row, and the row of ones
        learn(model, name)
    assert model.get_input_embeddings() is table
    for key, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[key], atol=1e-6), key
    rows = model.get_input_embeddings().weight
    assert not torch.allclose(rows[20], make().get_input_embeddings().weight[20], rtol=1e-3)  # decay did reach it


def test_the_table_is_put_back_when_training_breaks_off():
    model = make()
    before = model.get_input_embeddings().weight.clone()
    with pytest.raises(KeyboardInterrupt), compacted(model, torch.tensor([3, 4])):
        raise KeyboardInterrupt
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_table_that_is_mostly_in_use_stays_whole():
    model = make()
    with compacted(model, torch.arange(45)) as is_compact:
        assert not is_compact
        assert type(model.get_input_embeddings()) is torch.nn.Embedding


def test_an_id_that_is_not_in_use_is_refused():
    table = CompactEmbedding(torch.nn.Embedding(10, 4, padding_idx=0), torch.tensor([0, 3]))
    assert table(torch.tensor([[3, 0]])).shape == (1, 2, 4)
    with pytest.raises(IndexError):
        table(torch.tensor([[4]]))


def test_why_a_table_stays_whole():
    assert why_not(make(), "adamw") is None
    assert "output layer" in why_not(make(transformers.BertForMaskedLM), "adamw")
    assert "adafactor" in why_not(make(), "adafactor")
    assert "not trained" in why_not(make().requires_grad_(False), "adamw")


def test_ids_of_every_kind_of_batch_count():
    batches = [
        {"input_ids": torch.tensor([[5, 3]]), "labels": torch.tensor([9])},
        {"second_input_ids": torch.tensor([7])},
    ]
    assert ids_in_use(batches).tolist() == [3, 5, 7]
    assert ids_in_use([]).tolist() == []

"""How much a unit matters: the slope of the loss by its presence, summed over the rows without regard to its sign."""

from __future__ import annotations

import pytest
import torch
import transformers

from tunesmith.compression.importance import importance
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.narrow import HEADS, WIDTH, find_units
from tunesmith.tasks import Example
from tunesmith.tasks.text_classification import TASK

ROWS = [Example((1, 5, 9, 2), 0), Example((1, 7, 2), 1), Example((1, 3, 3, 8, 2), 1)]


class Filler:
    pad_token_id = 0


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        initializer_range=0.3,
    )
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        num_labels=2,
    )
    return transformers.LlamaForSequenceClassification(config).eval()


def found(model, **options):
    units = find_units(model, find_anatomy(model))
    return units, importance(model, units, ROWS, task=TASK, tokenizer=Filler(), **options)


def slope(model, units, unit, example, step=1e-2):
    """Give by how much a row's loss changes with the presence of a unit, by taking a little of it away."""
    losses = []
    columns = slice(unit * units.size, (unit + 1) * units.size)
    kept = units.down.weight.detach().clone()
    for factor in (1 + step, 1 - step):
        with torch.no_grad():
            units.down.weight[:, columns] = kept[:, columns] * factor
            losses.append(TASK.loss(model, TASK.batch([example], Filler())).item())
    with torch.no_grad():
        units.down.weight.copy_(kept)
    return (losses[0] - losses[1]) / (2 * step)


def test_channels_are_ranked_by_slopes_of_single_rows(bert):
    bert = bert.double()
    units, scores = found(bert)
    assert [one.kind for one in units] == [WIDTH, WIDTH]
    for place, unit in ((0, 3), (1, 17)):
        wanted = sum(abs(slope(bert, units[place], unit, example)) for example in ROWS)
        assert float(scores[place][unit]) == pytest.approx(wanted, rel=1e-2)


def test_heads_are_ranked_with_what_shares_their_key(llama):
    llama = llama.double()
    units, scores = found(llama)
    assert [one.kind for one in units] == [WIDTH, HEADS]
    wanted = sum(abs(slope(llama, units[1], 1, example)) for example in ROWS)
    assert scores[1].shape == (2,)
    assert float(scores[1][1]) == pytest.approx(wanted, rel=1e-2)


def test_a_unit_that_nobody_reads_does_not_matter(bert):
    units = find_units(bert, find_anatomy(bert))
    with torch.no_grad():
        units[0].down.weight[:, 5] = 0
    _, scores = found(bert)
    assert float(scores[0][5]) == 0
    assert int((scores[0] > 0).sum()) == 23


def test_rows_together_matter_as_much_as_alone_and_the_model_is_as_before(bert):
    before = {name: one.clone() for name, one in bert.state_dict().items()}
    _, together = found(bert)
    _, alone = found(bert, batch_tokens=1)
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-7)
    assert all(torch.equal(one, bert.state_dict()[name]) for name, one in before.items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in bert.parameters())

"""Parts that leave a model: what is left answers as before where they did nothing, and plain Transformers loads it."""

from __future__ import annotations

import pytest
import torch
import transformers

from tunesmith.errors import ModelProblem
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.build import quiet
from tunesmith.models.narrow import (
    HEADS,
    WIDTH,
    demand_plain,
    find_units,
    keep_blocks,
    kept_count,
    narrow,
    read_width,
    why_no_heads,
)

IDS = torch.tensor([[5, 9, 30, 7], [8, 8, 3, 2]])
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(**SIZES, intermediate_size=64, pad_token_id=0)
    ),
    "distilbert": lambda: transformers.DistilBertForTokenClassification(
        transformers.DistilBertConfig(vocab_size=40, dim=32, n_layers=3, n_heads=4, hidden_dim=64)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=80, **ENDS)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**SIZES, num_key_value_heads=4, intermediate_size=80, **ENDS)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    ),
}


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def answers(model):
    inputs = {"input_ids": IDS}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = IDS
    with torch.no_grad():
        return model(**inputs).logits


def chosen(model, share):
    """Give random units that stay, and let those that leave say nothing."""
    found = []
    for units in find_units(model, find_anatomy(model)):
        kept = torch.randperm(units.count)[: kept_count(units.count, share, kind=units.kind)].sort().values
        gone = torch.tensor([unit for unit in range(units.count) if unit not in kept.tolist()], dtype=torch.long)
        columns = (gone.unsqueeze(1) * units.size + torch.arange(units.size)).flatten()
        with torch.no_grad():
            weight = units.down.weight if isinstance(units.down, torch.nn.Linear) else units.down.weight.T
            weight[:, columns] = 0
        found.append((units, kept))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_units_that_say_nothing_leave_without_a_trace(name, tmp_path):
    model = made(name)
    parts = chosen(model, 0.4)
    before, size = answers(model), sum(one.numel() for one in model.parameters())
    narrow(model, parts)
    assert torch.allclose(answers(model), before, atol=1e-5)
    assert sum(one.numel() for one in model.parameters()) < size
    for units, kept in parts:
        assert read_width(units.down) == len(kept) * (read_width(units.down) // len(kept))
    with quiet():
        model.save_pretrained(tmp_path)
        again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(answers(again.eval()), answers(model))


@pytest.mark.parametrize(("name", "kinds"), [("bert", {WIDTH}), ("llama", {WIDTH, HEADS}), ("t5", {WIDTH})])
def test_what_may_leave_depends_on_what_a_configuration_can_say(name, kinds):
    model = made(name)
    found = find_units(model, find_anatomy(model))
    assert {units.kind for units in found} == kinds
    assert "'bert' has no entry for how wide a head is" in why_no_heads(made("bert"))
    if name == "llama":
        heads = next(units for units in found if units.kind == HEADS)
        assert (heads.count, heads.size) == (2, 16), "two heads of 8 share a key and leave together"


def test_heads_leave_with_their_keys_and_values():
    model = made("llama")
    narrow(model, chosen(model, 0.5))
    config = model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)
    assert config.intermediate_size == 40


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "llama"])
def test_blocks_leave_and_the_rest_moves_up(name, tmp_path):
    model = made(name)
    anatomy = find_anatomy(model)
    keep_blocks(model, anatomy, [0, 2])
    assert find_anatomy(model).blocks == (anatomy.blocks[0], anatomy.blocks[2])
    with quiet():
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(answers(again), answers(model))
    assert again.config.num_hidden_layers == 2


def test_a_model_of_two_stacks_is_not_shortened():
    model = made("t5")
    with pytest.raises(ModelProblem, match="T5ForConditionalGeneration has 2 stacks of blocks"):
        keep_blocks(model, find_anatomy(model), [0])


def test_what_plain_transformers_could_not_load_is_refused():
    model = made("bert")
    layer = model.bert.encoder.layer[0].intermediate.dense
    layer.weight = torch.nn.Parameter(layer.weight[:40])
    with pytest.raises(ModelProblem, match=r"layer\.0\.intermediate\.dense\.weight would have another shape"):
        demand_plain(model)


def test_parts_that_cannot_be_told_apart_stay():
    config = transformers.BertConfig(**SIZES, intermediate_size=32)  # as wide as the states
    model = transformers.BertForSequenceClassification(config)
    assert find_units(model, find_anatomy(model)) == []


@pytest.mark.parametrize(
    ("count", "share", "kind", "left"),
    [(1536, 0.45, WIDTH, 848), (64, 0.99, WIDTH, 8), (12, 0.3, HEADS, 8), (2, 0.9, HEADS, 1), (10, 0.5, WIDTH, 5)],
)
def test_channels_stay_in_strides_and_something_always_stays(count, share, kind, left):
    assert kept_count(count, share, kind=kind) == left

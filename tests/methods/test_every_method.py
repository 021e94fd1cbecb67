"""Every method on every family: only its own parts change, it merges, it moves elsewhere, plain PEFT loads it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import families
import peft
import pytest
import torch
from safetensors.torch import save_file

from tunesmith.methods import METHODS, find_method
from tunesmith.methods.delta import put_adapter, take_adapter
from tunesmith.models.anatomy import find_anatomy, linear_layers, trainable_share

OURS = [name for name in METHODS if "merge" in find_method(name).OPTIONS]  # what they learn can be kept apart
DECLINED = {
    *(("bitfit", "t5"), ("ia3", "distilbert"), ("prefix", "distilbert"), ("prompt", "gpt2")),
    *((method, family) for method in ("prefix", "prompt") for family in ("bart", "t5")),
}
PAIRS = [(method, family) for method in OURS for family in families.MAKERS]


def adapted(name: str, family: str):
    """Give base, model with the method on it and trained, its anatomy and the method."""
    base = families.make(family)
    model = copy.deepcopy(base)
    anatomy = find_anatomy(model, has_fresh_head=family in families.FRESH)
    method = find_method(name)
    torch.manual_seed(0)
    model = method.apply(model, anatomy, families.OPTIONS).eval()
    families.train(model, family, method)
    return base, model, anatomy, method


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_method_declines_in_a_sentence_where_it_cannot_serve(name, family):
    reason = find_method(name).why_not("any", find_anatomy(families.make(family)))
    assert (reason is not None) == ((name, family) in DECLINED)
    assert reason is None or len(reason) > 30


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair not in DECLINED])
def test_only_its_own_parts_change(name, family):
    base, model, anatomy, _ = adapted(name, family)
    free = {id(one) for one in model.parameters() if one.requires_grad}
    fresh = {id(one) for part in anatomy.fresh for one in part.parameters()}
    assert fresh <= free
    assert bool(fresh) == (family in families.FRESH)
    assert 0 < trainable_share(model) < 0.5
    own = {name: one for name, one in model.named_parameters() if not one.requires_grad and ".ranknum." not in name}
    theirs = dict(base.named_parameters())
    for label, parameter in own.items():
        plain = label.replace(".base_layer.", ".")
        plain = plain if plain in theirs else plain.replace(".layer.weight", ".weight").replace(".layer.bias", ".bias")
        assert torch.equal(parameter, theirs[plain]), label


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair not in DECLINED])
def test_what_was_learnt_moves_to_another_model_bit_for_bit(name, family):
    base, model, anatomy, method = adapted(name, family)
    adapter = take_adapter(method, model, anatomy)
    other = copy.deepcopy(base)
    other_anatomy = find_anatomy(other, has_fresh_head=family in families.FRESH)
    other = method.apply(other, other_anatomy, families.OPTIONS).eval()
    with torch.no_grad():
        assert not torch.equal(families.logits(model, family), families.logits(other, family))
        kept = {name: tensor.detach().clone() for name, tensor in adapter.tensors.items()}
        assert put_adapter(take_adapter(method, other, other_anatomy), kept) == []
        assert torch.equal(families.logits(model, family), families.logits(other, family))
    assert put_adapter(adapter, {}) == sorted(adapter.tensors)


@pytest.mark.parametrize(
    ("name", "family"), [pair for pair in PAIRS if pair not in DECLINED and hasattr(find_method(pair[0]), "merge")]
)
def test_merged_and_apart_agree(name, family):
    base, model, _, method = adapted(name, family)
    with torch.no_grad():
        apart = families.logits(model, family)
        merged = method.merge(model)
        assert (families.logits(merged, family) - apart).abs().max() < 1e-5
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert type(merged) is type(base)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks Transformers for a property by its old name
@pytest.mark.parametrize(
    ("name", "family"), [pair for pair in PAIRS if pair not in DECLINED and pair[0] not in {"bitfit", "adapter"}]
)
def test_plain_peft_loads_it_with_the_same_answers(name, family, tmp_path):
    base, model, anatomy, method = adapted(name, family)
    adapter = take_adapter(method, model, anatomy)
    save_file(
        {label: one.detach().contiguous() for label, one in adapter.tensors.items()},
        tmp_path / "adapter_model.safetensors",
    )
    Path(tmp_path / "adapter_config.json").write_text(json.dumps(adapter.config), encoding="utf-8")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        found, mine = families.logits(theirs, family), families.logits(model, family)
    found = found[:, -mine.shape[1] :] if found.dim() == 3 else found  # PEFT gives the virtual tokens' logits too
    assert torch.equal(found, mine)


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair not in DECLINED and pair[1] != "t5"])
def test_a_text_alone_gets_the_answer_that_it_gets_in_a_batch(name, family):
    _, model, _, _ = adapted(name, family)
    given = {label: tensor[1:2] for label, tensor in families.inputs(family).items()}
    given = {label: tensor if label.startswith("decoder") else tensor[:, :5] for label, tensor in given.items()}
    with torch.no_grad():
        together, alone = families.logits(model, family)[1:2], model(**given).logits
    together = together[:, : alone.shape[1]] if together.dim() == 3 else together
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("name", OURS)
def test_a_decoder_writes_what_its_logits_say_whatever_stands_beside_it(name):
    _, model, _, _ = adapted(name, "gpt2-writing")
    ids = families.inputs("gpt2-writing")["input_ids"]
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids[:1, :5]], 1)
    together = model.generate(
        torch.cat([padded, ids[:1]]), attention_mask=torch.cat([padded, ids[:1]]).ne(0).long(), **settings
    )
    alone = ids[:1, :5]
    with torch.no_grad():
        for _ in range(4):
            alone = torch.cat([alone, model(alone, attention_mask=torch.ones_like(alone)).logits[:, -1:].argmax(-1)], 1)
    assert together[0, -4:].tolist() == alone[0, -4:].tolist()


@pytest.mark.parametrize("family", families.MAKERS)
def test_linear_layers_are_those_of_all_blocks_and_never_the_head(family):
    model = families.make(family)
    anatomy = find_anatomy(model)
    count = {"bert": 12, "bert-tokens": 12, "distilbert": 12, "gpt2": 8, "gpt2-writing": 8, "bart": 22, "t5": 32}
    assert len(linear_layers(model, anatomy)) == count[family]
    heads = {id(part) for head in anatomy.head for part in head.modules()}
    assert not heads & {id(layer) for layer in linear_layers(model, anatomy).values()}

"""Frozen blocks that run once: the same numbers, less work, never those of another text or model."""

from __future__ import annotations

import pytest
import torch
import transformers

from tunesmith.methods import find_method
from tunesmith.models.anatomy import find_anatomy
from tunesmith.models.prefix_cache import FrozenPrefix, States, fingerprint, frozen_blocks, keys_of, tokens_of

SMALL = {"vocab_size": 60, "num_labels": 3}
WIDE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
FAMILIES = {
    "bert": {**SMALL, **WIDE},
    "roberta": {**SMALL, **WIDE, "pad_token_id": 0, "max_position_embeddings": 40},
    "electra": {**SMALL, **WIDE, "embedding_size": 8},
    "distilbert": {**SMALL, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24},
    "gpt2": {**SMALL, "n_embd": 16, "n_layer": 3, "n_head": 2, "pad_token_id": 0},
    "modernbert": {**SMALL, **WIDE, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8},
    "llama": {**SMALL, **WIDE, "num_key_value_heads": 2, "pad_token_id": 0},
}


def make(family: str, free: int):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    config.attn_implementation = "sdpa"
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    anatomy = find_anatomy(model)
    find_method("top-layers").apply(model, anatomy, {"top_layers": free})
    return model, anatomy


def padded(*lengths: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 60, (length,), generator=generator)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask}


def part_of(batch, rows, tokens):
    return {name: tensor[rows, :tokens] for name, tensor in batch.items()}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("free", [0, 1, 2])
def test_answers_and_gradients_are_those_of_the_whole_model(family, free, tmp_path):
    model, anatomy = make(family, free)
    whole = padded(9, 7, 7, 4)
    few = part_of(whole, [2, 3], 7)  # other company, other padding
    expected = model(**few).logits
    expected.square().sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    with FrozenPrefix(anatomy, 3 - free, States(tmp_path / "s.f32", anatomy.hidden)) as prefix:
        prefix.remember(lambda: model(**whole))
        assert len(prefix.states) == 4
        for block in anatomy.blocks[: 3 - free]:
            for parameter in block.parameters():
                parameter.data.fill_(float("nan"))  # if a frozen block still ran, it would show
        found = model(**few).logits
        found.square().sum().backward()
    assert torch.allclose(found, expected, atol=1e-6)
    assert wanted.keys() == gradients(model).keys()
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradient, wanted[name], atol=1e-5), name


def test_a_batch_with_an_unknown_text_runs_in_full(tmp_path):
    model, anatomy = make("bert", 1)
    known, other = padded(6, 5), {"input_ids": torch.tensor([[9, 8, 7]]), "attention_mask": torch.ones(1, 3).long()}
    expected = model(**other).logits
    with FrozenPrefix(anatomy, 2, States(tmp_path / "s.f32", anatomy.hidden)) as prefix:
        prefix.remember(lambda: model(**known))
        assert torch.equal(model(**other).logits, expected)


def test_the_frozen_part_has_no_dropout_and_the_rest_keeps_its_own(tmp_path):
    model, anatomy = make("bert", 1)
    batch = padded(6, 5)
    with FrozenPrefix(anatomy, 2, States(tmp_path / "s.f32", anatomy.hidden)):
        model.train()
        seen = []
        hook = anatomy.blocks[2].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        answers = [model(**batch).logits for _ in range(2)]
        hook.remove()
    assert torch.equal(*seen)
    assert not torch.equal(*answers)


def test_outside_the_model_is_as_it_was(tmp_path):
    _, anatomy = make("bert", 1)
    before = [block.forward for block in anatomy.blocks]
    with FrozenPrefix(anatomy, 2, States(tmp_path / "s.f32", anatomy.hidden)):
        pass
    assert [block.forward for block in anatomy.blocks] == before
    assert not anatomy.body._forward_pre_hooks


def test_states_are_read_again_by_another_process(tmp_path):
    model, anatomy = make("bert", 1)
    batch = padded(6, 5)
    expected = model(**batch).logits
    with FrozenPrefix(anatomy, 2, States(tmp_path / "s.f32", anatomy.hidden)) as prefix:
        prefix.remember(lambda: model(**batch))
    again = States(tmp_path / "s.f32", anatomy.hidden)
    assert again.is_whole
    with FrozenPrefix(anatomy, 2, again):
        assert torch.allclose(model(**batch).logits, expected, atol=1e-6)
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_breaks_off_leaves_nothing(tmp_path):
    model, anatomy = make("bert", 1)

    def broken():
        model(**padded(4, 3))
        raise KeyboardInterrupt

    prefix = FrozenPrefix(anatomy, 2, States(tmp_path / "s.f32", anatomy.hidden))
    with prefix, pytest.raises(KeyboardInterrupt):
        prefix.remember(broken)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_states_without_its_index_is_not_whole(tmp_path):
    (tmp_path / "s.f32").write_bytes(b"half of it")
    assert not States(tmp_path / "s.f32", 16).is_whole


def test_no_more_is_kept_than_may_be(tmp_path):
    model, anatomy = make("bert", 1)
    states = States(tmp_path / "s.f32", anatomy.hidden, most_bytes=10 * anatomy.hidden * 4)
    batch = padded(6, 5, 4)
    expected = model(**batch).logits
    with FrozenPrefix(anatomy, 2, states) as prefix:
        prefix.remember(lambda: model(**batch))
        assert torch.allclose(model(**batch).logits, expected, atol=1e-6)
    assert len(states) == 2  # of 6 and of 4 tokens
    assert (tmp_path / "s.f32").stat().st_size <= states.most_bytes


def test_a_text_is_told_by_its_ids_its_segments_and_nothing_else():
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    first, second = keys_of((), {"input_ids": ids, "attention_mask": mask})
    assert first != second
    assert (tokens_of(first), tokens_of(second)) == (3, 2)
    assert keys_of((ids[:1, :3],), {}) == [first]
    assert keys_of((), {"input_ids": ids[:1], "attention_mask": mask[:1], "token_type_ids": mask[:1] * 0}) == [first]
    assert keys_of((), {"input_ids": ids[:1], "attention_mask": mask[:1], "token_type_ids": mask[:1]}) != [first]


@pytest.mark.parametrize(
    "named",
    [
        {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.tensor([[0, 1, 1]])},
        {"input_ids": torch.ones(1, 3).long(), "position_ids": torch.tensor([[4, 5, 6]])},
        {"input_ids": torch.ones(1, 3).long(), "past_key_values": object()},
        {"inputs_embeds": torch.ones(1, 3, 2)},
    ],
)
def test_what_is_more_than_padded_texts_is_not_remembered(named):
    assert keys_of((), named) == []


def test_states_belong_to_weights_and_texts():
    _, anatomy = make("bert", 1)
    name = fingerprint(anatomy, 2, [(1, 2), (3,)])
    assert fingerprint(anatomy, 2, [(1, 2), (3,)]) == name
    assert fingerprint(anatomy, 2, [(1,), (2, 3)]) != name
    assert fingerprint(anatomy, 1, [(1, 2), (3,)]) != name
    with torch.no_grad():
        next(anatomy.blocks[2].parameters()).add_(1)
    assert fingerprint(anatomy, 2, [(1, 2), (3,)]) == name  # above the frozen blocks
    with torch.no_grad():
        next(anatomy.blocks[1].parameters()).add_(1)
    assert fingerprint(anatomy, 2, [(1, 2), (3,)]) != name


def test_how_many_blocks_are_frozen():
    for free in (0, 1, 3):
        _, anatomy = make("bert", free)
        assert frozen_blocks(anatomy) == 3 - free
    model, anatomy = make("bert", 1)
    model.bert.embeddings.position_embeddings.requires_grad_(True)
    assert frozen_blocks(anatomy) == 0
    model, anatomy = make("bert", 1)
    model.requires_grad_(True)
    assert frozen_blocks(anatomy) == 0
    model, anatomy = make("gpt2", 2)
    assert frozen_blocks(anatomy) == 1

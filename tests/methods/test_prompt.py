"""Virtual tokens: real tokens' embeddings at first, room taken from the text, heads that see what they should."""

from __future__ import annotations

import families
import pytest
import torch

from tunesmith.errors import PlanProblem
from tunesmith.methods import prefix, prompt, virtual_tokens
from tunesmith.models.anatomy import find_anatomy


def applied(method, family: str, **changes):
    model = families.make(family)
    anatomy = find_anatomy(model, has_fresh_head=family in families.FRESH)
    torch.manual_seed(0)
    return method.apply(model, anatomy, {**families.OPTIONS, **changes}).eval(), anatomy


def test_a_prompt_that_spells_words_gives_what_those_words_give():
    model, anatomy = applied(prompt, "gpt2-writing")
    words = torch.tensor([[7, 9, 11, 13, 15]])
    text = torch.tensor([[20, 21, 22]])
    with torch.no_grad():
        anatomy.body.get_submodule(virtual_tokens.NAME).weight.copy_(anatomy.embeddings(words[0]))
        mine = model(input_ids=text, attention_mask=torch.ones_like(text)).logits
        plain = families.make("gpt2-writing")(input_ids=torch.cat([words, text], 1)).logits[:, 5:]
    assert torch.allclose(mine, plain, atol=1e-6)


def test_a_prefix_of_what_words_left_in_the_cache_gives_what_those_words_give():
    model, anatomy = applied(prefix, "gpt2-writing")
    words = torch.tensor([[7, 9, 11, 13, 15]])
    text = torch.tensor([[20, 21, 22]])
    with torch.no_grad():
        plain = families.make("gpt2-writing")
        cache = plain(input_ids=words, use_cache=True).past_key_values
        pairs = torch.stack(
            [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
        )  # (N, 2, A, V, D)
        anatomy.body.get_submodule(virtual_tokens.NAME).weight.copy_(pairs.permute(3, 0, 1, 2, 4).flatten(1))
        mine = model(input_ids=text, attention_mask=torch.ones_like(text)).logits
        theirs = plain(input_ids=torch.cat([words, text], 1)).logits[:, 5:]
    assert torch.allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("method", [prompt, prefix])
def test_the_text_has_fewer_positions_afterwards(method):
    model, _ = applied(method, "bert")
    assert model.config.max_position_embeddings == 64 - 5
    full = torch.randint(5, 60, (1, 59))
    assert model(input_ids=full, attention_mask=torch.ones_like(full)).logits.shape == (1, 3)


@pytest.mark.parametrize("method", [prompt, prefix])
def test_more_virtual_tokens_than_positions_are_refused(method):
    with pytest.raises(PlanProblem) as caught:
        applied(method, "bert", prompt_length=60)
    assert str(caught.value) == (
        "PlanProblem: prompt_length is 60; this model has 64 positions for virtual tokens and text together\n"
        "  where: prompt_length\n"
        "  do:    choose 56 or less"
    )


def test_token_heads_see_the_tokens_of_the_text_alone():
    model, _ = applied(prompt, "bert-tokens")
    assert families.logits(model, "bert-tokens").shape == (3, 7, 3)


def test_gradients_reach_the_virtual_tokens():
    for method in (prompt, prefix):
        model, anatomy = applied(method, "bert")
        families.logits(model, "bert").square().sum().backward()
        assert anatomy.body.get_submodule(virtual_tokens.NAME).weight.grad.abs().sum() > 0

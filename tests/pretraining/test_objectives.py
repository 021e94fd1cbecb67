"""Tests of `mlm`, `clm` and `seq2seq`: their losses against the whole model, chance, and learning by heart."""

from __future__ import annotations

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from pretraining.texts import chinese, english
from tunesmith.errors import ModelProblem, PlanProblem
from tunesmith.pretraining import OBJECTIVES, sizes
from tunesmith.pretraining.objective import fixed_batches, mean_loss
from tunesmith.pretraining.packing import Blocks
from tunesmith.pretraining.tokens import Stream
from tunesmith.pretraining.vocabulary import VocabularyPlan, train_tokenizer

KINDS = {"mlm": "wordpiece", "clm": "bpe", "seq2seq": "bpe"}


def setting(name, texts, *, length=32, kind="", masking="whole-word", most=None, words=None):
    """Give objective, model, tokenizer and blocks of a fresh tiny model."""
    module = importlib.import_module(OBJECTIVES[name])
    tokenizer = train_tokenizer(texts, VocabularyPlan(kind or KINDS[name], name, 500, is_lower=False))
    config = sizes.make_config(name, "tiny", tokenizer, max_length=length)
    model = sizes.make_model(module.MODEL_CLASS, config, seed=0)
    options = {"max_length": length, "share": 0.15, "masking_kind": masking, "span_length": 3.0}
    objective = module.make_objective(tokenizer, model, **options)
    after = [objective.separator.after]
    ids = [token for text in texts for token in [*tokenizer(text, add_special_tokens=False).input_ids, *after]]
    stream = Stream(np.array(ids, dtype=np.uint16), words, len(texts), sum(map(len, texts)), 0)
    return objective, model, tokenizer, Blocks(stream, objective.frame, most)


def drawn(objective, blocks, seed):
    torch.manual_seed(seed)
    return objective.batch(blocks, None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_inputs_are_full_blocks_and_weights_count_predictions(name):
    objective, model, tokenizer, blocks = setting(name, english(60))
    batch = drawn(objective, blocks[:4], 0)
    assert batch["input_ids"].shape == (4, 32)
    assert not (batch["input_ids"] == tokenizer.pad_token_id).any()
    expected = {
        "mlm": len(batch.get("places", [])),
        "clm": 4 * 31,
        "seq2seq": batch.get("targets", torch.empty(0)).numel(),
    }
    assert objective.weight(batch) == expected[name]
    mean = float(objective.loss(model, batch).detach()) / objective.weight(batch)
    assert abs(mean - np.log(len(tokenizer))) < 1.0, "a fresh model knows nothing"


def test_the_head_on_hidden_places_gives_what_the_whole_model_gives():
    objective, model, _, blocks = setting("mlm", english(60))
    assert objective.head == "cls"
    batch = drawn(objective, blocks[:4], 0)
    labels = torch.full_like(batch["input_ids"], -100).flatten()
    labels[batch["places"]] = batch["targets"]
    mask = torch.ones_like(batch["input_ids"])
    whole = model(input_ids=batch["input_ids"], attention_mask=mask, labels=labels.view_as(mask)).loss
    ours = objective.loss(model, batch) / objective.weight(batch)
    assert torch.allclose(ours, whole, atol=1e-5)
    slow = dataclasses.replace(objective, head="")
    assert torch.allclose(slow.loss(model, batch), objective.loss(model, batch), rtol=1e-5)


def test_a_family_without_a_known_head_goes_through_the_whole_model():
    from tunesmith.pretraining.mlm import find_head

    small = {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    assert find_head(transformers.DistilBertForMaskedLM(transformers.DistilBertConfig(**small)).eval()) == ""
    roberta = transformers.RobertaConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    assert find_head(transformers.RobertaForMaskedLM(roberta).eval()) == "lm_head"


@pytest.mark.parametrize("name", ["clm", "seq2seq"])
def test_the_loss_is_that_of_the_library(name):
    objective, model, _, blocks = setting(name, english(60))
    batch = drawn(objective, blocks[:4], 0)
    labels = batch["input_ids"] if name == "clm" else batch["targets"]
    whole = model(input_ids=batch["input_ids"], labels=labels).loss
    assert torch.allclose(objective.loss(model, batch) / objective.weight(batch), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["mlm", "seq2seq"])
def test_masks_change_with_the_step_and_repeat_with_the_seed(name):
    objective, _, _, blocks = setting(name, english(60))
    first, again, other = (drawn(objective, blocks[:4], seed) for seed in (1, 1, 2))
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["input_ids"], other["input_ids"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_validation_does_not_depend_on_chance_nor_on_the_batch(name):
    objective, model, _, blocks = setting(name, english(60))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mean_loss(objective, model, blocks, 32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert abs(mean_loss(objective, model, blocks, 1000) - first) < 1e-5
    values = objective.evaluate(model, blocks, tokenizer=None, labels=(), batch_tokens=1000)
    assert values["perplexity"] == pytest.approx(np.exp(values["loss"]))


def test_whole_words_are_hidden_whole_in_text():
    objective, _, tokenizer, blocks = setting("mlm", english(80))
    batch = drawn(objective, blocks, 3)
    chosen = torch.zeros_like(batch["input_ids"], dtype=torch.bool).flatten()
    chosen[batch["places"]] = True
    chosen = chosen.view_as(batch["input_ids"]).tolist()
    for block, row in zip(blocks, chosen, strict=True):
        entries = tokenizer.convert_ids_to_tokens(block.tokens)
        for place in range(2, len(entries)):
            if entries[place].startswith("##"):
                assert row[place] == row[place - 1], (entries[place - 1 : place + 1], row[place - 1 : place + 1])


def test_words_of_a_segmenter_are_hidden_whole():
    texts = chinese(60)
    _, _, _, blocks = setting("mlm", texts, kind="characters")
    words = (np.arange(len(blocks.stream.ids)) % 3 == 0).astype(np.uint8)
    objective, _, tokenizer, blocks = setting("mlm", texts, kind="characters", masking="segmented", words=words)
    batch = drawn(objective, blocks, 0)
    chosen = torch.zeros(len(blocks), 32, dtype=torch.bool).flatten()
    chosen[batch["places"]] = True
    chosen = chosen.view(len(blocks), 32)[:, 1:-1]
    tokens = torch.tensor([block.tokens[1:-1] for block in blocks])
    special = torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
    starts = torch.from_numpy(words[: chosen.numel()].astype(bool)).view_as(chosen)
    goes_on = ~starts[:, 1:] & ~special[:, 1:] & ~special[:, :-1]
    assert torch.equal(chosen[:, 1:][goes_on], chosen[:, :-1][goes_on])
    assert 0.1 < float(chosen.float().mean()) < 0.2


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("texts", [english(2), chinese(3)], ids=["english", "chinese"])
def test_a_fresh_model_learns_a_few_sentences_by_heart(name, texts):
    kind = "characters" if name == "mlm" and "，" in texts[0] else ""
    objective, model, _, blocks = setting(name, texts * 2, length=24, kind=kind)
    blocks = blocks[:3]
    rows = [*blocks] * (3 if name == "mlm" else 1)  # each with masks of its own
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.train()
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20)
        torch.manual_seed(step)
        batch = objective.batch(rows, None)
        loss = objective.loss(model, batch) / objective.weight(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9 and mean_loss(objective, model, blocks, 1000) < 0.2:
            return
    raise AssertionError(f"the loss is still {mean_loss(objective, model, blocks, 1000)}")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_shown_is_a_line_or_three(name):
    objective, model, tokenizer, blocks = setting(name, english(40))
    text = objective.show(model, blocks, tokenizer, step=3)
    assert 1 <= len(text.splitlines()) <= 3
    assert ("|" if name == "clm" else "->") in text
    assert text == objective.show(model, blocks, tokenizer, step=3)


def test_text_infilling_for_a_model_without_sentinels():
    """BART's kind: one mask for each span, and the whole text as target."""
    from tunesmith.pretraining import seq2seq

    _, _, _tokenizer, _ = setting("seq2seq", english(60))
    plain = transformers.PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(
            english(60), VocabularyPlan("bpe", "mlm", 500, is_lower=False)
        ).backend_tokenizer,
        bos_token="[CLS]",
        eos_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
    )
    config = transformers.BartConfig(
        vocab_size=len(plain),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=3,
    )
    model = transformers.BartForConditionalGeneration(config).eval()
    options = {"max_length": 32, "share": 0.15, "masking_kind": "", "span_length": 3.0}
    objective = seq2seq.make_objective(plain, model, **options)
    ids = np.array(plain(" ".join(english(20)), add_special_tokens=False).input_ids, dtype=np.uint16)
    blocks = Blocks(Stream(ids, None, 1, 1, 0), objective.frame)
    batch = drawn(objective, blocks[:4], 0)
    assert batch["input_ids"].shape == (4, 32)
    assert batch["targets"][:, 1:-1].tolist() == [list(block.tokens) for block in blocks[:4]]
    assert (batch["input_ids"] == plain.mask_token_id).sum(1).tolist() == [objective.span_count] * 4
    assert batch["is_text"].sum(1).tolist() == [objective.hidden] * 4
    logits = model(input_ids=batch["input_ids"], labels=batch["targets"]).logits
    whole = functional.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert torch.allclose(objective.loss(model, batch) / objective.weight(batch), whole, atol=1e-5)


def test_a_tokenizer_that_lacks_what_is_needed_is_refused():
    _, model, causal, _ = setting("clm", english(20))
    with pytest.raises(ModelProblem, match="has no mask token"):
        importlib.import_module(OBJECTIVES["mlm"]).separator(causal)
    with pytest.raises(ModelProblem, match="neither sentinels"):
        importlib.import_module(OBJECTIVES["seq2seq"]).make_objective(
            causal, model, max_length=32, share=0.15, masking_kind="", span_length=3.0
        )


def test_a_block_that_needs_too_many_sentinels_is_refused():
    _, model, tokenizer, _ = setting("seq2seq", english(20))
    with pytest.raises(PlanProblem, match="a block of 4096 tokens needs"):
        importlib.import_module(OBJECTIVES["seq2seq"]).make_objective(
            tokenizer, model, max_length=4096, share=0.15, masking_kind="", span_length=3.0
        )


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("init", ["xavier", "he"])
def test_init_draws_inner_matrices_as_the_paper_says(name, init):
    module = importlib.import_module(OBJECTIVES[name])
    tokenizer = train_tokenizer(english(20), VocabularyPlan(KINDS[name], name, 400, is_lower=False))
    config = sizes.make_config(name, "tiny", tokenizer, max_length=32)
    family, fresh, same = (
        sizes.make_model(module.MODEL_CLASS, config, seed=0, init=kind) for kind in ("family", init, init)
    )
    weights, theirs = dict(fresh.named_parameters()), dict(family.named_parameters())
    inner = [
        each
        for each in weights
        if any(part in each for part in ("intermediate.dense.weight", "c_fc.weight", "wi_0.weight"))
    ]
    assert len(inner) >= 2
    for each in inner:
        high, low = max(weights[each].shape), min(weights[each].shape)  # from the narrow to the wide
        expected = (2 / (high + low)) ** 0.5 if init == "xavier" else (2 / low) ** 0.5
        assert float(weights[each].detach().std()) == pytest.approx(expected, rel=0.05)
    assert torch.equal(fresh.get_input_embeddings().weight, family.get_input_embeddings().weight)
    assert all(torch.equal(one, other) for one, other in zip(fresh.parameters(), same.parameters(), strict=True))
    assert set(weights) == set(theirs)


def test_unigram_and_bigram_are_those_of_a_slow_count():
    from tunesmith.pretraining.baseline import bigram_loss, unigram_loss, unigram_shares

    objective, _, _, blocks = setting("clm", english(30), most=5)
    ids = blocks.stream.ids.tolist()
    shares = unigram_shares(blocks.stream, 600)
    slow = np.mean(
        [-np.log((ids.count(token) + 1) / (len(ids) + 600)) for block in blocks for token in block.tokens[1:]]
    )
    assert unigram_loss(objective, blocks, shares, 100) == pytest.approx(slow)
    pairs = list(itertools.pairwise(ids))
    losses = []
    for block in blocks:
        for first, second in zip(block.tokens, block.tokens[1:], strict=False):
            after = [other for one, other in pairs if one == first]
            kinds = len(set(after))
            losses.append(-np.log((after.count(second) + kinds * shares[second]) / (len(after) + kinds)))
    assert bigram_loss(blocks.stream, blocks, shares) == pytest.approx(np.mean(losses))
    assert len(list(fixed_batches(objective, blocks, 64))) == 3

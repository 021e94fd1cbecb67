"""The cloze: words of several tokens, several templates, and that only the masks go through the head."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import transformers

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task
from tunesmith.tasks.prompting.asked import Wordings
from tunesmith.tasks.prompting.cloze import Cloze, mask_logits, word_ids
from tunesmith.tasks.prompting.templates import Template
from tunesmith.types import Origin, Record

_SMALL = {
    "vocab_size": 80,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
FAMILIES = {
    "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**_SMALL)),
    "roberta": lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(**_SMALL)),
    "distilbert": lambda: transformers.DistilBertForMaskedLM(
        transformers.DistilBertConfig(
            vocab_size=80, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=40
        )
    ),
    "albert": lambda: transformers.AlbertForMaskedLM(transformers.AlbertConfig(**_SMALL, embedding_size=8)),
    "electra": lambda: transformers.ElectraForMaskedLM(transformers.ElectraConfig(**_SMALL, embedding_size=8)),
    "mpnet": lambda: transformers.MPNetForMaskedLM(transformers.MPNetConfig(**_SMALL)),
    "modernbert": lambda: transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(**_SMALL, pad_token_id=0, attn_implementation="eager")
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return toy_world.make_tokenizer()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FAMILIES["bert"]().eval()


def cloze(words, *templates, task="text-classification", **options):
    wordings = Wordings(tuple(map(Template, templates)), words, "en", False)
    return Cloze(find_task(task), wordings, **options)


def records(*texts, target=None):
    return [Record(str(row), {"text": text}, target, Origin("here", row)) for row, text in enumerate(texts, 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_at_the_masks_are_those_of_the_whole_model(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    ids = torch.randint(5, 80, (3, 9))
    there = torch.ones_like(ids)
    there[1, 6:] = 0
    masks = torch.tensor([[2, 4], [5, 0], [8, 1]])
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=there).logits
        found = mask_logits(model, {"input_ids": ids, "attention_mask": there, "masks": masks})
    assert torch.allclose(found, whole[torch.arange(3)[:, None], masks], atol=1e-5)
    assert not model.base_model._forward_hooks, "nothing is left behind"


def test_scores_are_mean_log_likelihoods_of_the_words_tokens(tokenizer, model):
    """Compared with one plain pass for each template and word."""
    words = {"animal": ["animal", "a1 a2"], "metal": ["m1"], "weather": ["w1 w2"]}
    templates = ("{text} {label} the0", "the1 {label} {text}")
    task = cloze(words, *templates)
    texts = ("a3 the4", "m3 m4 the5 the6")
    labels = tuple(words)
    examples = task.encode(records(*texts), tokenizer, labels=labels, max_length=32)
    found = task.scores(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=64)

    def plain(text, template, word):
        ids = tokenizer.convert_tokens_to_ids(word.split())
        asked = template.replace("{text}", text).replace("{label}", " ".join(["[MASK]"] * len(ids)))
        tokens = tokenizer(asked, return_tensors="pt")["input_ids"]
        chances = model(tokens).logits[0][tokens[0] == tokenizer.mask_token_id].log_softmax(-1)
        return float(chances[range(len(ids)), ids].mean())

    with torch.no_grad():
        for row, text in enumerate(texts):
            for place, each in enumerate(words.values()):
                scores = [
                    math.log(sum(math.exp(plain(text, template, word)) for word in each) / len(each))
                    for template in templates
                ]
                assert found[row, place] == pytest.approx(sum(scores) / len(scores), abs=1e-5)


def test_every_template_learns_for_itself(tokenizer, model):
    words = {"animal": ["animal"], "metal": ["metal"]}
    labels = tuple(words)
    templates = ("{text} {label}", "{label} {text}")
    rows = [*records("a1 a2", target="animal"), *records("m1 m2 m3", target="metal")]

    def loss_and_weight(*some):
        task = cloze(words, *some, is_learnt=True)
        batch = task.batch(task.encode(rows, tokenizer, labels=labels, max_length=32), tokenizer)
        with torch.no_grad():
            return float(task.loss(model, batch)), task.weight(batch)

    (first, one), (second, other), (both, all_of) = (
        loss_and_weight(*some) for some in ((templates[0],), (templates[1],), templates)
    )
    assert (one, other, all_of) == (2, 2, 4)
    assert both == pytest.approx(first + second, abs=1e-5)


def test_a_template_is_corrected_by_what_it_says_without_a_text(tokenizer, model):
    words = {"animal": ["animal"], "metal": ["metal"]}
    plain = cloze(words, "{text} {label}")
    corrected = dataclasses.replace(plain, wordings=dataclasses.replace(plain.wordings, is_corrected=True))
    settings = {"tokenizer": tokenizer, "labels": tuple(words)}
    rows = records("a1 a2", "")
    examples = plain.encode(rows, max_length=32, **settings)
    scores = [task.scores(model, examples, batch_tokens=64, **settings) for task in (plain, corrected)]
    difference = scores[0] - scores[1]
    assert difference[0] == pytest.approx(difference[1], abs=1e-6)
    assert abs(difference[0]).max() > 0.1


def test_a_word_is_written_as_it_stands_in_the_template(tokenizer):
    assert word_ids("a1 a2", Template("{text} {label} the0"), tokenizer) == tuple(
        tokenizer.convert_tokens_to_ids(["a1", "a2"])
    )


def test_a_word_that_the_base_does_not_know_is_refused(tokenizer):
    with pytest.raises(PlanProblem) as caught:
        word_ids("zebra", Template("{text} {label}"), tokenizer)
    assert str(caught.value) == (
        "PlanProblem: the label word 'zebra' is not in the base model's vocabulary\n"
        "  where: label_words\n"
        "  do:    name the label by words that the base model knows: --set label_words=label=word|word,label=word"
    )


def test_what_it_does_not_say_the_asked_task_says():
    task = cloze({"a": ["a1"]}, "{text} {label}")
    assert task.name == "text-classification"
    assert task.main == "accuracy"
    assert task.options == find_task("text-classification").options
    assert not task.has_fresh_head
    assert dataclasses.replace(task) == task

"""Entailment: which label of the base means what, and how sentences become scores."""

from __future__ import annotations

import types

import pytest
import torch
import transformers

import toy_world
from tunesmith.errors import PlanProblem
from tunesmith.tasks import find_task
from tunesmith.tasks.prompting.asked import Wordings
from tunesmith.tasks.prompting.entailment import Entailment, inference_places, match_pair_labels
from tunesmith.tasks.prompting.templates import Template
from tunesmith.types import Origin, Record


def config_with(*labels):
    return types.SimpleNamespace(id2label=dict(enumerate(labels)))


def test_the_labels_of_inference_models_are_known_by_name():
    assert inference_places(config_with("CONTRADICTION", "Neutral", "entailment")) == {
        "contra": 0,
        "neutral": 1,
        "entail": 2,
    }
    assert inference_places(config_with("entailment", "not_entailment")) == {"entail": 0}
    assert inference_places(config_with("蕴含", "中立", "矛盾")) == {"entail": 0, "neutral": 1, "contra": 2}
    assert inference_places(config_with("positive", "neutral")) == {}


def test_labels_of_pairs_are_matched_by_name():
    config = config_with("contradiction", "neutral", "entailment")
    assert match_pair_labels(["entailment", "contradiction"], config) == {
        "entailment": ["entail"],
        "contradiction": ["contra"],
    }
    assert match_pair_labels(["yes", "no"], config) is None
    assert match_pair_labels(["neutral", "entailment"], config_with("entailment", "not_entailment")) is None


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = transformers.BertConfig(
        vocab_size=80,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=40,
        id2label=names,
        label2id={name: place for place, name in names.items()},
    )
    return transformers.BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("task", ["text-classification", "multi-label-classification"])
def test_scores_come_from_a_plain_pass_over_text_and_sentence(task, judge):
    tokenizer = toy_world.make_tokenizer()
    words = {"animal": ["animal", "a1"], "metal": ["metal"]}
    asked = Entailment(find_task(task), Wordings((Template("the0 {label}"),), words, "en", False))
    rows = [Record("1", {"text": "a3 a4 the4"}, None, Origin("here", 1))]
    settings = {"tokenizer": tokenizer, "labels": tuple(words)}
    examples = asked.encode(rows, max_length=32, **settings)
    found = asked.scores(judge, examples, batch_tokens=64, **settings)[0]
    with torch.no_grad():
        logits = [
            judge(**tokenizer("a3 a4 the4", f"the0 {word}", return_tensors="pt")).logits[0]
            for word in ("animal", "a1", "metal")
        ]
    against = 0.0 if task == "text-classification" else 1.0
    each = [float(one[2] - against * one[0]) for one in logits]
    expected = [float(torch.tensor(each[:2]).logsumexp(0) - torch.tensor(2.0).log()), each[2]]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_text_is_cut_and_the_sentence_never(judge):
    tokenizer = toy_world.make_tokenizer()
    asked = Entailment(
        find_task("text-classification"), Wordings((Template("the0 {label}"),), {"a": ["a1"]}, "en", False)
    )
    rows = [Record("1", {"text": " ".join(toy_world.WORDS["animal"])}, None, Origin("here", 1))]
    (example,) = asked.encode(rows, tokenizer, labels=("a",), max_length=14)
    assert example.was_cut
    assert tokenizer.decode(example.asked[0]).endswith("[SEP] the0 a1 [SEP]")
    assert len(example.asked[0]) == 14
    with pytest.raises(PlanProblem, match="the longest sentence about a label has 4 tokens"):
        asked.encode(rows, tokenizer, labels=("a",), max_length=8)

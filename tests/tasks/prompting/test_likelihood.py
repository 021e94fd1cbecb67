"""Likelihood of words after prompts: compared with plain passes, and how examples are chosen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import transformers

import toy_world
from tunesmith.tasks import find_task
from tunesmith.tasks.prompting.asked import Wordings
from tunesmith.tasks.prompting.likelihood import label_scores, word_chances
from tunesmith.tasks.prompting.shown_examples import ShownExamples, _as_many_as_fit
from tunesmith.tasks.prompting.templates import Template
from tunesmith.tasks.wording import Wording
from tunesmith.types import Origin, Record

FAMILIES = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=90,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_chances_are_those_of_plain_passes(family):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    prompts = [(5, 6, 7), (8, 9), (5, 6, 7), (10, 11, 12), (13, 14, 15, 16)]
    words = [(20,), (21, 22, 23), (24, 25)]
    found = word_chances(model, prompts, words, filler=0, batch_tokens=8)
    with torch.no_grad():
        for row, prompt in enumerate(prompts):
            for place, word in enumerate(words):
                chances = model(torch.tensor([[*prompt, *word]])).logits[0].log_softmax(-1)
                at = range(len(prompt) - 1, len(prompt) + len(word) - 1)
                assert found[row, place] == pytest.approx(float(chances[at, list(word)].mean()), abs=1e-5)


def test_a_label_has_the_mean_chance_of_its_words():
    chances = np.log(np.array([[0.2, 0.4, 0.1]]))
    assert np.exp(label_scores(chances, [0, 0, 1])) == pytest.approx(np.array([[0.3, 0.1]]))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = toy_world.make_causal_base(tmp_path_factory.mktemp("causal"), steps=0)
    return transformers.AutoTokenizer.from_pretrained(folder)


def shown(labels="aabbbbbb", shots=4, **options):
    words = {"a": ["animal"], "b": ["metal"]}
    rows = [
        Record(str(row), {"text": f"a{row} the{row}"}, label, Origin("train", row)) for row, label in enumerate(labels)
    ]
    wordings = Wordings((Template("{text} => {label}"),), words, "en", True)
    return ShownExamples(find_task("text-classification"), wordings, shots, **options).with_rows(rows)


def test_labels_take_turns_and_the_nearest_of_each_comes_first():
    task = shown()
    near = np.array([0.1, 0.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert task._balanced(near, None)[:4] == [2, 1, 3, 0]
    counts = Counter(task.rows[place].target for place in task._balanced(near, None)[:4])
    assert counts == {"a": 2, "b": 2}


def test_a_row_is_no_example_for_itself():
    task = shown()
    near = np.arange(8, dtype=float)
    assert 7 in task._balanced(near, None)
    assert 7 not in task._balanced(near, task.rows[7])


def test_as_many_examples_as_fit_and_the_first_stands_last():
    examples = [(1, 1), (2, 2, 2, 2, 2, 2), (3, 3), (4,)]
    assert _as_many_as_fit(examples, 5, 8) == [4, 3, 3, 1, 1]
    assert _as_many_as_fit(examples, 5, 1) == [1, 1]
    assert _as_many_as_fit(examples, 0, 8) == []


def test_prompts_fit_the_window_and_end_with_the_question(tokenizer):
    task = shown(shots=99)
    model = FAMILIES["gpt2"]().eval()
    labels = ("a", "b")
    asked = [Record("1", {"text": "a3 the3"}, None, Origin("input", 1))]
    examples = task.encode(asked, tokenizer, labels=labels, max_length=48)
    wording = Wording(tokenizer)
    for room in (12, 20, 63):
        ((own, empty),) = task.prompts(model, examples, task.wordings.templates[0], wording, room)
        assert max(len(own), len(empty)) <= room + 1
        assert tokenizer.decode(own).endswith("a3 the3 =>")
        assert own[:-3] == empty[: len(own) - 3], "the same examples stand before both"
    ((own, _),) = task.prompts(model, examples, task.wordings.templates[0], wording, 63)
    assert tokenizer.decode(own).count("=>") == 9, "all eight rows fit"


@pytest.mark.parametrize("nearness", ["tfidf", "states", "chance"])
def test_rows_are_compared_in_each_way(nearness, tokenizer):
    torch.manual_seed(0)
    model = FAMILIES["gpt2"]().eval()
    task = shown(nearness=nearness)
    near = task.shelf.likeness(["a3 the3", "a5 the5", "a3 the3"], nearness, model, tokenizer)
    assert near.shape == (3, 8)
    assert near[0].tolist() == pytest.approx(near[2].tolist())
    if nearness != "chance":
        assert near.argmax(1).tolist() == [3, 5, 3]

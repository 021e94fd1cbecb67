"""Language modelling: rows, stretches, bits for each character, control codes, samples, the baseline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tasks.writers import learn_by_heart, make_causal
from tunesmith import data
from tunesmith.data.layout import Cells, Fault
from tunesmith.data.split import split
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import guess_task
from tunesmith.tasks.text_generation import TASK
from tunesmith.types import Origin, Record, Splits

SETTINGS: dict[str, Any] = {"labels": (), "batch_tokens": 4096}
LETTERS = "abcdefghijklmnopqrstuvwxyz <|>:床前明月光，疑是地上霜。topic"
TEXTS = ("the cat sat on the mat", "床前明月光，疑是地上霜。", "a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_causal(tmp_path_factory.mktemp("causal") / "base", [LETTERS], longest=64)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return build_tokenizer(folder)


@pytest.fixture(scope="module")
def model(folder):
    return build_model(folder, "AutoModelForCausalLM")


def read(values: dict[str, Any], row: int = 1, *, known: bool = True) -> Record:
    cells = Cells(values)
    fields = TASK.read_input(cells)
    return Record(str(row), fields, TASK.read_target(cells, fields) if known else None, Origin("rows.jsonl", row))


def documents(texts=TEXTS, **controls: str) -> list[Record]:
    return [read({"text": text, **controls}, row) for row, text in enumerate(texts, 1)]


def nats_one_by_one(model, tokenizer, prefix: str, text: str) -> float:
    """Give the surprise of each token given all before it, by plain Transformers."""
    before = [tokenizer.eos_token_id, *tokenizer(prefix, add_special_tokens=False)["input_ids"]]
    after = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.inference_mode():
        chances = model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return -sum(float(chances[len(before) + place - 1, token]) for place, token in enumerate(after))


def test_rows_are_documents_or_prompts_with_or_without_control_codes():
    assert read({"text": "a"}).fields == {"text": "a"}
    assert read({"text": "a"}).target == "a"
    record = read({"prompt": "a", "completion": "b", "author": "李 白", "topic": "moon"})
    assert record.fields == {"prompt": "a", "topic": "moon", "author": "李 白"}
    assert record.target == "b"
    assert TASK.source(record.fields, None) == "<|topic: moon|><|author: 李 白|>\na"
    assert TASK.source({"control": "sad", "prompt": ""}, None) == "<|sad|>\n"


def test_missing_and_overlong_control_codes_are_remarked_on_and_left_out():
    cells = Cells({"text": "a", "genre": "", "topic": "x" * 101, "style": None, "author": " 李\n白 "})
    assert TASK.read_input(cells) == {"text": "a", "author": "李 白"}
    assert sorted(note.kind for note in cells.notes) == ["long-control", "missing-control"]
    with pytest.raises(Fault) as caught:
        read({"text": "a", "genre": ["ci"]})
    assert caught.value.kind == "wrong-type"


@pytest.mark.parametrize(
    ("header", "task"),
    [
        ("text", "text-generation"),
        ("prompt,completion", "text-generation"),
        ("text,stars", "text-classification"),
        ("text,label", "text-classification"),
        ("question,answer", "dialogue"),
        ("text,code,test_list", "code-generation"),
    ],
)
def test_the_task_is_told_from_the_columns(header, task, tmp_path):
    path = tmp_path / "rows.csv"
    count = header.count(",") + 1
    path.write_text("\n".join([header, *(",".join(f"w{n} {n}" for _ in range(count)) for n in range(9))]) + "\n")
    assert guess_task(data.read(path), {}) == task


@pytest.mark.parametrize("longest", [64, 16])
def test_documents_are_learnt_whole_and_long_ones_in_stretches(tokenizer, longest):
    task = TASK.configured({"stride": 4})
    examples = task.encode(documents(), tokenizer, labels=(), max_length=longest)
    for record in documents():
        mine = [one for one in examples if one.record == record]
        learnt = [label for one in mine for label in one.labels if label != -100]
        assert tokenizer.decode(learnt[:-1]) == record.target
        assert learnt[-1] == tokenizer.eos_token_id
        assert not any(one.was_cut for one in mine), "nothing is lost"
        assert (len(mine) > 1) == (len(record.target) + 2 > longest)


def test_bits_are_those_of_plain_transformers(model, tokenizer):
    rows = [*documents(), *documents(topic="cat"), read({"prompt": "the cat", "completion": "sat"})]
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=64)
    answers = TASK.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    for record, (value, confidence, alternatives) in zip(rows, answers, strict=True):
        prefix = TASK.source({**record.fields, "text": ""}, None)
        text = f" {record.target}" if "prompt" in record.fields else record.target
        assert value["nats"] == pytest.approx(nats_one_by_one(model, tokenizer, prefix, text), rel=1e-4)
        assert (value["tokens"], value["characters"]) == (len(text) + 1, len(record.target))
        assert (confidence, alternatives) == (None, {})
    scores = TASK.score(rows, answers, labels=(), main="bits_per_character", seed=0)
    nats, characters = (sum(value[name] for value, _, _ in answers) for name in ("nats", "characters"))
    assert scores.value == pytest.approx(nats / math.log(2) / characters, rel=1e-12)
    quick = TASK.evaluate(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert quick["bits_per_character"] == pytest.approx(scores.value, rel=1e-6)
    assert quick["perplexity"] == pytest.approx(scores.values["perplexity"], rel=1e-6)


def test_stretches_lose_little_and_count_everything_once(model, tokenizer):
    (record,) = documents(["the cat sat on the mat and the mat sat on the cat"])
    whole, cut = (
        TASK.answer(
            model,
            TASK.configured({"stride": 8}).encode([record], tokenizer, labels=(), max_length=longest),
            tokenizer=tokenizer,
            **SETTINGS,
        )[0][0]
        for longest in (64, 24)
    )
    assert cut["tokens"] == whole["tokens"]
    assert cut["nats"] == pytest.approx(whole["nats"], rel=0.05)


def test_chinese_completions_follow_without_a_space_and_long_prompts_lose_their_beginning(tokenizer):
    row = read({"prompt": "床前明月光，", "completion": "疑是地上霜。"})
    (example,) = TASK.encode([row], tokenizer, labels=(), max_length=64)
    assert tokenizer.decode(example.completion[1:-1]) == "床前明月光，疑是地上霜。"
    task = TASK.configured({"max_new_tokens": 1})
    (long,) = task.encode([read({"prompt": "ab" * 40}, known=False)], tokenizer, labels=(), max_length=16)
    assert long.was_cut
    assert tokenizer.decode(long.tokens[1:]) == "ab" * 7


@pytest.mark.parametrize("longest", [16, 17, 64])
def test_a_long_prompt_keeps_the_token_right_before_its_completion(tokenizer, longest):
    row = read({"prompt": "ab" * 40 + "c", "completion": "d"})
    (example,) = TASK.encode([row], tokenizer, labels=(), max_length=longest)
    assert example.was_cut
    assert example.length <= longest
    prefix = tokenizer.decode(
        [token for token, label in zip(example.completion, example.labels, strict=True) if label < 0]
    )
    assert prefix.startswith("<end>")
    assert prefix.endswith("ababc")
    assert len(prefix) == len("<end>") + longest // 2 - 1


def test_what_is_written_on_leaves_room_for_what_is_written(model, tokenizer):
    task = TASK.configured({"max_new_tokens": 20})
    known, asked = read({"prompt": "ab" * 40, "completion": "c"}), read({"prompt": "ab" * 40}, known=False)
    examples = task.encode([known, asked], tokenizer, labels=(), max_length=64)
    assert examples[0].tokens == examples[-1].tokens
    assert len(examples[-1].tokens) == 44
    ((value, sure, _),) = task.answer(model, examples[-1:], tokenizer=tokenizer, **SETTINGS)
    assert isinstance(value, str)
    assert 0 <= sure <= 1


def test_one_document_under_two_control_codes_stays_in_one_part_of_a_split():
    rows = [read({"text": f"cat {row // 2}", "topic": f"t{row % 2}"}, row) for row in range(60)]
    parts = split(rows, seed=0, is_stratified=False, group_of=TASK.group_of).splits
    texts = [{record.target for record in part} for part in (parts.train, parts.valid, parts.test)]
    assert all(texts)
    assert len(set.union(*texts)) == sum(map(len, texts))
    fields = read({"prompt": "write", "completion": "x", "topic": "a"}).fields
    assert TASK.group_of(fields) == fields, "many rows share a prompt; they are told apart by their codes"


def test_a_text_without_target_is_written_on(model, tokenizer):
    rows = [read({"text": "the cat"}, known=False), read({"prompt": "床前"}, known=False)]
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=64)
    task = TASK.configured({"max_new_tokens": 5})
    (first, sure, _), (second, _, _) = task.answer(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert isinstance(first, str)
    assert isinstance(second, str)
    assert 0 <= sure <= 1
    assert "".join(task.stream(model, tokenizer, rows[0])) == first


def test_samples_without_prompt_differ_and_repeat_with_the_run(model, tokenizer):
    rows = documents(["the cat"] * 6)
    task = TASK.configured({"max_new_tokens": 8})
    examples = task.encode(rows, tokenizer, labels=(), max_length=64)
    first, again = (task.answer(model, examples, tokenizer=tokenizer, **SETTINGS) for _ in range(2))
    samples = [value["sample"] for value, _, _ in first]
    assert len(set(samples)) > 1
    assert samples == [value["sample"] for value, _, _ in again]
    details = TASK.score(rows, first, labels=(), main="bits_per_character", seed=0).details
    assert len(details["samples"]) == 6
    assert 0 < details["distinct_1"] <= 1


def test_control_accuracy_is_measured_where_codes_were_asked_for():
    rows = documents([f"the cat sat {n} mats" for n in range(12)], topic="cats")
    rows += documents([f"床前明月光 {n}" for n in range(12)], topic="moon")
    values = [({"nats": 1.0, "tokens": 2, "characters": 3}, None, {}) for _ in rows]
    values[0][0]["sample"], values[20][0]["sample"] = "a cat sat", "cat on a mat"
    details = TASK.score(rows, values, labels=(), main="bits_per_character", seed=0).details
    assert details["control_accuracy"]["topic"]["accuracy"] == 0.5
    assert [sample["right"] for sample in details["samples"]] == [True, False]


def test_unknown_tokens_are_told_because_they_flatter(model, tokenizer):
    rows = documents(["☃☃", "cat"])
    answers = TASK.answer(
        model, TASK.encode(rows, tokenizer, labels=(), max_length=64), tokenizer=tokenizer, **SETTINGS
    )
    details = TASK.score(rows, answers, labels=(), main="bits_per_character", seed=0).details
    assert details["unknown_share"] == pytest.approx(2 / 7)


def test_the_baseline_counts_characters_on_the_same_texts():
    rows = documents(["the cat sat", "the cat ran", "the dog sat", "床前明月光"])
    splits = Splits(tuple(rows[:3]), (), tuple(rows[2:]), "")
    (baseline,) = TASK.baselines(splits, labels=(), seed=0)
    scores = TASK.score(splits.test, baseline.answers, labels=(), main="bits_per_character", seed=0)
    assert baseline.name == "ngram"
    assert set(scores.values) == {"bits_per_character"}, "a perplexity of characters is not one of tokens"
    known, strange = (value["nats"] / value["characters"] for value, _, _ in baseline.answers)
    assert known < strange
    found = TASK.difference(
        splits.test,
        [value for value, _, _ in baseline.answers],
        [value for value, _, _ in baseline.answers],
        metric="bits_per_character",
        seed=0,
    )
    assert (found.value, found.interval) == (0.0, (0.0, 0.0))


def test_models_that_cannot_write_on_are_refused():
    for config in (transformers.T5Config(), transformers.BertConfig()):
        with pytest.raises(PlanProblem, match="cannot"):
            TASK.model_class(config)
    assert TASK.model_class(transformers.GPT2Config()) == "AutoModelForCausalLM"


def test_the_length_of_what_is_written_follows_the_training_texts(tokenizer):
    rows = documents(["ab" * 10]), [read({"prompt": "a", "completion": "b" * 10})]
    whole, part = (TASK.resolved(TASK.encode(some, tokenizer, labels=(), max_length=64)) for some in rows)
    assert (whole.max_new_tokens, part.max_new_tokens) == (21, 15)
    assert TASK.configured({"max_new_tokens": 3}).resolved([]).max_new_tokens == 3


@pytest.mark.slow
def test_64_documents_are_learnt_by_heart(folder, tokenizer):
    generator = np.random.default_rng(0)
    rows = documents(["".join(generator.choice(list("abcdefgh床前明月"), size=12)) for _ in range(64)])
    model = build_model(folder, "AutoModelForCausalLM")
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=64)
    learn_by_heart(TASK, model, examples, tokenizer, steps=300)
    found = TASK.evaluate(model, examples, tokenizer=tokenizer, **SETTINGS)
    assert found["bits_per_character"] < 0.75, "to tell 64 documents apart takes half a bit for each of 12 characters"

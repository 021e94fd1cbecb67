"""One label for each text: encoding, loss, answers in order, scores and naive baselines on hand-worked rows."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

import toy_world
from tunesmith import metrics
from tunesmith.bundle.load import sureness, with_abstention
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import Example
from tunesmith.tasks.text_classification import TASK
from tunesmith.types import Origin, Record, Splits

LABELS = toy_world.FAMILIES


def records(rows, path: str = "rows.csv") -> list[Record]:
    return [Record(str(row), {"text": text}, label, Origin(path, row)) for row, (text, label) in enumerate(rows, 2)]


def certain(answers, labels=LABELS) -> np.ndarray:
    """Give logits that answer as told."""
    return np.array([[5.0 if label == answer else 0.0 for label in labels] for answer in answers], dtype=np.float32)


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


@pytest.fixture(scope="module")
def model(toy_base):
    return build_model(toy_base, TASK.model_class(None), seed=0, **TASK.model_config(LABELS))


def test_labels_are_sorted_and_numbers_as_numbers():
    assert TASK.labels(records([("x", "b"), ("y", "a"), ("z", "b")])) == ("a", "b")
    assert TASK.labels(records([("x", label) for label in ("10", "2", "-1", "1")])) == ("-1", "1", "2", "10")
    assert TASK.labels(records([("x", label) for label in ("10", "2", "good")])) == ("10", "2", "good")
    assert TASK.labels(records([("x", label) for label in ("1", "01", "001")])) == ("001", "01", "1")


def test_encode_cuts_and_says_so(tokenizer):
    rows = records([("the1 the2 a1", "animal"), ("the1 " * 9, "metal"), ("the1 " * 4, "gone")])
    examples = TASK.encode(rows, tokenizer, labels=LABELS, max_length=6)
    assert [len(example.tokens) for example in examples] == [5, 6, 6]
    assert [example.was_cut for example in examples] == [False, True, False]
    assert [example.target for example in examples] == [0, 1, None]
    ends = {(example.tokens[0], example.tokens[-1]) for example in examples}
    assert ends == {(tokenizer.cls_token_id, tokenizer.sep_token_id)}, "a cut text still ends as the model knows it"
    assert TASK.encode(records([("a1", None)]), tokenizer, labels=LABELS, max_length=6)[0].target is None


def test_encode_of_many_rows_equals_one_by_one(tokenizer):
    rows = records(toy_world.rows(2100, seed=5))
    together = TASK.encode(rows, tokenizer, labels=LABELS, max_length=8)
    assert len(together) == 2100
    for row in (0, 999, 1000, 1001, 2000, 2099):
        assert TASK.encode([rows[row]], tokenizer, labels=LABELS, max_length=8) == [together[row]]


def test_batch_pads_to_the_longest(tokenizer):
    batch = TASK.batch([Example((2, 7, 3), 1), Example((2, 3), 0)], tokenizer)
    assert batch["input_ids"].tolist() == [[2, 7, 3], [2, 3, tokenizer.pad_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert "labels" not in TASK.batch([Example((2,), 1), Example((2,), None)], tokenizer)


def test_loss_is_the_mean_times_the_rows(model, tokenizer):
    examples = TASK.encode(records(toy_world.rows(7, seed=2)), tokenizer, labels=LABELS, max_length=32)
    batch = TASK.batch(examples, tokenizer)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        mean = functional.cross_entropy(logits, batch["labels"])
        assert TASK.loss(model, batch).item() == pytest.approx(mean.item() * 7, rel=1e-6)
        theirs = model(**batch).loss
    assert theirs.item() == pytest.approx(mean.item(), rel=1e-6)


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_answers_come_in_order_whatever_the_lengths(model, tokenizer, batch_tokens):
    rows = records(toy_world.rows(30, seed=4))
    random.Random(0).shuffle(rows)
    examples = TASK.encode(rows, tokenizer, labels=LABELS, max_length=32)
    assert len({len(example.tokens) for example in examples}) > 5
    answers = TASK.answer(model, examples, tokenizer=tokenizer, labels=LABELS, batch_tokens=batch_tokens)
    assert answers.dtype == np.float32
    for example, answer in zip(examples, answers, strict=True):
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([example.tokens])).logits[0].numpy()
        assert np.abs(alone - answer).max() < 1e-5


def test_no_examples_give_no_answers(model, tokenizer):
    assert TASK.answer(model, [], tokenizer=tokenizer, labels=LABELS, batch_tokens=99).shape == (0, 3)


def test_score_of_a_hand_worked_case():
    rows = records([("a", "animal"), ("b", "animal"), ("c", "metal"), ("d", "weather")])
    scores = TASK.score(rows, certain(["animal", "metal", "metal", "animal"]), labels=LABELS, main="macro_f1", seed=0)
    assert scores.values["accuracy"] == 0.5
    assert scores.value == pytest.approx((0.5 + 2 / 3 + 0) / 3)
    assert scores.details["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert [(item["text"], item["expected"], item["answered"]) for item in scores.worst] == [
        ("b", "animal", "metal"),
        ("d", "weather", "animal"),
    ]
    assert scores.worst[0]["row"] == "rows.csv:3"


def test_a_label_that_training_never_saw_counts_as_a_mistake():
    rows = records([("a", "animal"), ("b", "plant"), ("c", "plant"), ("d", "metal")])
    scores = TASK.score(rows, certain(["animal", "animal", "metal", "metal"]), labels=LABELS, main="accuracy", seed=0)
    assert scores.value == 0.5
    assert scores.n == 4
    assert scores.details["labels"] == [*LABELS, "plant"]
    assert scores.per_label["plant"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 2}
    assert {item["expected"] for item in scores.worst} == {"plant"}


def test_measure_gives_what_a_recipe_may_name_and_the_loss():
    answers = certain(["animal", "metal"])
    found = TASK.measure(answers, [Example((1,), 0), Example((1,), 0)])
    assert set(found) == {*TASK.metrics, "loss"}
    assert found["accuracy"] == 0.5
    expected = functional.cross_entropy(torch.tensor(answers), torch.tensor([0, 0])).item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)


def test_decode_gives_the_best_first_and_shares_that_sum_to_one():
    (value, confidence, alternatives), tie = TASK.decode(np.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0]]), labels=LABELS)
    assert value == "metal"
    assert list(alternatives) == ["metal", "weather", "animal"]
    assert confidence == alternatives["metal"] == pytest.approx(np.exp(2) / (1 + np.exp(1) + np.exp(2)))
    assert sum(alternatives.values()) == pytest.approx(1)
    assert tie[0] == "animal", "the first on a tie"


def test_calibration_uses_only_known_targets():
    answers = np.concatenate([certain(["animal"] * 10 + ["metal"] * 10), certain(["metal"])])
    examples = [Example((1,), 0)] * 10 + [Example((1,), 1)] * 10
    assert TASK.temperature(answers, [*examples, Example((1,), None)]) == TASK.temperature(answers[:20], examples)


def test_abstention_keeps_what_is_sure():
    rows = records([("a", "animal"), ("b", "animal"), ("c", "animal"), ("d", "plant")])
    answers = np.array([[4.0, 0, 0], [3.0, 0, 0], [0, 2.0, 0], [1.0, 0, 0]])
    decoded = TASK.decode(answers, labels=LABELS)
    threshold = metrics.abstention(*sureness(TASK, rows, decoded), 0.9)["threshold"]
    assert threshold == pytest.approx(np.exp(3) / (np.exp(3) + 2))
    assert metrics.abstention(*sureness(TASK, rows, TASK.decode(-answers, labels=LABELS)), 0.9) is None
    scores = TASK.score(rows, answers, labels=LABELS, main="accuracy", seed=0)
    scores = with_abstention(scores, TASK, rows, decoded, threshold, 0.9)
    expected = {"precision": 0.9, "threshold": threshold, "coverage": 0.5, "precision_reached": 1.0}
    assert scores.details["abstain"] == expected
    assert scores.details["confusion"], "the other details stay"


def test_difference_is_paired_and_takes_labels_that_one_side_lacks():
    rows = records([("a", "x"), ("b", "y"), ("c", "x"), ("d", "y")])
    found = TASK.difference(rows, ["x", "y", "x", "y"], ["x", "z", "w", "y"], metric="accuracy", seed=0)
    assert found.value == 0.5
    assert found.n == 4
    assert found.interval[0] <= 0.5 <= found.interval[1]


def splits_of(train, valid, test) -> Splits:
    return Splits(tuple(records(train)), tuple(records(valid)), tuple(records(test)), "")


TRAIN = [
    *[("good film", "pos"), ("good story", "pos"), ("very good acting", "pos"), ("good music", "pos")],
    *[("bad film", "neg"), ("bad story", "neg"), ("very bad acting", "neg")],
]
CHINESE = [
    *[("这部电影很好看", "正面"), ("演员很好", "正面"), ("故事很好", "正面"), ("音乐很好听", "正面")],
    *[("这部电影很糟糕", "负面"), ("演员糟糕", "负面"), ("故事糟糕", "负面")],
]


def baselines_of(train, valid, test) -> dict[str, list[str]]:
    splits = splits_of(train, valid, test)
    labels = TASK.labels(splits.train)
    found = TASK.baselines(splits, labels=labels, seed=0)
    return {one.name: [value for value, _, _ in TASK.decode(one.answers, labels=labels)] for one in found}


def test_majority_answers_the_most_common_label_with_its_share():
    splits = splits_of(TRAIN, [], [("anything", "neg"), ("else", "pos")])
    majority, _ = TASK.baselines(splits, labels=("neg", "pos"), seed=0)
    decoded = TASK.decode(majority.answers, labels=("neg", "pos"))
    assert [value for value, _, _ in decoded] == ["pos", "pos"]
    assert decoded[0][1] == pytest.approx(4 / 7)
    assert majority.seconds >= 0


@pytest.mark.parametrize("valid", [[], [("good", "pos"), ("bad", "neg")]], ids=["without valid", "with valid"])
def test_tfidf_learns_the_word_that_decides(valid):
    answered = baselines_of(TRAIN, valid, [("a Good ending", "pos"), ("a bad ending", "neg")])
    assert answered["tfidf"] == ["pos", "neg"]


def test_tfidf_reads_chinese_without_spaces():
    answered = baselines_of(CHINESE, [], [("结尾很好", "正面"), ("结尾糟糕", "负面")])
    assert answered["tfidf"] == ["正面", "负面"]


def test_tfidf_works_on_texts_without_a_word():
    rows = [("😀!", "pos"), ("😀 😀", "pos"), ("😡!", "neg"), ("😡 😡", "neg")]
    assert baselines_of(rows, [], [("😡😡", "neg"), ("😀", "pos")])["tfidf"] == ["neg", "pos"]


def test_tfidf_gives_finite_answers_for_labels_it_never_saw():
    splits = splits_of(TRAIN, [], [("good", "pos")])
    answers = TASK.baselines(splits, labels=("neg", "other", "pos"), seed=0)[1].answers
    assert np.isfinite(answers).all()
    assert answers.argmax(1).tolist() == [2]


def test_zero_shot_answers_by_the_label_names(toy_base, tokenizer):
    """The toy's pretraining never saw the family names, so that only the shape and the range can be told."""
    rows = records(toy_world.rows(11, seed=1))
    answers = TASK.zero_shot(partial(build_model, toy_base), tokenizer, rows, labels=LABELS, max_length=32)
    assert answers.shape == (11, 3)
    assert np.abs(answers).max() <= 20.0001


def test_zero_shot_finds_a_text_that_is_the_label(toy_base, tokenizer):
    rows = records([("m3", "m3"), ("a4 a5", "a4_a5"), ("w1", "w1")])
    answers = TASK.zero_shot(
        partial(build_model, toy_base), tokenizer, rows, labels=("a4_a5", "m3", "w1"), max_length=32
    )
    assert answers.argmax(1).tolist() == [1, 0, 2]
    assert answers.max(1) == pytest.approx([20.0] * 3, abs=1e-3)

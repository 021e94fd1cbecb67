"""A score for two texts: scales, the line onto the file's scale, correlations, naive baselines."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import transformers
from scipy import stats
from torch import nn

from toys import text_similarity as toy
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.text_similarity import TASK, fit_line
from tunesmith.types import Origin, Record, Splits

APART = TASK.configured({"encoder": "bi"})
BOTH = pytest.mark.parametrize("task", [TASK, APART], ids=["cross", "bi"])


def records(rows) -> list[Record]:
    found = []
    for row, (first, second, score) in enumerate(rows, 2):
        found.append(Record(str(row), {"text_a": first, "text_b": second}, score, Origin("rows.csv", row)))
    return found


def toy_records(part: str, count: int, *, scale: float = 1.0, shift: float = 0.0) -> list[Record]:
    rows = toy.rows(part, count)
    return records([(row["text_a"], row["text_b"], scale * row["score"] + shift) for row in rows])


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


def model_of(task, base):
    return build_model(base, task.model_class(None), seed=0, **task.model_config(()))


@BOTH
def test_targets_are_learnt_between_0_and_1_and_kept_as_they_are(task, tokenizer):
    rows = records([("a1", "a2", -2.0), ("a1", "a2", 8.0), ("a1", "m2", 3.0)])
    examples = task.encode(rows, tokenizer, labels=(), max_length=16)
    assert [example.target for example in examples] == [(0.0, -2.0), (1.0, 8.0), (0.5, 3.0)]
    batch = task.batch(examples, tokenizer)
    assert batch["labels"].tolist() == [0.0, 1.0, 0.5]
    assert task.weight(batch) == 3.0
    (one,) = task.encode(rows[:1], tokenizer, labels=(), max_length=16)
    assert one.target == (0.0, -2.0), "a constant score divides by nothing"
    (asked,) = task.encode(records([("a1", "a2", None)]), tokenizer, labels=(), max_length=16)
    assert asked.target is None
    assert "labels" not in task.batch([asked], tokenizer)


@BOTH
def test_loss_is_the_squared_error_summed(task, toy_base, tokenizer):
    model = model_of(task, toy_base)
    batch = task.batch(task.encode(toy_records("train", 6), tokenizer, labels=(), max_length=32), tokenizer)
    with torch.no_grad():
        by_hand = ((task.outputs(model, batch) - batch["labels"]) ** 2).sum()
        assert task.loss(model, batch).item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_the_joined_head_has_the_loss_of_plain_transformers(toy_base, tokenizer):
    model = model_of(TASK, toy_base)
    batch = TASK.batch(TASK.encode(toy_records("train", 6), tokenizer, labels=(), max_length=32), tokenizer)
    with torch.no_grad():
        assert 6 * model(**batch).loss.item() == pytest.approx(TASK.loss(model, batch).item(), rel=1e-5)


@BOTH
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (25.0, -50.0)])
def test_the_scale_of_the_file_survives_saving(task, scale, shift, toy_base, tokenizer, tmp_path):
    model = model_of(task, toy_base)
    rows = toy_records("valid", 40, scale=scale, shift=shift)
    examples = task.encode(rows, tokenizer, labels=(), max_length=32)
    settings = {"tokenizer": tokenizer, "labels": (), "batch_tokens": 512}
    found = task.evaluate(model, examples, **settings)
    before = task.answer(model, examples, **settings)
    assert task.calibrate(model, examples, **settings) == 1.0
    after = task.answer(model, examples, **settings)
    scores = task.score(rows, after, labels=(), main="spearman", seed=0)
    if stats.pearsonr(before, [record.target for record in rows])[0] > 0:
        assert after.mean() == pytest.approx(np.mean([record.target for record in rows]), abs=1e-3)
        for name in TASK.metrics:
            assert scores.values[name] == pytest.approx(found[name], rel=1e-3)
    model.save_pretrained(tmp_path)
    loaded = getattr(transformers, task.model_class(None)).from_pretrained(tmp_path).eval()
    assert np.array_equal(task.answer(loaded, examples, **settings), after)


def test_a_head_without_bias_keeps_the_shift_in_its_configuration(tokenizer, tmp_path):
    config = transformers.GPT2Config(vocab_size=99, n_embd=16, n_layer=1, n_head=2, num_labels=1, pad_token_id=0)
    config.problem_type = "regression"
    torch.manual_seed(0)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    examples = TASK.encode(toy_records("valid", 30), tokenizer, labels=(), max_length=32)
    settings = {"tokenizer": tokenizer, "labels": (), "batch_tokens": 512}
    TASK.calibrate(model, examples, **settings)
    after = TASK.answer(model, examples, **settings)
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(loaded.score, nn.Linear)
    assert np.array_equal(TASK.answer(loaded, examples, **settings), after)
    assert 0 <= after.mean() <= 4


def test_the_line_fits_best_and_never_falls():
    slope, shift = fit_line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    assert (slope, shift) == (pytest.approx(2.0), pytest.approx(1.0))
    generator = np.random.default_rng(0)
    outputs, scores = generator.normal(size=50), generator.normal(size=50)
    outputs += scores
    assert fit_line(outputs, scores) == pytest.approx(np.polyfit(outputs, scores, 1))
    assert fit_line(-scores, scores) == (float(np.ptp(scores)), float(scores.min()))
    assert fit_line(np.ones(3), np.array([0.0, 5.0, 2.0])) == (5.0, 0.0)
    assert fit_line(np.zeros(0), np.zeros(0)) == (1.0, 0.0)


def test_answers_are_numbers_without_a_confidence():
    assert TASK.decode(np.array([2.5]), labels=()) == [(2.5, None, {})]
    (row,) = records([("a", "b", 4.0)])
    assert TASK.is_right(row, 3.7)
    assert not TASK.is_right(row, 3.5)


def test_difference_is_paired():
    rows = toy_records("test", 30)
    true = [record.target for record in rows]
    found = TASK.difference(rows, true, [0.0] * 30, metric="spearman", seed=0)
    assert found.value == pytest.approx(1.0)
    assert found.is_clear
    found = TASK.difference(rows, true, [one + 1 for one in true], metric="mse", seed=0)
    assert found.value == pytest.approx(-1.0)


def test_naive_answers_are_the_mean_and_the_shared_words():
    train = records([("red car", "red car", 5.0), ("red car", "red sky", 2.5), ("red", "sky", 0.0)])
    test = records([("red car", "red car", 5.0), ("red", "sky", 0.0)])
    found = {
        one.name: one.answers for one in TASK.baselines(Splits(tuple(train), (), tuple(test), ""), labels=(), seed=0)
    }
    assert found["mean"].tolist() == [2.5, 2.5]
    assert found["cosine"][0] > 4
    assert found["cosine"][1] < 1


def test_zero_shot_is_the_cosine(toy_base, tokenizer):
    rows = records([("a1 a2", "a1 a2", 1.0), ("a1 a2 a3", "m1 m2 m3", 0.0)])
    answers = TASK.zero_shot(partial(build_model, toy_base), tokenizer, rows, labels=(), max_length=16)
    assert answers[0] == pytest.approx(1.0, abs=1e-5)
    assert answers[1] < 0.9


def test_the_report_shows_wrong_answers_first():
    rows = records([("a", "b", 1.0), ("c", "d", 4.0)])
    scores = TASK.score(rows, np.array([1.0, 0.0]), labels=(), main="mse", seed=0)
    wrong, right = scores.details["samples"]
    assert (wrong["input"], wrong["expected"], wrong["answered"]) == ({"text_a": "c", "text_b": "d"}, 4.0, 0.0)
    assert right["right"]
    assert scores.value == 8.0

"""One of several choices: layouts, labels, rows with different numbers of choices, scores, naive baselines."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from toys import multiple_choice as toy
from tunesmith import data
from tunesmith.data.layout import Cells, Fault
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import guess_task
from tunesmith.tasks.choice_rows import joined
from tunesmith.tasks.multiple_choice import TASK, answered, model_inputs
from tunesmith.types import Origin, Record, Splits


def record(fields, target=None, row: int = 2) -> Record:
    return Record(str(row), fields, target, Origin("rows.jsonl", row))


def toy_records(part: str, count: int) -> list[Record]:
    return [
        record({"question": row["question"], "choices": row["choices"]}, row["label"], place)
        for place, row in enumerate(toy.rows(part, count))
    ]


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


@pytest.fixture(scope="module")
def model(toy_base):
    return build_model(toy_base, TASK.model_class(None), seed=0)


def read(values):
    cells = Cells(values)
    fields = TASK.read_input(cells)
    return fields, TASK.read_target(cells, fields)


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_choices_in_a_list_are_read():
    expected = ({"question": "q", "choices": ["x", "y"]}, 1)
    assert read({"question": "q", "choices": ["x", "y"], "label": 1}) == expected
    assert read({"question": "q", "choices": '["x", "y"]', "label": "1"}) == expected
    found = read({"question": "q", "choices": ["x", "y"], "label": 0, "context": "c"})
    assert found == ({"question": "q", "context": "c", "choices": ["x", "y"]}, 0)
    assert read({"choices": [1, 2.5, True], "label": "c"}) == ({"choices": ["1", "2.5", "true"]}, 2)


def test_copa_asks_for_cause_or_effect_in_its_own_language():
    row = {"premise": "It rained.", "choice1": "x", "choice2": "y", "label": 0}
    assert read({**row, "question": "cause"})[0]["question"] == "It rained. What was the cause?"
    assert read({**row, "question": "effect"})[0]["question"] == "It rained. What happened as a result?"
    assert read({**row, "premise": "下雨了。", "question": "cause"})[0]["question"] == "下雨了。原因是什么？"
    assert read({**row, "premise": "下雨了。", "question": "effect"})[0]["question"] == "下雨了。结果发生了什么？"
    assert read({**row, "question": "Why?"})[0]["question"] == "It rained. Why?"
    assert read(row)[0] == {"question": "It rained.", "choices": ["x", "y"]}


def test_choices_in_columns_of_their_own_are_read_in_order():
    assert read({"choice1": "x", "choice2": "y", "choice3": "z", "label": 2})[0]["choices"] == ["x", "y", "z"]
    row = {"question": "q", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "C"}
    assert read(row) == ({"question": "q", "choices": ["w", "x", "y", "z"]}, 2)
    assert read({**row, "D": ""})[0]["choices"] == ["w", "x", "y"]
    with pytest.raises(Fault, match="column 'C' is empty, but not the one after it"):
        read({**row, "C": ""})


def test_marks_of_a_files_own_decide_where_it_has_them():
    arc = {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}}
    assert read({**arc, "answer": "1"}) == ({"question": "q", "choices": ["x", "y"]}, 0)
    listed = [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]
    assert read({"question": "q", "choices": listed, "answer": "B"})[1] == 1
    with pytest.raises(Fault) as caught:
        read({**arc, "answer": "0"})
    assert caught.value.kind == "label-out-of-range"


def test_what_was_read_can_be_read_again():
    for row in (
        {"premise": "It rained.", "choice1": "x", "choice2": "y", "question": "cause"},
        {"choices": ["x", "y"]},
    ):
        fields = TASK.read_input(Cells(row))
        assert TASK.read_input(Cells(fields)) == fields


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        ({"question": "q", "choices": ["x", "y"], "label": 0}, "multiple-choice"),
        ({"premise": "p", "choice1": "x", "choice2": "y", "question": "cause", "label": 0}, "multiple-choice"),
        ({"sent0": "x", "sent1": "y", "label": 0}, "multiple-choice"),
        ({"statement": "s", "options": ["x", "y"], "label": 0}, "multiple-choice"),
        ({"article": "c", "question": "q", "options": ["x", "y"], "answer": "A"}, "multiple-choice"),
        ({"question": "q", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "A"}, "multiple-choice"),
        ({"ctx": "c", "endings": ["x", "y"], "label": 0}, "multiple-choice"),
        ({"goal": "g", "sol1": "x", "sol2": "y", "label": 0}, "multiple-choice"),
        ({"question": "q", "choices": ["x", "y"], "answerKey": "A"}, "multiple-choice"),
        ({"question": "q", "context": "c", "answers": {"text": ["c"]}}, "question-answering"),
        ({"question": "q", "context": "c", "answer": "c"}, "question-answering"),
        ({"sentence1": "x", "sentence2": "y", "label": 0}, "text-pair"),
        ({"premise": "x", "hypothesis": "y", "label": 0}, "text-pair"),
        ({"sentence1": "x", "sentence2": "y", "score": 0.5}, "text-similarity"),
        ({"text": "x", "label": "y"}, "text-classification"),
    ],
)
def test_columns_tell_the_task(columns, task, tmp_path):
    import json

    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(columns) + "\n") * 3, encoding="utf-8")
    assert guess_task(data.read(path), {}) == task


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "place"),
    [
        (0, 0),
        ("1", 1),
        (1.0, 1),
        ("A", 0),
        ("b", 1),
        ("B.", 1),
        ("(a)", 0),
        ("B、", 1),
        ("blue", 1),
        (" red ", 0),
        ([1], 1),
    ],
)
def test_labels_are_numbers_letters_or_texts(written, place):
    assert read({"question": "q", "choices": ["red", "blue"], "label": written})[1] == place


@pytest.mark.parametrize(
    ("choices", "written", "kind"),
    [
        (["red", "blue"], 2, "label-out-of-range"),
        (["red", "blue"], -1, "label-out-of-range"),
        (["red", "blue"], "C", "label-out-of-range"),
        (["red", "blue"], "green", "label-out-of-range"),
        (["1", "0"], "1", "ambiguous-label"),
        (["B", "A"], "A", "ambiguous-label"),
        (["red", "red"], "red", "ambiguous-label"),
        (["red", "blue"], None, "empty-label"),
        (["red", "blue"], [0, 1], "wrong-type"),
    ],
)
def test_labels_that_could_mislead_are_faults(choices, written, kind):
    with pytest.raises(Fault) as caught:
        read({"question": "q", "choices": choices, "label": written})
    assert caught.value.kind == kind
    assert caught.value.do


def test_numbers_that_agree_with_the_text_are_not_ambiguous():
    assert read({"question": "q", "choices": ["0", "1"], "label": 1})[1] == 1
    assert read({"question": "q", "choices": ["A", "B"], "label": "B"})[1] == 1


def test_a_label_that_counts_from_1_is_told_so():
    with pytest.raises(Fault) as caught:
        read({"question": "q", "choices": ["x", "y", "z"], "label": 3})
    assert str(caught.value) == "the label is 3, but the 3 choices are counted from 0, so that the last one is 2"
    assert caught.value.do == "subtract 1 from all labels if they count from 1, or write letters"


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_each_choice_is_read_with_the_question():
    both = {"question": "Why?", "choices": ["x", "y"]}
    assert model_inputs(record(both)) == [("Why?", "x"), ("Why?", "y")]
    assert model_inputs(record({**both, "context": "c"})) == [("c", "Why? x"), ("c", "Why? y")]
    assert model_inputs(record({"choices": ["x", "y"]})) == ["x", "y"]
    assert joined("为什么？", "因为") == "为什么？因为"
    assert joined("为什么？", "OK") == "为什么？OK"
    assert joined("", "x") == "x"


def test_length_counts_every_choice(tokenizer):
    rows = [record({"question": "a1", "choices": ["m1", "m1 m2", "w1"]}, 1), record({"choices": ["a1", "a2 a3"]}, 0)]
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=16)
    assert [example.length for example in examples] == [3 * 6, 2 * 4]
    assert [example.target for example in examples] == [1, 0]
    batch = TASK.batch(examples, tokenizer)
    assert batch["input_ids"].shape == (5, 6)
    assert batch["rows"].tolist() == [0, 0, 0, 1, 1]
    assert batch["columns"].tolist() == [0, 1, 2, 0, 1]
    assert TASK.weight(batch) == 2.0
    (cut,) = TASK.encode(
        [record({"question": "a1 a2", "choices": ["m1", "m1 m2 m3"]})], tokenizer, labels=(), max_length=6
    )
    assert cut.was_cut
    assert all(len(one.tokens) <= 6 for one in cut.each)


def test_segments_go_with_tokenizers_that_have_them(toy_base):
    tokenizer = build_tokenizer(toy_base)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    examples = TASK.encode(
        [record({"question": "a1", "choices": ["m1", "m1 m2"]})], tokenizer, labels=(), max_length=16
    )
    batch = TASK.batch(examples, tokenizer)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]


def test_logits_equal_those_of_plain_transformers(model, tokenizer):
    rows = [
        record({"question": "a1 a2", "choices": ["m1", "a3 a4 the1"]}, 1),
        record({"question": "w1", "choices": ["w2", "m1"]}, 0),
    ]
    batch = TASK.batch(TASK.encode(rows, tokenizer, labels=(), max_length=16), tokenizer)
    flat = tokenizer(
        ["a1 a2", "a1 a2", "w1", "w1"], ["m1", "a3 a4 the1", "w2", "m1"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**{name: tensor.view(2, 2, -1) for name, tensor in flat.items()}, labels=torch.tensor([1, 0]))
        mine = TASK.logits(model, batch)
        assert torch.allclose(theirs.logits, mine, atol=1e-6)
        assert TASK.loss(model, batch).item() == pytest.approx(2 * theirs.loss.item(), rel=1e-5)


def test_rows_with_different_numbers_of_choices_do_not_disturb_each_other(model, tokenizer):
    rows = toy_records("train", 12)
    assert {len(row.fields["choices"]) for row in rows} == {2, 3}
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=32)
    logits = TASK.all_logits(model, examples, tokenizer=tokenizer, batch_tokens=200)
    for row, example, found in zip(rows, examples, logits, strict=True):
        with torch.no_grad():
            alone = TASK.logits(model, TASK.batch([example], tokenizer))[0].numpy()
        assert np.abs(found[: len(alone)] - alone).max() < 1e-5
        assert (found[len(row.fields["choices"]) :] == -np.inf).all()
    batch = TASK.batch(examples, tokenizer)
    model.zero_grad()
    TASK.loss(model, batch).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():
        each = sum(
            functional.cross_entropy(
                TASK.logits(model, TASK.batch([one], tokenizer)), torch.tensor([one.target])
            ).item()
            for one in examples
        )
        assert TASK.loss(model, batch).item() == pytest.approx(each, rel=1e-5)
    values = TASK.evaluate(model, examples, tokenizer=tokenizer, labels=(), batch_tokens=512)
    assert values["loss"] == pytest.approx(each / 12, rel=1e-5)
    assert values["accuracy"] == np.mean([logits[i].argmax() == rows[i].target for i in range(12)])
    assert 0.05 <= TASK.calibrate(model, examples, tokenizer=tokenizer, labels=(), batch_tokens=512) <= 20


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_a_place_with_the_probability_of_every_choice():
    value, sure, others = answered(["x", "y", "x"], np.log([0.2, 0.5, 0.3]))
    assert (value, sure) == (1, pytest.approx(0.5))
    assert others == {"y": pytest.approx(0.5), "x": pytest.approx(0.5)}


def test_scores_of_a_hand_worked_case():
    rows = [record({"question": f"q{place}", "choices": ["x", "y"]}, 1, place) for place in range(4)]
    answers = [(1, 0.9, {}), (0, 0.6, {}), (1, 0.8, {}), (1, 0.7, {})]
    scores = TASK.score(rows, answers, labels=(), main="accuracy", seed=0)
    assert scores.value == 0.75
    assert scores.values["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    wrong = scores.details["samples"][0]
    assert (wrong["row"], wrong["expected"], wrong["answered"]) == ("rows.jsonl:1", "1: y", "0: x")
    assert TASK.difference(rows, [1] * 4, [0] * 4, metric="accuracy", seed=0).value == 1.0
    bare = TASK.score(rows, [(1, None, {})] * 4, labels=(), main="accuracy", seed=0)
    assert "ece" not in bare.values


def test_naive_answers_are_a_guess_and_the_shared_words():
    rows = [
        record({"question": "the red car stopped", "choices": ["rain fell", "the car was red"]}, 1),
        record({"question": "天下雨了", "choices": ["下雨路湿", "他笑了"]}, 0),
    ]
    splits = Splits(tuple(rows * 3), (), tuple(rows), "")
    guess, overlap = TASK.baselines(splits, labels=(), seed=0)
    assert [value for value, _, _ in overlap.answers] == [1, 0]
    assert [sure for _, sure, _ in guess.answers] == [0.5, 0.5]
    again, _ = TASK.baselines(splits, labels=(), seed=0)
    assert again.answers == guess.answers
    without = Splits((), (), (record({"choices": ["x", "y"]}, 1),), "")
    assert [one.name for one in TASK.baselines(without, labels=(), seed=0)] == ["random"]


def test_zero_shot_takes_the_choice_nearest_to_the_question(toy_base, tokenizer):
    load = partial(build_model, toy_base)
    rows = toy_records("test", 24)
    answers = TASK.zero_shot(load, tokenizer, rows, labels=(), max_length=32)
    assert np.mean([value == row.target for (value, _, _), row in zip(answers, rows, strict=True)]) > 0.9
    assert TASK.zero_shot(load, tokenizer, [record({"choices": ["a1", "m1"]})], labels=(), max_length=32) is None


def test_models_without_a_head_for_choices_are_declined():
    class Config:
        model_type = "gpt2"

    with pytest.raises(PlanProblem, match="'gpt2' has no head for choices"):
        TASK.model_class(Config())


def test_a_column_of_another_family_is_no_further_choice():
    """SWAG has sent1 and sent2 beside ending0 .. ending3: the second half of the sentence is no choice."""
    from tunesmith.data.columns import find_columns, find_form
    from tunesmith.data.readers import Source

    row = {
        "sent1": "He sat.",
        "sent2": "He",
        "ending0": "a",
        "ending1": "b",
        "ending2": "c",
        "ending3": "d",
        "label": 1,
    }
    source = Source("swag", "jsonl", "utf-8", "", tuple(row), "", lambda: iter([(1, row)]))
    form = find_form(source, TASK.forms, {})
    cells = Cells(row, find_columns(source, form.needs, {}, optional=form.optional).roles)
    assert TASK.read_input(cells)["choices"] == ["a", "b", "c", "d"]

"""One label for two texts: reading, joining and encoding apart, calibration, naive baselines."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import transformers

from toys import text_pair as toy
from tunesmith.data.layout import Cells, Fault
from tunesmith.errors import PlanProblem
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.overlap import tfidf_cosines
from tunesmith.tasks.pairs import TwoTexts, cosines, swapped_conflicts
from tunesmith.tasks.text_pair import TASK, alike_place, fit_logistic
from tunesmith.types import Origin, Record, Splits

LABELS = ("no", "yes")
APART = TASK.configured({"encoder": "bi"})


def records(rows) -> list[Record]:
    found = []
    for row, (first, second, label) in enumerate(rows, 2):
        found.append(Record(str(row), {"text_a": first, "text_b": second}, label, Origin("rows.csv", row)))
    return found


def toy_records(part: str, count: int) -> list[Record]:
    return records([(row["text_a"], row["text_b"], row["label"]) for row in toy.rows(part, count)])


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


@pytest.fixture(scope="module")
def model(toy_base):
    return build_model(toy_base, APART.model_class(None), seed=0, **APART.model_config(LABELS))


def test_both_texts_are_read_and_the_same_text_twice_is_remarked_on():
    cells = Cells({"text_a": "红色", "text_b": " 红色"})
    assert TASK.read_input(cells) == {"text_a": "红色", "text_b": " 红色"}
    assert [note.kind for note in cells.notes] == ["identical-pair"]
    with pytest.raises(Fault) as caught:
        TASK.read_input(Cells({"text_a": "a", "text_b": ""}))
    assert caught.value.kind == "empty-text_b"


def test_pairs_that_stand_the_other_way_round_with_another_label_are_remarked_on():
    rows = records([("A b", "c", "yes"), ("c", "a  B", "no"), ("d", "e", "yes"), ("e", "d", "yes"), ("f", "f", "no")])
    (problem,) = swapped_conflicts(rows)
    assert (problem.kind, problem.severity, problem.count) == ("swapped-pair", "note", 2)
    assert "'yes' in row 2 and 'no' in row 3" in problem.what
    assert list(swapped_conflicts(rows[2:])) == []


def test_joined_pairs_tell_which_text_is_which_and_the_longer_is_cut_first(toy_base):
    tokenizer = build_tokenizer(toy_base)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own tokenizer
    (example,) = TASK.encode(records([("a1", "a2 a3", "yes")]), tokenizer, labels=LABELS, max_length=16)
    assert tokenizer.convert_ids_to_tokens(example.tokens) == ["[CLS]", "a1", "[SEP]", "a2", "a3", "[SEP]"]
    assert example.segments == (0, 0, 0, 1, 1, 1)
    assert example.target == 1
    (cut,) = TASK.encode(records([("a1", "a2 a3 a4 a5", "yes")]), tokenizer, labels=LABELS, max_length=6)
    assert cut.was_cut
    assert tokenizer.convert_ids_to_tokens(cut.tokens) == ["[CLS]", "a1", "[SEP]", "a2", "a3", "[SEP]"]
    batch = TASK.batch([example, cut], tokenizer)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert TASK.weight(batch) == 2.0


def test_texts_apart_stand_one_below_the_other(tokenizer):
    examples = APART.encode(
        records([("a1", "a2 a3", "yes"), ("m1", "a1", "no")]), tokenizer, labels=LABELS, max_length=9
    )
    assert isinstance(examples[0], TwoTexts)
    assert examples[0].length == 2 * 4
    batch = APART.batch(examples, tokenizer)
    assert batch["input_ids"].shape == (4, 4)
    assert batch["labels"].tolist() == [1, 0]
    assert APART.weight(batch) == 2.0
    (cut,) = APART.encode(records([("a1", "a2 a3 a4", None)]), tokenizer, labels=LABELS, max_length=4)
    assert cut.was_cut
    assert (len(cut.tokens), len(cut.other), cut.target) == (3, 4, None)


def test_cosine_is_that_of_the_mean_states(model, tokenizer):
    rows = records([("a1", "a2 a3 the1", "yes"), ("m1 w2", "a1", "no")])
    batch = APART.batch(APART.encode(rows, tokenizer, labels=LABELS, max_length=16), tokenizer)
    with torch.no_grad():
        found = cosines(model, batch)
        for row, cosine in zip(rows, found, strict=True):
            states = [
                model(**tokenizer(row.fields[side], return_tensors="pt")).last_hidden_state[0].mean(0)
                for side in ("text_a", "text_b")
            ]
            assert torch.cosine_similarity(*states, dim=0).item() == pytest.approx(cosine.item(), abs=1e-6)


def test_texts_apart_need_two_labels_of_which_one_means_alike():
    with pytest.raises(PlanProblem, match="cannot tell 3 labels apart"):
        APART.model_config(("contradiction", "entailment", "neutral"))
    with pytest.raises(PlanProblem, match="which of the labels 'left' and 'right'"):
        APART.model_config(("left", "right"))
    with pytest.raises(PlanProblem, match="encoder is 'tri'") as caught:
        TASK.configured({"encoder": "tri"})
    assert caught.value.do == "use one of: cross, bi"
    assert APART.model_class(None) == "AutoModel"
    with pytest.raises(PlanProblem, match="'t5' cannot encode texts apart"):
        APART.model_class(transformers.T5Config())
    assert APART.model_config(LABELS)["num_labels"] == 2


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        (("0", "1"), 1),
        (("no", "yes"), 1),
        (("entailment", "not_entailment"), 0),
        (("不相似", "相似"), 1),
        (("duplicate", "unique"), 0),
        (("false", "true"), 1),
        (("not_paraphrase", "paraphrase"), 1),
        (("left", "right"), None),
        (("0", "1", "2"), None),
        (("contradiction", "neutral"), None),
    ],
)
def test_names_tell_which_label_means_alike(labels, place):
    assert alike_place(labels) == place


@pytest.mark.parametrize("labels", [("no", "yes"), ("entailment", "not_entailment")])
def test_logits_favour_the_label_of_alike_texts(toy_base, tokenizer, labels):
    model = build_model(toy_base, "AutoModel", **APART.model_config(labels))
    rows = records([("a1 a2", "a1 a2", labels[0]), ("a1 a2 a3", "m1 m2 m3", labels[1])])
    examples = APART.encode(rows, tokenizer, labels=labels, max_length=16)
    logits = APART.answer(model, examples, tokenizer=tokenizer, labels=labels, batch_tokens=99)
    alike = alike_place(labels)
    assert logits[0, alike] == pytest.approx(10.0, abs=1e-4), "the cosine of a text with itself is 1"
    assert logits[1, alike] < logits[0, alike]
    assert (logits[:, 1 - alike] == 0).all()


def test_calibration_of_texts_apart_is_kept_in_the_configuration(toy_base, tokenizer, tmp_path):
    model = build_model(toy_base, "AutoModel", **APART.model_config(LABELS))
    examples = APART.encode(toy_records("valid", 40), tokenizer, labels=LABELS, max_length=16)
    settings = {"tokenizer": tokenizer, "labels": LABELS, "batch_tokens": 512}
    model.config.cosine_scale, model.config.cosine_offset = 20.0, 30.0  # sure that nearly all texts are alike
    before = APART.answer(model, examples, **settings)
    assert APART.calibrate(model, examples, **settings) == 1.0
    after = APART.answer(model, examples, **settings)
    assert APART.measure(after, examples)["loss"] < APART.measure(before, examples)["loss"]
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert np.array_equal(APART.answer(loaded, examples, **settings), after)
    encoded = tokenizer("a1 m2", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**encoded).last_hidden_state, model(**encoded).last_hidden_state)


def test_logistic_fit_finds_slope_and_shift():
    generator = np.random.default_rng(0)
    scores = generator.normal(size=4000)
    is_true = generator.random(4000) < 1 / (1 + np.exp(-(2 * scores - 1)))
    slope, shift = fit_logistic(scores, is_true)
    assert slope == pytest.approx(2, abs=0.2)
    assert shift == pytest.approx(-1, abs=0.15)
    assert fit_logistic(np.ones(3), np.array([True] * 3)) == (1.0, 0.0)


def splits_of(train, test) -> Splits:
    return Splits(tuple(records(train)), (), tuple(records(test)), "")


def test_the_cosine_baseline_learns_from_shared_words():
    train = [(f"red car {i}", f"red car {i}!", "yes") for i in range(6)]
    train += [(f"red car {i}", f"blue sky {i + 9}", "no") for i in range(6)]
    splits = splits_of(train, [("a blue car", "a blue car", "yes"), ("red", "sky", "no")])
    found = {one.name: one for one in TASK.baselines(splits, labels=LABELS, seed=0)}
    assert set(found) == {"majority", "tfidf", "cosine"}
    assert [value for value, _, _ in TASK.decode(found["cosine"].answers, labels=LABELS)] == ["yes", "no"]


def test_the_cosine_baseline_reads_chinese():
    near, far = tfidf_cosines(["今天天气很好", "明天去哪里"], ["今天天气好"] * 2, ["今天天气不错", "明天去哪里"])
    assert near > far


def test_zero_shot_needs_labels_that_tell(toy_base, tokenizer):
    load = partial(build_model, toy_base)
    rows = records([("a1 a2", "a1 a2", "yes"), ("a1", "m1", "no")])
    settings = {"labels": LABELS, "max_length": 16}
    answers = TASK.zero_shot(load, tokenizer, rows, **settings)
    assert answers[0].tolist() == pytest.approx([0, 10], abs=1e-4)
    assert TASK.zero_shot(load, tokenizer, rows, labels=("a", "b", "c"), max_length=16) is None


def test_the_report_shows_both_texts():
    rows = records([("first", "second", "yes")])
    scores = TASK.score(rows, np.array([[2.0, 0.0]]), labels=LABELS, main="accuracy", seed=0)
    assert scores.worst[0]["text"] == "first\nsecond"

"""Relations: reading pairs, marking them, keeping both in sight, and scores against the official and reference ones."""

from __future__ import annotations

import importlib
import json
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_fscore_support

from tunesmith.data.layout import Cells, Fault
from tunesmith.metrics import spans
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks.marked_pair import Marked, cut_around, mark
from tunesmith.tasks.relation_extraction import TASK, between, majority_pair
from tunesmith.tasks.relation_scores import counting
from tunesmith.tasks.token_windows import fast_tokens
from tunesmith.types import Origin, Record, Span, Splits, to_json

TEXT = "Mary Ann works for Acme."
ROW = {"text": TEXT, "head": [0, 8], "tail": [19, 23], "relation": "works-for"}
PAIR = (Span(0, 8), Span(19, 23))


def read(row: dict) -> tuple[dict, list]:
    cells = Cells(row)
    return TASK.read_input(cells), cells.notes


def record(row: dict, number: int = 1) -> Record:
    return Record(str(number), read(row)[0], row.get("relation"), Origin("rows.jsonl", number))


def fault(row: dict) -> Fault:
    with pytest.raises(Fault) as caught:
        read(row)
    return caught.value


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "head": [0, 8], "tail": [19, 23]},
        {"text": TEXT, "head": "[0, 8]", "tail": "[19, 23]"},
        {"text": TEXT, "head": {"start": 0, "end": 8}, "tail": {"span": [19, 23], "text": "Acme"}},
        {"text": TEXT, "head": '{"start": 0, "end": 8}', "tail": {"pos": [19, 23], "name": "Acme"}},
        {"text": TEXT, "head": "Mary Ann", "head_span": [0, 8], "tail": "Acme", "tail_span": "[19, 23]"},
        {"text": TEXT, "head_span": [0, 8], "tail_span": [19, 23]},
        {"text": TEXT, "head": "Mary Ann", "tail": "Acme"},
        {"text": "<e1>Mary Ann</e1> works for <e2>Acme</e2>."},
        {"text": "[E1]Mary Ann[/E1] works for [E2]Acme[/E2]."},
    ],
)
def test_pairs_are_written_in_many_ways(row):
    fields, notes = read(row)
    assert (fields["head"], fields["tail"]) == PAIR
    assert fields["text"] == TEXT
    assert notes == []


def test_types_stand_in_objects_or_in_columns_of_their_own():
    head = {"start": 0, "end": 8, "type": "PERSON"}
    fields, _ = read({"text": TEXT, "head": head, "tail": [19, 23], "tail_type": "ORG_COMPANY"})
    assert (fields["head"].label, fields["tail"].label) == ("PERSON", "ORG_COMPANY")
    assert TASK.text_of(fields) == "@ * person * Mary Ann @ works for # ^ org company ^ Acme # ."


def test_markers_without_types():
    assert TASK.text_of(read(ROW)[0]) == "@ Mary Ann @ works for # Acme # ."
    fields, _ = read({"text": "上航与东方航空合并", "head": "东方航空", "tail": "上航"})
    assert TASK.text_of(fields) == "# 上航 # 与 @ 东方航空 @ 合并"


def test_markers_of_entities_that_touch_or_hold_each_other():
    text = "New York City"
    inner = {"text": text, "head": Span(0, 13), "tail": Span(4, 8)}
    assert mark(inner).text == "@ New # York # City @"
    assert mark({"text": text, "head": Span(4, 8), "tail": Span(0, 8)}).text == "# New @ York @ # City"
    touching = mark({"text": "ab", "head": Span(0, 1), "tail": Span(1, 2)})
    assert touching.text == "@ a @ # b #"
    assert [touching.text[a:b] for a, b in (touching.head, touching.tail)] == ["@ a @", "# b #"]


def test_the_places_of_marked_entities_hold_their_markers():
    marked = mark(read(ROW)[0])
    assert marked.text[slice(*marked.head)] == "@ Mary Ann @"
    assert marked.text[slice(*marked.tail)] == "# Acme #"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"tail": [19, 30]}, "place-outside-text"),
        ({"tail": [-2, 3]}, "place-outside-text"),
        ({"tail": [8, 9]}, "empty-entity"),
        ({"tail": [0, 8]}, "same-entity"),
        ({"tail": "Apple"}, "entity-not-in-text"),
        ({"tail": "Apple", "tail_span": [19, 23]}, "entity-not-in-text"),
        ({"tail": ""}, "empty-tail"),
        ({"tail": None}, "empty-tail"),
        ({"tail": [1, 2, 3]}, "wrong-place"),
        ({"tail": ["a", "b"]}, "wrong-place"),
        ({"tail": {"start": True, "end": 3}}, "wrong-place"),
        ({"text": ""}, "empty-text"),
    ],
)
def test_pairs_that_cannot_be_used_say_why(change, kind):
    found = fault({**ROW, **change})
    assert found.kind == kind
    assert len(found.do) > 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<e1>Mary</e1> works for <e2>Acme.", "the marker </e2> is missing"),
        ("<e1>Mary</e1> works for Acme.", "the marker <e2> is missing"),
        ("<e1>Mary</e1> and <e1>Ann</e1> of <e2>Acme</e2>", "the marker <e1> is there 2 times"),
        ("</e1>Mary<e1> works for <e2>Acme</e2>", "the marker </e1> stands before <e1>"),
        ("Mary works for Acme.", "the marker <e1> is missing"),
    ],
)
def test_a_missing_marker_is_told(text, told):
    found = fault({"text": text})
    assert (found.kind, str(found)) == ("missing-marker", told)


@pytest.mark.parametrize(
    ("change", "kind", "span"),
    [
        ({"tail": "Acme", "tail_span": [17, 21]}, "entity-elsewhere", Span(19, 23)),
        ({"tail": [18, 23]}, "white-space-around-entity", Span(19, 23)),
        ({"tail": "r"}, "entity-repeated", Span(2, 3)),
    ],
)
def test_odd_pairs_are_used_and_remarked(change, kind, span):
    fields, notes = read({**ROW, **change})
    assert fields["tail"] == span
    assert [note.kind for note in notes] == [kind]


def test_the_nearest_of_several_places_is_taken():
    fields, _ = read({"text": "ab ab ab c", "head": "ab", "head_span": [4, 6], "tail": "c"})
    assert fields["head"] == Span(3, 5)


# --- encoding ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(toy_base):
    return build_tokenizer(toy_base)


def toy_rows(count: int = 40, part: str = "train") -> list[Record]:
    toy = importlib.import_module("toys.relation_extraction")
    return [record(row, number) for number, row in enumerate(toy.rows(part, count))]


def test_encode_gives_the_marked_text_as_the_tokenizer_would(tokenizer):
    for one in toy_rows(5):
        (example,) = TASK.encode([one], tokenizer, labels=("digs", "drives", "rusts"), max_length=32)
        assert list(example.tokens) == tokenizer(TASK.text_of(one.fields))["input_ids"]
        assert not example.was_cut


@pytest.mark.parametrize("distance", [0, 3, 40])
@pytest.mark.parametrize("max_length", [10, 12, 20])
def test_long_texts_are_cut_around_both_entities(tokenizer, distance, max_length):
    words = ["the1"] * 30 + ["a1"] + ["the2"] * distance + ["m1"] + ["the3"] * 30
    one = record({"text": " ".join(words), "head": "m1", "tail": "a1", "relation": "x"})
    (example,) = TASK.encode([one], tokenizer, labels=("x",), max_length=max_length)
    kept = tokenizer.convert_ids_to_tokens(example.tokens)
    assert example.was_cut
    assert len(kept) == max_length
    assert (kept[0], kept[-1]) == ("[CLS]", "[SEP]")
    for word in ("a1", "m1"):
        place = kept.index(word)
        assert kept[place - 1] == kept[place + 1] == "[UNK]", "its markers stay"
    assert kept.index("a1") < kept.index("m1")


def test_cut_keeps_as_much_as_there_is_room_for():
    places = [(place, place + 1) for place in range(100)]
    marked = Marked("x" * 100, (95, 98), (90, 93))
    assert cut_around(places, marked, 20) == list(range(80, 100))
    assert cut_around(places, Marked("x" * 100, (0, 3), (5, 8)), 20) == list(range(20))
    assert cut_around(places, Marked("x" * 100, (10, 13), (80, 83)), 10) == [*range(10, 15), *range(78, 83)]
    assert len(cut_around(places, Marked("x" * 100, (10, 30), (60, 90)), 9)) == 9


def test_tokens_are_found_for_chinese(tokenizer):
    marked = mark({"text": "上航与东方航空合并", "head": Span(3, 7), "tail": Span(0, 2)})
    ((ids, places),) = fast_tokens([marked.text], tokenizer)
    assert len(cut_around(places, marked, 3)) == 3
    assert len(ids) == len(places)


# --- scores -----------------------------------------------------------------------------------------------------------


def certain(answers, labels) -> np.ndarray:
    return np.array([[5.0 if label == answer else 0.0 for label in labels] for answer in answers])


def score(expected, answered, labels, main="macro_f1"):
    rows = [record({**ROW, "relation": label}, number) for number, label in enumerate(expected, 1)]
    return TASK.score(rows, certain(answered, labels), labels=labels, main=main, seed=0)


@pytest.mark.parametrize("name", ["Other", "unknown", "no_relation", "NA", "无关系", "N/A"])
def test_no_relation_is_left_out(name):
    how = counting(["a", name, "b"])
    assert (how.relations, how.left_out, how.is_directed) == (("a", "b"), (name,), False)


def test_all_labels_count_where_none_would_be_left():
    assert counting(["other", "NA"]).relations == ("NA", "other")


def test_scores_equal_scikit_learn_over_the_relations_that_count():
    labels = ("NA", "a", "b", "c")
    generator = np.random.default_rng(0)
    expected, answered = (list(generator.choice(labels, size=200)) for _ in range(2))
    scores = score(expected, answered, labels)
    assert scores.details["left_out"] == ["NA"]
    for average in ("macro", "micro"):
        theirs = f1_score(expected, answered, labels=["a", "b", "c"], average=average)
        assert scores.values[f"{average}_f1"] == pytest.approx(theirs, abs=1e-12)
    precision, recall, _, _ = precision_recall_fscore_support(
        expected, answered, labels=["a", "b", "c"], average="micro"
    )
    assert (scores.values["precision"], scores.values["recall"]) == pytest.approx((precision, recall), abs=1e-12)
    assert scores.values["accuracy"] == pytest.approx(np.mean(np.array(expected) == np.array(answered)))
    assert set(scores.per_label) == set(labels), "the table shows every label"


def test_directed_labels_are_scored_as_in_semeval_2010():
    labels = ("Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)", "Other")
    generator = np.random.default_rng(1)
    expected, answered = (list(generator.choice(labels, size=150)) for _ in range(2))
    scores = score(expected, answered, labels)
    sums = spans.relation_statistics(expected, answered, ["Cause-Effect", "Message-Topic"]).sum(0)
    assert scores.value == pytest.approx(float(spans.relation_values(sums)["macro_f1"]), abs=1e-12)
    assert scores.details["scorer"] == "SemEval-2010 task 8"


def test_a_wrong_direction_worked_by_hand():
    forth, back = "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)"
    scores = score([forth, forth, back, "Other"], [forth, back, back, "Other"], (forth, back, "Other"))
    assert scores.values["macro_f1"] == pytest.approx(2 / 3)
    assert scores.values["accuracy"] == 0.75


def test_samples_show_both_entities_wrong_rows_first():
    scores = score(["a", "b"], ["a", "a"], ("a", "b"))
    first, second = scores.details["samples"]
    assert (first["right"], first["expected"], first["answered"]) == (False, "b", "a")
    assert first["input"] == {"text": TEXT, "head": "Mary Ann", "tail": "Acme"}
    assert first["expected_spans"] == [
        {"start": 0, "end": 8, "label": "head"},
        {"start": 19, "end": 23, "label": "tail"},
    ]
    assert second["right"]
    json.dumps(to_json(scores))


def test_difference_uses_the_same_score():
    rows = [record({**ROW, "relation": label}) for label in ("a", "b", "NA", "b")]
    found = TASK.difference(rows, ["a", "b", "NA", "b"], ["a", "a", "a", "NA"], metric="macro_f1", seed=0)
    assert found.value == pytest.approx(1 - (2 * 1 / 4 + 0) / 2)


def test_evaluate_equals_score(toy_base, tokenizer):
    rows = toy_rows(30)
    labels = TASK.labels(rows)
    model = build_model(toy_base, TASK.model_class(None), seed=0, **TASK.model_config(labels))
    examples = TASK.encode(rows, tokenizer, labels=labels, max_length=32)
    options = {"tokenizer": tokenizer, "labels": labels, "batch_tokens": 200}
    measured = TASK.evaluate(model, examples, **options)
    scores = TASK.score(rows, TASK.answer(model, examples, **options), labels=labels, main="macro_f1", seed=0)
    assert {name: measured[name] for name in TASK.metrics} == pytest.approx(
        {name: scores.values[name] for name in TASK.metrics}
    )
    with torch.no_grad():
        loss = TASK.loss(model, TASK.batch(examples, tokenizer)).item() / len(examples)
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)
    before = TASK.zero_shot(partial(build_model, toy_base), tokenizer, rows, labels=labels, max_length=32)
    assert before.shape == (30, 3)


# --- baselines --------------------------------------------------------------------------------------------------------


def test_majority_pair_knows_the_types_and_falls_back():
    def typed(head: str, tail: str, relation: str) -> Record:
        return record({**ROW, "head_type": head, "tail_type": tail, "relation": relation})

    train = [typed("P", "C", "works"), typed("P", "C", "works"), typed("P", "P", "knows"), typed("P", "C", "owns")]
    test = [typed("P", "P", "knows"), typed("P", "C", "works"), typed("C", "C", "owns")]
    labels = ("knows", "owns", "works")
    baseline = majority_pair(Splits(tuple(train), (), tuple(test), ""), labels)
    decoded = TASK.decode(baseline.answers, labels=labels)
    assert [value for value, _, _ in decoded] == ["knows", "works", "works"]


def test_the_words_between_tell_the_order():
    assert between(read(ROW)[0]) == "headfirst Mary Ann works for Acme"
    assert between(read({**ROW, "head": [19, 23], "tail": [0, 8]})[0]) == "tailfirst Mary Ann works for Acme"


def test_tfidf_learns_the_words_between():
    def rows(verb: str, relation: str) -> list[Record]:
        said = [f"{head} {verb} {tail}" for head, tail in (("Ann", "Bob"), ("Cid", "Dan"), ("Eve", "Fay"))]
        return [record({"text": t, "head": t[:3], "tail": t[-3:], "relation": relation}) for t in said]

    train = rows("loves", "likes") + rows("hits", "hurts")
    test = [record({"text": "Gus hits Hal", "head": "Gus", "tail": "Hal", "relation": "hurts"})]
    labels = ("hurts", "likes")
    _, tfidf = TASK.baselines(Splits(tuple(train), (), tuple(test), ""), labels=labels, seed=0)
    assert [value for value, _, _ in TASK.decode(tfidf.answers, labels=labels)] == ["hurts"]


def test_fields_that_were_read_can_be_asked_again():
    fields, _ = read({**ROW, "head_type": "P"})
    assert read(fields) == (fields, [])

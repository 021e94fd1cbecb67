"""Every noun survives the way to JSON and back, and a plan's id is the hash of what shapes the weights."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tunesmith import types
from tunesmith.types import (
    Augmentation,
    Comparison,
    Difference,
    Entity,
    Event,
    Feedback,
    Gain,
    Inspection,
    Origin,
    Plan,
    Prediction,
    Problem,
    Record,
    Rejected,
    Scores,
    Span,
    Splits,
    from_json,
    to_json,
)

ORIGIN = Origin("rows.csv", 3)
RECORD = Record("a-1", {"text": "不错"}, "好", ORIGIN)
UNLABELLED = Record("a-2", {"text": "x"}, None, Origin("rows.csv", 4))
PROBLEM = Problem("warning", "leak", "two rows", "look", ORIGIN, 2)
REJECTED = Rejected(ORIGIN, "empty-text", "no text", "write one", {"text": ""})
SCORES = Scores(
    values={"accuracy": 0.75, "ece": 0.1},
    intervals={"accuracy": (0.5, 1.0)},
    n=4,
    main="accuracy",
    seconds=1.5,
    per_label={"a": {"precision": 1.0, "support": 2}},
    details={"labels": ["a", "b"], "confusion": [[1, 1], [0, 2]], "abstain": {"threshold": 0.5}},
    worst=({"text": "x", "row": "rows.csv:3", "confidence": 0.9},),
)
DIFFERENCE = Difference("accuracy", 0.25, (-0.1, 0.6), 4)
GAIN = Gain(
    {"majority": SCORES, "tfidf": SCORES},
    SCORES,
    SCORES,
    {"tfidf": DIFFERENCE},
    0.5,
    12.0,
    "It beats.",
    ("More rows.",),
)
PLAN = Plan(
    task="text-classification",
    method="full",
    base="minilm",
    base_sha256="00ff",
    data={"files": {"data": {"path": "a.csv", "sha256": "1"}}, "train": 8},
    labels=("a", "b"),
    options={"learning_rate": 1e-4, "abstain_precision": None},
    seed=0,
    device="cpu",
    threads=1,
    precision="no",
    steps=10,
    expected_seconds=1.0,
    expected_memory_mib=100.0,
    versions={"torch": "2"},
    parent="abc",
)
AUGMENTATION = Augmentation("delete", {"share": 0.1, "copies": 2}, 3, {"a repeat": 1}, (("a b", "a"),))
INSPECTION = Inspection(
    path="rows.csv",
    format="csv",
    encoding="utf-8",
    delimiter=",",
    sha256="0",
    rows=5,
    used=4,
    columns=("text", "label"),
    roles={"text": "text"},
    inferred=("a guess",),
    label_counts={"a": 2, "b": 2},
    length_histogram=((0, 16, 3), (16, 32, 1)),
    duplicates=0,
    personal={"email": 1},
    rejected=(REJECTED,),
    problems=(PROBLEM, dataclasses.replace(PROBLEM, origin=None)),
    augmented=(AUGMENTATION,),
)
NOUNS = [
    *(ORIGIN, RECORD, UNLABELLED, PROBLEM, REJECTED, SCORES, DIFFERENCE, GAIN, dataclasses.replace(GAIN, before=None)),
    *(PLAN, AUGMENTATION, INSPECTION, Splits((RECORD,), (UNLABELLED,), (), "f")),
    Event("evaluation", 1.0, 7, {"accuracy": 0.5}, "words"),
    *(Span(0, 2, "person"), Entity("Ada", "person", 0, 3, 0.9)),
    Comparison(
        "accuracy", {"one": SCORES}, {"one - two": DIFFERENCE}, {"a": {"one": 1.0}}, ({"text": "x", "right": []},), 1, 4
    ),
    Prediction("p", "a", 0.9, {"a": 0.9, "b": 0.1}, 0.01, "id"),
    Prediction("p", None, None, {}, 0.01, "id"),
    Feedback("f", "p", "topics", "id", {"text": "x"}, "a", False, "b", "no", "Ada", "subject", 1.5),
]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: type(noun).__name__)
def test_every_noun_survives_json(noun):
    text = json.dumps(to_json(noun), ensure_ascii=False, allow_nan=False)
    assert from_json(type(noun), json.loads(text)) == noun


def test_no_noun_is_left_out_here():
    nouns = {item for item in vars(types).values() if dataclasses.is_dataclass(item) and isinstance(item, type)}
    assert nouns == {type(noun) for noun in NOUNS}


def test_nouns_are_frozen():
    for noun in NOUNS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(noun, dataclasses.fields(noun)[0].name, None)


def test_unknown_entries_are_left_out_and_missing_ones_take_their_default():
    assert from_json(Event, {"kind": "note", "seconds": 1.0, "new": 1}) == Event("note", 1.0)


def test_paths_turn_into_text():
    assert to_json({"path": Path("a") / "b", 3: (1, 2)}) == {"path": str(Path("a") / "b"), "3": [1, 2]}


CHANGES = [
    *({"task": "other"}, {"method": "top-layers"}, {"base_sha256": "1"}, {"labels": ("b", "a")}, {"seed": 1}),
    *({"data": {"train": 9}}, {"options": {"learning_rate": 2e-4}}, {"steps": 11}, {"threads": 2}, {"parent": ""}),
    *({"precision": "bf16"}, {"versions": {"torch": "3"}}, {"device": "cuda"}),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_plan_id_changes_with_its_content(change):
    assert dataclasses.replace(PLAN, **change).id != PLAN.id


def test_plan_id_does_not_depend_on_the_estimates_or_the_order_of_keys():
    other = dataclasses.replace(PLAN, expected_seconds=9.0, expected_memory_mib=9.0)
    assert other.id == PLAN.id
    assert dataclasses.replace(PLAN, options=dict(reversed(PLAN.options.items()))).id == PLAN.id
    assert from_json(Plan, json.loads(json.dumps(to_json(PLAN)))).id == PLAN.id
    assert len(PLAN.id) == 16
    assert int(PLAN.id, 16) >= 0


def test_scores_and_differences_speak_for_themselves():
    assert (SCORES.value, SCORES.interval) == (0.75, (0.5, 1.0))
    assert not DIFFERENCE.is_clear
    assert Difference("accuracy", 0.2, (0.1, 0.3), 4).is_clear
    assert Difference("accuracy", -0.2, (-0.3, -0.1), 4).is_clear
    assert str(ORIGIN) == "rows.csv:3"

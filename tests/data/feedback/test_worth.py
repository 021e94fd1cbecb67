"""The rows that a person is shown: unsure ones, unlike each other, some by chance."""

from __future__ import annotations

import random

from feedback_rows import answered
from tunesmith.data.feedback.worth import worth_labelling


def pool(size=300, seed=0):
    generator = random.Random(seed)
    words = [f"word{number}" for number in range(60)]
    return [
        answered(
            f"p{number}",
            fields={"text": f"{' '.join(generator.sample(words, 6))} {number}"},
            confidence=generator.uniform(0.3, 1.0),
        )
        for number in range(size)
    ]


def test_unsure_rows_come_first_and_a_few_by_chance():
    rows = pool()
    chosen = worth_labelling(rows, 20, seed=1)
    assert len(chosen) == len({row.prediction for row in chosen}) == 20
    sure = sorted(row.confidence for row in rows)
    assert sum(row.confidence <= sure[100] for row in chosen) >= 18
    assert chosen[0].confidence <= sure[3]
    by_chance = {seed: worth_labelling(rows, 20, seed=seed) for seed in range(12)}
    confident = [row for found in by_chance.values() for row in found if row.confidence > sure[200]]
    assert confident, "mistakes that the model is sure of can be found"


def test_the_same_seed_gives_the_same_rows():
    assert worth_labelling(pool(), 15, seed=3) == worth_labelling(pool(), 15, seed=3)
    assert worth_labelling(pool(), 15, seed=3) != worth_labelling(pool(), 15, seed=4)


def test_the_same_text_is_shown_once_and_like_texts_are_spread():
    def made(name, texts, confidence):
        return [
            answered(f"{name}{number}", fields={"text": text}, confidence=confidence)
            for number, text in enumerate(texts)
        ]

    alike = made("a", [f"please reset my password now {number}" for number in range(30)], 0.50)
    same = made("s", ["The  SAME text"] * 30, 0.4)
    others = made("o", ["where is the train", "cheap flights to Rome", "my card was stolen", "地铁几点开"], 0.55)
    chosen = worth_labelling([*alike, *same, *others], 6, seed=0)
    kinds = [row.prediction[0] for row in chosen]
    assert kinds.count("s") <= 1
    assert kinds.count("o") >= 3


def test_fewer_rows_than_asked_for_and_none_at_all():
    assert worth_labelling([], 5) == []
    assert worth_labelling(pool(3), 0) == []
    assert {row.prediction for row in worth_labelling(pool(3), 10)} == {"p0", "p1", "p2"}


def test_answers_without_confidence_and_inputs_of_any_shape_can_be_chosen():
    rows = [
        answered("a", confidence=None, fields={"messages": [{"role": "user", "content": "hello"}]}),
        answered("b", confidence=0.99, fields={"question": "?", "choices": ["x", "y"]}),
        answered("c", confidence=0.1, fields={"text": ""}),
    ]
    assert [row.prediction for row in worth_labelling(rows, 3)] == ["c", "a", "b"]

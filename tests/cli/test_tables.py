"""What is printed fits 80 columns, in English and in Chinese."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from made_up import make_gain, make_inspection, make_plan, make_scores
from tunesmith.cli import tables
from tunesmith.types import Comparison, Difference

LABELS = {
    "English": ["neg", "pos"],
    "Chinese": ["体育新闻频道", "娱乐", "财经", "房产家居", "教育"],
    "many": [f"a_rather_long_intent_name_number_{index}" for index in range(77)],
}


def comparison(labels):
    scores = {"一个运行": make_scores(labels), "another-run-with-a-long-name": make_scores(labels, seed=1)}
    winners = {label: {name: each.per_label[label]["f1"] for name, each in scores.items()} for label in labels}
    row = {
        "text": "很长的文本" * 30,
        "row": "a.csv:2",
        "expected": labels[0],
        "answers": dict.fromkeys(scores, labels[1]),
    }
    difference = {"一个运行 - another-run-with-a-long-name": Difference("accuracy", 0.0, (-0.1, 0.1), 60)}
    return Comparison("accuracy", scores, difference, winners, (row,) * 12, 12, 60)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("colour", [False, True])
def test_no_line_is_wider_than_the_terminal(kind, colour):
    labels = LABELS[kind]
    scores = make_scores(labels, n=200)
    shown = (
        tables.gain_table(make_gain(labels)),
        tables.scores_table(scores),
        tables.per_label_table(scores),
        tables.confusion_table(scores),
        tables.inspection_lines(make_inspection(labels, "一个/很长的/文件名/" * 6 + "评论.csv")),
        tables.plan_lines(make_plan(labels), make_inspection(labels), ("文本是列 'x'",), base="minilm"),
        tables.comparison_lines(comparison(labels)),
    )
    for renderable in shown:
        text = tables.render(renderable, width=80, colour=False)
        assert text.strip()
        assert max(cell_len(line) for line in text.splitlines()) <= 80
        assert "\x1b" not in text
        assert tables.render(renderable, width=80, colour=colour)


def test_gain_table_says_what_it_should():
    text = tables.render(tables.gain_table(make_gain(["a", "b"])))
    for expected in (
        "Majority class",
        "TF-IDF + logistic regression",
        "Before adaptation",
        "Adapted model",
        "95% interval",
    ):
        assert expected in text
    assert "60 test rows that training never saw" in text


def test_problems_of_one_kind_are_told_together():
    text = tables.render(tables.inspection_lines(make_inspection(["a", "b"])))
    assert text.count("the same text stands under 2 labels") == 3
    assert "and 3 more like these" in text
    assert text.count("choose one") == 1
    assert "reviews.csv:7  empty-text: column 'text' is empty" in text


@pytest.mark.parametrize(
    ("text", "cells"), [("短", 9), ("很长的一段中文文本需要截断", 9), ("plain english words", 9), ("a\nb", 9)]
)
def test_cut_counts_cells_not_characters(text, cells):
    short = tables.cut(text, cells)
    assert cell_len(short) <= cells
    assert "\n" not in short

"""Scores, gains and plans of any size, made up, for what only has to show them."""

from __future__ import annotations

import numpy as np

from tunesmith import metrics
from tunesmith.types import Difference, Event, Gain, Inspection, Origin, Plan, Problem, Rejected, Scores

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "a\0b", "\u202egnp.exe", "x" * 300]


def make_scores(labels: list[str], n: int = 60, *, text: str = "some text", seed: int = 0) -> Scores:
    generator = np.random.default_rng(seed)
    expected = generator.integers(0, len(labels), n)
    chances = metrics.softmax(generator.normal(size=(n, len(labels))) + 2 * np.eye(len(labels))[expected])
    scores = metrics.classification_scores(expected, chances, labels)
    rows = [{"text": f"{text} {row}", "row": f"data.csv:{row}"} for row in range(n)]
    worst = metrics.worst_mistakes(expected, chances, labels, rows)
    return Scores(**{**vars(scores), "worst": worst, "seconds": 12.3})


def make_gain(labels: list[str], n: int = 60, *, text: str = "some text") -> Gain:
    parts = {
        name: make_scores(labels, n, text=text, seed=seed) for seed, name in enumerate(("majority", "tfidf", "b", "a"))
    }
    differences = {name: Difference("accuracy", 0.1, (-0.05, 0.25), n) for name in ("majority", "tfidf", "before")}
    baselines = {"majority": parts["majority"], "tfidf": parts["tfidf"]}
    return Gain(baselines, parts["b"], parts["a"], differences, 1.0, 75.0, "It cannot be told.", ("More rows help.",))


def make_plan(labels: list[str]) -> Plan:
    options = {"epochs": 3.0, "batch_size": 16, "learning_rate": 1e-4, "max_length": 64, "abstain_precision": None}
    data = {"train": 70, "valid": 10, "test": 20, "cut": 1, "roles": {"text": "t"}, "fingerprint": "f", "files": {}}
    versions = {"tunesmith": "0.1.0"}
    return Plan(
        "text-classification", "full", "/home/me/secret/base", "c" * 64, data, tuple(labels), options, 0, "cpu", 2,
        "no", 30, 12.0, 900.0, versions,
    )  # fmt: skip


def make_events(steps: int = 30) -> list[Event]:
    events = [Event("step", step / 3, step, {"loss": 2 / step, "learning_rate": 1e-4}) for step in range(1, steps + 1)]
    scores = {step: {"loss": 1 / step, "accuracy": 0.5 + step / 100, "best": 0.8} for step in (10, 20, 30)}
    return [*events, *(Event("evaluation", step / 3, step, values) for step, values in scores.items())]


def make_inspection(labels: list[str], path: str = "reviews.csv") -> Inspection:
    origin = Origin(path, 7)
    conflicts = tuple(
        Problem(
            "warning", "conflicting-labels", f"the same text stands under 2 labels (row {row})", "choose one", origin
        )
        for row in range(6)
    )
    return Inspection(
        path, "csv", "utf-8", ",", "d" * 64, 100, 99, ("text", "label"), {"text": "text", "label": "label"},
        ("text is column 'text'",), dict.fromkeys(labels, 9), ((0, 50, 60), (50, 100, 39)), 3, {"e-mail": 2},
        (Rejected(origin, "empty-text", "column 'text' is empty", "fill it", {"label": "a"}),), conflicts,
    )  # fmt: skip

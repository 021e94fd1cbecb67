"""The embedded base model: found without a network, understood, tuned, and loaded by plain Transformers."""

from __future__ import annotations

import csv
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

import tunesmith
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.models.find import find_base
from tunesmith.tasks.text_classification import TASK
from tunesmith.types import Origin, Record


@pytest.fixture(scope="module")
def base():
    return find_base("minilm")


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> Path:
    """A hundred English rows of the sample that ships with the package, four topics."""
    sample = files("tunesmith.data").joinpath("samples", "support_messages.csv").read_text(encoding="utf-8")
    topics = {"delivery", "refund", "account", "compliment"}
    rows = [row for row in csv.DictReader(sample.splitlines()) if row["language"] == "en" and row["topic"] in topics]
    path = tmp_path_factory.mktemp("english") / "messages.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([row["message"], row["topic"]] for row in rows[:100])])
    return path


def test_zero_shot_knows_what_words_mean(base):
    texts = ["The striker scored twice in the second half", "Shares fell after the bank cut its forecast"]
    records = [Record(str(row), {"text": text}, None, Origin("x", row)) for row, text in enumerate(texts)]
    load, tokenizer = partial(build_model, base.folder), build_tokenizer(base.folder)
    answers = TASK.zero_shot(load, tokenizer, records, labels=("finance", "football"), max_length=64)
    assert answers.argmax(1).tolist() == [1, 0]


def test_its_unused_pooler_starts_as_the_identity(base):
    model = build_model(base.folder, TASK.model_class(None), **TASK.model_config(("a", "b")))
    assert torch.equal(model.bert.pooler.dense.weight, torch.eye(384))


def test_a_short_run_learns_and_plain_transformers_agrees(english, tmp_path):
    run = tunesmith.train(
        english, epochs=4, method="top-layers", top_layers=1, threads=1, test_share=0.3, out=str(tmp_path / "run")
    )
    gain = run.gain
    assert gain.after.value > gain.baselines["majority"].value + 0.2
    assert gain.after.value >= 0.6
    texts = ["My parcel is still not here", "I want my money back", "Thank you, wonderful service"]
    from transformers import pipeline

    plain = pipeline("text-classification", model=str(run.path), top_k=None, device="cpu")
    for text, prediction in zip(texts, run.predict(texts), strict=True):
        theirs = {row["label"]: row["score"] for row in plain([text], truncation=True)[0]}
        assert theirs.keys() == prediction.alternatives.keys()
        for label, score in theirs.items():
            assert np.isclose(score, prediction.alternatives[label], atol=1e-5)

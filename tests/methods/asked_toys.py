"""Runs of methods that ask in words, in the toy world: their rows, words and bases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import toy_world
from toy_world import FAMILIES, WORDS
from toys import multi_label_classification, text_classification, text_pair
from tunesmith import load
from tunesmith.training.job import Job
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import make_recipe

TOYS = {
    "text-classification": text_classification,
    "text-pair": text_pair,
    "multi-label-classification": multi_label_classification,
}
FAMILY_WORDS = ",".join(f"{family}={'|'.join(WORDS[family][:4])}" for family in FAMILIES)
ROWS = {"data": ("train", 60), "valid": ("valid", 30), "test": ("test", 60)}


def options(folder: Path, task: str = "text-classification", **more: Any) -> dict[str, Any]:
    """Give the recipe keys of a run on the toy of a task."""
    found: dict[str, Any] = {"task": task, "out": str(folder / "run"), "batch_size": 16, "threads": 1}
    for key, (part, count) in ROWS.items():
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in TOYS[task].rows(part, count)), encoding="utf-8")
        found[key] = str(path)
    return {**found, **more}


def run(given: dict[str, Any]) -> Job:
    """Give the finished job."""
    job = prepare(make_recipe(given))
    list(job.run())
    return job


def answers_again(job: Job) -> None:
    """Assert that the saved bundle answers as the model in memory does, to the bit, and one by one as in a batch."""
    bundle = load(job.bundle.path)
    records = list(job.intake.splits.test[:6])
    examples = bundle.task.encode(
        records, job.tokenizer, labels=job.plan.labels, max_length=int(job.plan.options["max_length"])
    )
    settings = {"tokenizer": job.tokenizer, "labels": job.plan.labels, "batch_tokens": bundle.facts["batch_tokens"]}
    kept = bundle.answer(records)
    assert (kept == job.intake.task.answer(job.model, examples, **settings)).all()
    alone = [bundle.answer([record])[0] for record in records]
    assert (abs(kept - alone) <= 2e-5 * np.maximum(1, abs(kept))).all()
    assert len(bundle.predict([dict(record.fields) for record in records])) == 6


def make_judge(folder: Path) -> Path:
    """Save a small untrained model that says contradiction, neutral or entailment."""
    torch.manual_seed(0)
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    tokenizer = toy_world.make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        id2label=names,
        label2id={name: place for place, name in names.items()},
    )
    transformers.utils.logging.disable_progress_bar()
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Whether a task's loss leads where its score looks: 64 training rows are learnt by heart."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from tunesmith import data
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import find_task

OPTIONS = {"text-pair": ({}, {"encoder": "bi"}), "text-similarity": ({}, {"encoder": "bi"})}
NAMES = ("multiple-choice", "question-answering", "text-pair", "text-similarity")
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, ({},))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_64_rows_are_learnt_by_heart(name, options, toy_base, tmp_path):
    task = find_task(name).configured(options)
    rows = importlib.import_module(f"toys.{name.replace('-', '_')}").rows("train", 64)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = data.read(path)
    form = data.find_form(source, task.forms, {})
    columns = data.find_columns(source, form.needs, {}, optional=form.optional)
    records = data.check(source, columns, layout=task).records
    labels = task.labels(records)
    model = build_model(toy_base, task.model_class(None), seed=0, dropout=0.0, **task.model_config(labels))
    tokenizer = build_tokenizer(toy_base)
    examples = task.encode(records, tokenizer, labels=labels, max_length=32)
    settings = {"tokenizer": tokenizer, "labels": labels, "batch_tokens": 4096}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for step in range(200):
        start = step % 4 * 16
        batch = task.batch(examples[start : start + 16], tokenizer)
        (task.loss(model, batch) / task.weight(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert task.evaluate(model, examples, **settings)[task.selects_by] > 0.97
    task.calibrate(model, examples, **settings)
    answers = task.answer(model, examples, **settings)
    assert task.score(records, answers, labels=labels, main=task.main, seed=0).value > 0.97

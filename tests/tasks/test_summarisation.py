"""Summarisation: rows, remarks, scores by hand and by rouge-score's rules, what a causal model is asked, baselines."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import tunesmith
from tasks.writers import make_bart, make_causal
from tunesmith.data.layout import Cells, Fault
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import find_task
from tunesmith.tasks.summarisation import TASK, lead
from tunesmith.types import Origin, Record, Splits

ENGLISH = "The cat sat on the mat. Then it slept, as cats do. Nobody minded."
CHINESE = "采用新的控制方法，建立了飞行器模型；利用动力学方程进行仿真。结果表明，该方法有效。"


def record(document: Any, target: Any = None, row: int = 1) -> Record:
    return Record(str(row), {"document": document}, target, Origin("rows.jsonl", row))


def read(**values: Any) -> tuple[Record, list[str]]:
    cells = Cells(values)
    fields = TASK.read_input(cells)
    found = Record("1", fields, TASK.read_target(cells, fields), Origin("rows.jsonl", 1))
    return found, [note.kind for note in cells.notes]


def test_its_names_lead_to_it():
    assert find_task("summarization") is find_task("headline") is find_task("summarisation") is TASK


def test_a_document_is_a_text_or_a_list_of_sentences():
    found, notes = read(document=ENGLISH, summary="A cat sleeps.")
    assert (found.fields, found.target, notes) == ({"document": ENGLISH}, "A cat sleeps.", [])
    found, _ = read(document=["The cat sat.", "It slept."], summary=["A cat sleeps.", "Sleep."])
    assert found.fields == {"document": ["The cat sat.", "It slept."]}
    assert TASK.text_of(found.fields) == "The cat sat. It slept."
    assert TASK.references(found.target) == ["A cat sleeps.", "Sleep."]
    assert TASK.text_of({"document": ["采用新方法。", "结果有效。"]}) == "采用新方法。结果有效。"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"document": "", "summary": "x"}, "empty-document"),
        ({"document": [], "summary": "x"}, "empty-document"),
        ({"document": ["a", " "], "summary": "x"}, "empty-document"),
        ({"document": "abc", "summary": ""}, "empty-summary"),
        ({"document": {"text": "abc"}, "summary": "x"}, "wrong-type"),
        ({"document": "abc"}, "wrong-columns"),
        ({"document": "abc\0", "summary": "x"}, "nul"),
    ],
)
def test_rows_that_cannot_be_used(values, kind):
    with pytest.raises(Fault) as caught:
        read(**values)
    assert caught.value.kind == kind
    assert caught.value.do


def test_what_is_odd_is_remarked():
    assert read(document="Short.", summary="This is much longer.")[1] == ["long-summary"]
    assert read(document=ENGLISH, summary="The cat sat on the mat.")[1] == ["lead-summary"]
    assert read(document=ENGLISH, summary="The cat")[1] == [], "a few shared words are no copy"


def test_rouge_by_hand():
    """Three of four words in order, of a summary with five: precision 3/4, recall 3/5, F1 2/3."""
    one = record(ENGLISH, "the black cat slept well")
    scores = TASK.score([one], [("the cat slept soundly", None, {})], labels=(), main="rouge_l", seed=0)
    assert scores.values["rouge_l"] == pytest.approx(2 / 3, abs=1e-12)
    assert scores.values["rouge_1"] == pytest.approx(2 / 3, abs=1e-12)
    assert scores.values["rouge_2"] == pytest.approx(2 * (1 / 3 * 1 / 4) / (1 / 3 + 1 / 4), abs=1e-12)


def test_chinese_is_compared_by_characters():
    """Four of six characters in order, of a summary with eight: F1 is 2 * 4 / (6 + 8)."""
    one = record(CHINESE, "飞行器控制新方法")
    scores = TASK.score([one], [("飞行控制问题", None, {})], labels=(), main="rouge_l", seed=0)
    assert scores.values["rouge_l"] == pytest.approx(8 / 14, abs=1e-12)


def test_the_best_reference_counts():
    one = record(ENGLISH, ["nothing alike", "a cat sleeps"])
    assert TASK.score([one], [("A cat sleeps.", None, {})], labels=(), main="rouge_1", seed=0).value == 1.0
    (sample,) = TASK.score([one], [("A cat.", None, {})], labels=(), main="rouge_1", seed=0).details["samples"]
    assert sample["expected"] == "nothing alike\na cat sleeps"
    assert sample["input"] == ENGLISH


@pytest.mark.parametrize(
    ("document", "usual", "expected"),
    [
        (ENGLISH, 10, "The cat sat on the mat."),
        ('He said "Stop!" and left. She stayed.', 10, 'He said "Stop!" and left.'),
        ("Version 3.5 is out. Try it.", 10, "Version 3.5 is out."),
        ("no end", 10, "no end"),
        (["First sentence; whole.", "Second."], 10, "First sentence; whole."),
        (CHINESE, 8, "采用新的控制方法"),
        (CHINESE, 20, "采用新的控制方法，建立了飞行器模型"),
        (CHINESE, 400, "采用新的控制方法，建立了飞行器模型；利用动力学方程进行仿真"),
        (["采用新方法，很好。", "有效。"], 100, "采用新方法，很好"),
    ],
)
def test_how_a_document_begins(document, usual, expected):
    assert lead(document, usual) == expected


def test_the_lead_is_as_long_as_summaries_are():
    train = tuple(record(CHINESE, "一二三四五六七八") for _ in range(3))
    (baseline,) = TASK.baselines(Splits(train, (), (record(CHINESE, "x"),), ""), labels=(), seed=0)
    assert baseline.name == "lead"
    assert baseline.answers == [("采用新的控制方法", None, {})]


def test_a_causal_model_is_asked_in_the_language_of_the_document(tmp_path):
    texts = [ENGLISH, CHINESE]
    causal = build_tokenizer(make_causal(tmp_path / "causal", texts))
    bart = build_tokenizer(make_bart(tmp_path / "bart", texts))
    assert TASK.source({"document": ENGLISH}, causal) == ENGLISH + "\nTL;DR:\n"
    assert TASK.source({"document": CHINESE}, causal) == CHINESE + "\n摘要：\n"
    assert TASK.source({"document": CHINESE}, bart) == CHINESE
    task = TASK.configured({"max_new_tokens": 1})
    english, chinese = task.encode([record(ENGLISH), record(CHINESE)], causal, labels=(), max_length=24)
    assert causal.decode(english.tokens) == ENGLISH[:15] + "\nTL;DR:\n", "the end of the prompt stays"
    assert causal.decode(chinese.tokens) == CHINESE[:18] + "\n摘要：\n"
    assert english.was_cut
    assert chinese.was_cut


def test_long_documents_are_learnt_answered_and_measured_by_a_small_causal_model(tmp_path):
    """End to end, with answers of nobody's chosen length: nothing is read that the model cannot hold."""
    rows = [
        {"document": f"{ENGLISH} {row} " * 5, "summary": f"cats {row} sat on the mat, as they do"} for row in range(30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    base = make_causal(tmp_path / "base", [ENGLISH, "0123456789"], width=32, longest=64)
    options = {
        "model": str(base),
        "task": "summarisation",
        "epochs": 1,
        "out": str(tmp_path / "run"),
        "metric": "rouge_l",
    }
    run = tunesmith.train(tmp_path / "rows.jsonl", **options)
    assert run.plan.options["max_new_tokens"] < 64
    (prediction,) = run.predict([{"document": rows[0]["document"]}])
    assert isinstance(prediction.value, str)
    assert 0 <= prediction.confidence <= 1
    assert "".join(run.stream({"document": rows[0]["document"]})) == prediction.value
    records = [record(row["document"], row["summary"]) for row in rows[:3]]
    assert 0 <= run.score(records).value <= 1
    known = run.task.encode(records, build_tokenizer(run.path), labels=(), max_length=64)
    assert all(one.tokens[:5] == one.prompt[:5] and one.tokens[-8:] == one.prompt[-8:] for one in known)


@pytest.mark.slow
def test_it_learns_64_rows_by_heart_from_nothing(tmp_path):
    subjects = ["飞行器", "机器人", "神经网络", "电力系统"]
    methods = ["控制", "优化", "建模", "仿真"]
    ends = ["有效", "稳定", "快速", "精确"]
    rows = [
        record(f"针对{one}问题，提出了{method}方法。结果{end}。", f"{end}的{one}{method}方法")
        for one in subjects
        for method in methods
        for end in ends
    ]
    folder = make_causal(tmp_path / "gpt2", [text for one in rows for text in (one.fields["document"], one.target)])
    model, tokenizer = build_model(folder, "AutoModelForCausalLM"), build_tokenizer(folder)
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=64)
    task, batch = TASK.resolved(examples), TASK.batch(examples, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 20, 1.5 * (1 - step / 200))
        (task.loss(model, batch) / task.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    answers = task.answer(model, examples, tokenizer=tokenizer, labels=(), batch_tokens=4096)
    assert task.score(rows, answers, labels=(), main="rouge_l", seed=0).value > 0.98

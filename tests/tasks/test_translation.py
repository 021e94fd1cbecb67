"""Translation: rows, remarks, scores by hand and by sacrebleu, baselines, learning by heart."""

from __future__ import annotations

from typing import Any

import pytest
import sacrebleu
import torch

from tasks.writers import make_causal, make_t5
from tunesmith.data.layout import Cells, Fault
from tunesmith.models.build import build_model, build_tokenizer
from tunesmith.tasks import find_task
from tunesmith.tasks.translation import TASK
from tunesmith.types import Origin, Record, Splits

ROWS = [
    ("A small dog runs.", "Ein kleiner Hund läuft."),
    ("A big dog sleeps.", "Ein großer Hund schläft."),
    ("Two men are talking.", "Zwei Männer reden."),
]


def record(source: str, target: Any = None, row: int = 1) -> Record:
    return Record(str(row), {"source": source}, target, Origin("rows.jsonl", row))


def read(**values: Any) -> tuple[Record, list[str]]:
    cells = Cells(values)
    fields = TASK.read_input(cells)
    found = Record("1", fields, TASK.read_target(cells, fields), Origin("rows.jsonl", 1))
    return found, [note.kind for note in cells.notes]


def test_its_names_lead_to_it():
    assert find_task("mt") is find_task("machine-translation") is find_task("translation") is TASK


def test_a_row_has_one_translation_or_several():
    found, notes = read(source="Hello.", target="你好。")
    assert (found.fields, found.target, notes) == ({"source": "Hello."}, "你好。", [])
    found, _ = read(source="Hello.", target=["你好。", "您好。"])
    assert found.target == ["你好。", "您好。"]
    assert TASK.references(found.target) == ["你好。", "您好。"]
    assert TASK.completion(found.target) == "你好。"
    assert read(source="Hello.", target='["你好。", "您好。"]')[0].target == ["你好。", "您好。"], (
        "a CSV cell holds JSON"
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"source": " ", "target": "x"}, "empty-source"),
        ({"source": "x", "target": ""}, "empty-target"),
        ({"source": "x", "target": []}, "empty-target"),
        ({"source": "x", "target": ["y", ""]}, "empty-target"),
        ({"source": ["x"], "target": "y"}, "wrong-type"),
        ({"source": "x", "target": {"de": "y"}}, "wrong-type"),
        ({"source": "x"}, "wrong-columns"),
        ({"source": "x\ud800", "target": "y"}, "bad-encoding"),
    ],
)
def test_rows_that_cannot_be_used(values, kind):
    with pytest.raises(Fault) as caught:
        read(**values)
    assert caught.value.kind == kind
    assert caught.value.do


def test_what_is_odd_is_remarked():
    assert read(source="Hamburg", target=" Hamburg ")[1] == ["copy"]
    long = "Dieser Satz ist lang und hat mehr als vierzig Zeichen und noch viele mehr dazu."
    assert read(source="Short one.", target=long)[1] == ["length-ratio"]
    assert read(source="Hi.", target="Guten Tag, wie geht es Ihnen?")[1] == [], "short texts may differ"
    assert read(source="He went to the market to buy some fresh apples.", target="他去市场买了些新鲜的苹果。")[1] == []


def test_scores_are_those_of_sacrebleu():
    records = [record(source, target) for source, target in ROWS]
    answers = ["Ein kleiner Hund rennt.", "Ein Hund schläft.", "Zwei Männer reden miteinander."]
    scores = TASK.score(records, [(text, None, {}) for text in answers], labels=(), main="chrf", seed=0)
    references = [[target for _, target in ROWS]]
    assert scores.values["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, references).score / 100, abs=1e-12)
    assert scores.values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, references).score / 100, abs=1e-12)
    assert scores.main == "chrf"
    assert scores.intervals["chrf"][0] <= scores.values["chrf"] <= scores.intervals["chrf"][1]
    assert {sample["row"] for sample in scores.details["samples"]} == {"rows.jsonl:1"}
    assert [sample["score"] for sample in scores.details["samples"]] == sorted(
        sample["score"] for sample in scores.details["samples"]
    )


def test_chinese_is_split_by_characters_for_bleu():
    records = [record("I love you.", "我爱你们大家。"), record("He is here.", "他已经在这里了。")]
    answers = ["我爱你们。", "他在这里了。"]
    scores = TASK.score(records, [(text, None, {}) for text in answers], labels=(), main="bleu", seed=0)
    wanted = sacrebleu.corpus_bleu(answers, [[one.target for one in records]], tokenize="zh").score / 100
    assert scores.values["bleu"] == pytest.approx(wanted, abs=1e-12)
    assert scores.values["bleu"] > 0.2


def test_the_best_reference_counts():
    one = record("Hello.", ["你好。", "您好。"])
    assert TASK.score([one], [("您好。", None, {})], labels=(), main="chrf", seed=0).values["chrf"] == 1.0
    assert TASK.is_right(one, " 您好。 ")
    assert not TASK.is_right(one, "再见。")


def test_difference_is_paired_and_signed():
    records = [record(source, target) for source, target in ROWS] * 5
    right, wrong = [one.target for one in records], ["x"] * len(records)
    found = TASK.difference(records, right, wrong, metric="chrf", seed=0)
    assert found.value == pytest.approx(1.0)
    assert found.is_clear
    assert TASK.difference(records, wrong, wrong, metric="bleu", seed=0).value == 0.0


def test_baselines_copy_and_take_the_nearest():
    train = tuple(record(source, target) for source, target in ROWS)
    test = (record("A small dog sleeps soundly.", "x"), record("Two men are walking.", "x"))
    copy, nearest = TASK.baselines(Splits(train, (), test, ""), labels=(), seed=0)
    assert (copy.name, nearest.name) == ("copy", "nearest")
    assert [value for value, _, _ in copy.answers] == [one.fields["source"] for one in test]
    assert [value for value, _, _ in nearest.answers][1] == "Zwei Männer reden."
    assert next(value for value, _, _ in nearest.answers) in {"Ein kleiner Hund läuft.", "Ein großer Hund schläft."}


def test_only_a_causal_model_is_asked_by_a_line(tmp_path):
    texts = [text for row in ROWS for text in row]
    causal, seq2seq = (build_tokenizer(maker(tmp_path / maker.__name__, texts)) for maker in (make_causal, make_t5))
    assert TASK.source({"source": "A dog."}, causal) == "A dog.\n=>\n"
    assert TASK.source({"source": "A dog."}, seq2seq) == "A dog."


@pytest.mark.slow
def test_it_learns_64_rows_by_heart_from_nothing(tmp_path):
    nouns = {"dog": "Hund", "man": "Mann", "tree": "Baum", "child": "Kind"}
    verbs = {"sees": "sieht", "likes": "mag", "hears": "hört", "finds": "findet"}
    rows = [
        record(f"the {one} {verb} the {other}", f"{nouns[one]} {verbs[verb]} {nouns[other]}")
        for one in nouns
        for verb in verbs
        for other in nouns
    ]
    folder = make_t5(tmp_path / "t5", [text for one in rows for text in (one.fields["source"], one.target)])
    model, tokenizer = build_model(folder, "AutoModelForSeq2SeqLM"), build_tokenizer(folder)
    examples = TASK.encode(rows, tokenizer, labels=(), max_length=64)
    task, batch = TASK.resolved(examples), TASK.batch(examples, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 30, 1.5 * (1 - step / 400))
        (task.loss(model, batch) / task.weight(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    answers = task.answer(model, examples, tokenizer=tokenizer, labels=(), batch_tokens=4096)
    assert task.score(rows, answers, labels=(), main="chrf", seed=0).value > 0.98

"""Every row of a file is answered in its place, as a stream, into a file that appears when it is whole."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest

import toy_world
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.predict_file import predict_file
from tunesmith.errors import DataProblem, MachineProblem, PlanProblem


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    content = toy_world.rows(9, seed=3)
    path.write_text("id,text\n" + "".join(f"n{i},{text}\n" for i, (text, _) in enumerate(content)), encoding="utf-8")
    return path


def test_answers_stand_beside_the_rows_own_columns(toy_run, rows, tmp_path):
    summary = predict_file(toy_run, rows, tmp_path / "out.csv")
    found = read_csv(tmp_path / "out.csv")
    predictions = toy_run.predict([row["text"] for row in found])
    assert [row["id"] for row in found] == [f"n{i}" for i in range(9)]
    assert list(found[0]) == ["id", "text", "label", "score", "problem"]
    for row, prediction in zip(found, predictions, strict=True):
        assert row["label"] == (prediction.value or "")
        assert float(row["score"]) == pytest.approx(prediction.confidence, abs=1e-5)
    abstained = sum(prediction.value is None for prediction in predictions)
    assert summary == {
        "out": str(tmp_path / "out.csv"),
        "rows": 9,
        "answered": 9 - abstained,
        "abstained": abstained,
        "unreadable": 0,
        "columns": ["label", "score", "problem"],
    }


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_all_scores_are_columns(toy_run, rows, tmp_path, suffix, delimiter):
    out = tmp_path / f"out{suffix}"
    predict_file(toy_run, rows, out, has_all_scores=True)
    for row in read_csv(out, delimiter):
        scores = {label: float(row[f"score:{label}"]) for label in toy_run.labels}
        assert sum(scores.values()) == pytest.approx(1)
        assert max(scores.values()) == float(row["score"])


def test_jsonl_in_and_out(toy_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ['m1 "m2", m3', "a1\na2", "w1"]
    path.write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts), encoding="utf-8")
    predict_file(toy_run, path, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in found] == texts
    assert [row["n"] for row in found] == [1, 1, 1]
    predict_file(toy_run, path, tmp_path / "out.csv")
    assert [row["text"] for row in read_csv(tmp_path / "out.csv")] == texts


def test_broken_rows_keep_their_place_with_the_reason(toy_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = ['{"text": "a1 a2 a3"}', '{"text": ""}', "{broken", '{"text": ["a1"]}', '{"other": 1}', '{"text": "m1 m2"}']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = predict_file(toy_run, path, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(found) == 6
    assert [bool(row["score"]) for row in found] == [True, False, False, False, False, True]
    assert found[1]["problem"] == "row 2: the text (column 'text') is empty"
    assert found[2]["problem"].startswith("row 3: ")
    assert found[3]["problem"] == "row 4: 'text' is a list, not a text or number"
    assert found[4]["problem"] == "row 5: the row has no 'text'"
    assert (summary["rows"], summary["unreadable"]) == (6, 4)


def test_text_that_no_tokenizer_can_take_keeps_its_place(toy_run, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a1"}\n{"text": "broken \\ud800 half"}\n{"text": "m1"}\n', encoding="utf-8")
    predict_file(toy_run, path, tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [bool(row["score"]) for row in found] == [True, False, True]
    assert found[1]["problem"] == "row 2: the text holds half of a character pair (lone surrogate)"
    assert toy_run.predict("a1 \udcff")[0].alternatives


def test_an_answer_below_the_threshold_says_so(toy_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text\nzzz\na1 a2 a3\n", encoding="utf-8")
    predict_file(toy_run, path, tmp_path / "out.csv")
    unsure, sure = read_csv(tmp_path / "out.csv")
    assert (unsure["label"], unsure["problem"]) == ("", "do not know: the score is below the threshold")
    assert float(unsure["score"]) < toy_run.threshold
    assert (sure["label"], sure["problem"]) == ("animal", "")


def test_columns_that_are_there_already_are_kept(toy_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,score\na1 a2 a3,mine,7\n", encoding="utf-8")
    summary = predict_file(toy_run, path, tmp_path / "out.csv")
    row = read_csv(tmp_path / "out.csv")[0]
    assert (row["label"], row["score"]) == ("mine", "7")
    assert (row["predicted_label"], summary["columns"]) == ("animal", ["predicted_label", "predicted_score", "problem"])


def test_answers_to_answers_overwrite_nothing(toy_run, rows, tmp_path):
    names = [tmp_path / f"out{number}.csv" for number in range(3)]
    for source, out in zip((rows, *names), names, strict=False):
        predict_file(toy_run, source, out)
    row = read_csv(names[-1])[0]
    assert list(row)[2:] == [
        *("label", "score", "problem"),
        *("predicted_label", "predicted_score", "predicted_problem"),
        *("predicted_label_2", "predicted_score_2", "predicted_problem_2"),
    ]
    assert row["label"] == row["predicted_label"] == row["predicted_label_2"]


def test_chinese_in_gb18030_comes_out_as_utf_8(toy_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("text,备注\n今天天气很好，我们去公园,甲\n这个产品的质量太差了,乙\n".encode("gb18030"))
    predict_file(toy_run, path, tmp_path / "out.csv")
    assert [row["备注"] for row in read_csv(tmp_path / "out.csv")] == ["甲", "乙"]
    assert read_csv(tmp_path / "out.csv")[0]["text"] == "今天天气很好，我们去公园"


def test_another_column_may_hold_the_text(toy_run, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("note,text\na1 a2 a3,m1 m2 m3\n", encoding="utf-8")
    predict_file(toy_run, path, tmp_path / "out.csv", columns={"text": "note"})
    assert read_csv(tmp_path / "out.csv")[0]["label"] == "animal"
    with pytest.raises(DataProblem, match="column 'nope' is missing"):
        predict_file(toy_run, path, tmp_path / "other.csv", columns={"text": "nope"})
    assert not (tmp_path / "other.csv").exists()


def test_it_streams_a_file_of_any_length_in_order(toy_run, tmp_path, monkeypatch):
    """20,000 rows; the answer is faked so that only the streaming is tested: never more than 512 rows are held."""
    from tunesmith.bundle import predict_file as module

    path = tmp_path / "rows.csv"
    path.write_text("text,number\n" + "".join(f"{n % 3} words,{n}\n" for n in range(20_000)), encoding="utf-8")
    asked, answered, held = 0, 0, []
    real_read = module.data.read

    def read(where):
        source = real_read(where)

        def rows():
            nonlocal asked
            for row in source.rows():
                asked += 1
                yield row

        return dataclasses.replace(source, read_rows=rows)

    def answer(self, records):
        nonlocal answered
        held.append(asked - answered)
        answered += len(records)
        logits = np.zeros((len(records), 3), dtype=np.float32)
        logits[range(len(records)), [int(record.fields["text"][0]) for record in records]] = 9.0
        return logits

    monkeypatch.setattr(module.data, "read", read)
    monkeypatch.setattr(Bundle, "answer", answer)
    seen: list[int] = []
    summary = predict_file(load(toy_run.path), path, tmp_path / "out.csv", on_rows=seen.append)
    assert summary["rows"] == summary["answered"] == 20_000
    assert max(held) == 512
    assert seen == list(range(512, 20_000, 512))
    found = [(row["number"], row["label"]) for row in read_csv(tmp_path / "out.csv")]
    assert found == [(str(number), toy_run.labels[number % 3]) for number in range(20_000)]


def test_what_is_there_is_not_overwritten_without_force(toy_run, rows, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("precious", encoding="utf-8")
    with pytest.raises(PlanProblem) as caught:
        predict_file(toy_run, rows, out)
    assert str(caught.value) == (
        f"PlanProblem: {out} is there already\n  where: {out}\n  do:    choose another --out, or --force"
    )
    assert out.read_text(encoding="utf-8") == "precious"
    predict_file(toy_run, rows, out, may_overwrite=True)
    assert len(read_csv(out)) == 9


def test_the_input_is_never_overwritten(toy_run, rows, tmp_path):
    before = rows.read_bytes()
    with pytest.raises(PlanProblem, match="--out is the input file itself"):
        predict_file(toy_run, rows, tmp_path / "." / "rows.csv", may_overwrite=True)
    assert rows.read_bytes() == before


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.parquet"])
def test_other_formats_are_refused(toy_run, rows, tmp_path, name):
    with pytest.raises(PlanProblem) as caught:
        predict_file(toy_run, rows, tmp_path / name)
    assert caught.value.do == "use .csv, .tsv or .jsonl"


def test_a_crash_half_way_leaves_nothing_and_keeps_the_old(toy_run, rows, tmp_path, monkeypatch):
    def broken(self, records):
        raise RuntimeError("crash")

    out = tmp_path / "out.csv"
    out.write_text("old", encoding="utf-8")
    monkeypatch.setattr(Bundle, "answer", broken)
    with pytest.raises(RuntimeError, match="crash"):
        predict_file(toy_run, rows, out, may_overwrite=True)
    assert out.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


def test_a_full_disk_is_explained(toy_run, rows, tmp_path, monkeypatch):
    from tunesmith.bundle import predict_file as module

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(MachineProblem) as caught:
        predict_file(toy_run, rows, tmp_path / "out.csv")
    assert caught.value.what == "writing the predictions failed: No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]


STARTS = ["=", "+", "-", "@", "\t", "\r"]


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_cells_that_begin_like_a_formula_are_neutralised(toy_run, tmp_path, suffix, delimiter):
    given = tmp_path / "rows.jsonl"
    given.write_text(
        "".join(json.dumps({"text": f"{start}a1", "=id": f"{start}b"}) + "\n" for start in STARTS), "utf-8"
    )
    predict_file(toy_run, given, tmp_path / f"out{suffix}")
    found = read_csv(tmp_path / f"out{suffix}", delimiter)
    assert [row["text"] for row in found] == [f"'{start}a1" for start in STARTS]
    assert [row["'=id"] for row in found] == [f"'{start}b" for start in STARTS]
    predict_file(toy_run, given, tmp_path / f"as-is{suffix}", keeps_formulas=True)
    assert [row["text"] for row in read_csv(tmp_path / f"as-is{suffix}", delimiter)] == [
        f"{start}a1" for start in STARTS
    ]


def test_lines_of_json_are_no_table_and_stay(toy_run, tmp_path):
    given = tmp_path / "rows.jsonl"
    given.write_text(json.dumps({"text": "=a1"}) + "\n", encoding="utf-8")
    predict_file(toy_run, given, tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["text"] == "=a1"

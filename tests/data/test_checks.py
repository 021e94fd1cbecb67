import json

import pytest

from tunesmith.data.checks import check, demand_trainable, write_rejected
from tunesmith.data.columns import find_columns
from tunesmith.data.readers import read
from tunesmith.errors import DataProblem, MachineProblem
from tunesmith.types import Origin, Rejected

NEEDS = {"text": "text", "label": "label"}


def checked(path, text, given=None, *, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    source = read(path)
    return check(source, find_columns(source, NEEDS, given or {}))


def good_rows(count, start=0):
    return [f"{i + start},sentence number {i + start},{['positive', 'negative'][i % 2]}" for i in range(count)]


def broken_file():
    """Give a file with twelve kinds of broken rows, and what each line must become."""
    rows: list[tuple[bytes, str]] = [(row.encode(), "") for row in good_rows(600)]
    broken = [
        (b"700,caf\xe9 \xff\xfe,positive", "bad-encoding"),
        (b"701," + "很好吃的东西".encode("gbk") + b",positive", "bad-encoding"),
        (b"702,nul \0 inside,negative", "nul"),
        (b"703,no label at all", "wrong-columns"),
        (b"704,too,many,cells", "wrong-columns"),
        (b"705,empty label,", "empty-label"),
        (b"706,blank label,  ", "empty-label"),
        (b"707,   ,positive", "empty-text"),
        (b"708,a slip of the keyboard,postive", "label-typo"),
        (b"709," + b"long " * 210_000 + b",positive", "too-long"),
        (b"5,an id that stands twice,negative", "duplicate-id"),
        (b'711,"never closed,positive', "bad-quotes"),
        ("712,完全没有问题的一行,positive".encode(), ""),
        (b"713,the same words,positive", ""),
        (b"714,The  SAME words,negative", ""),
    ]
    for place, row in enumerate(broken):
        rows.insert(20 + 37 * place, row)
    ends = [b"\n", b"\r\n", b"\r"]
    data = "\ufeffid,text,label\n".encode() + b"".join(row + ends[i % 3] for i, (row, _) in enumerate(rows))
    return data, {line: kind for line, (_, kind) in enumerate(rows, start=2) if kind}, len(rows)


def test_twelve_kinds_of_broken_rows_are_each_told_by_line(tmp_path):
    data, expected, count = broken_file()
    found = checked(tmp_path / "a.csv", data, {"id": "id"})
    assert {row.origin.row: row.kind for row in found.rejected} == expected
    assert [row.origin.row for row in found.rejected] == sorted(expected)
    assert (found.rows, found.used, len(found.records)) == (count, count - len(expected), count - len(expected))
    assert sum(found.label_counts.values()) == found.used
    assert all(row.reason and row.do for row in found.rejected)
    conflicts = [problem for problem in found.problems if problem.kind == "conflicting-labels"]
    lines = [20 + 37 * place + 2 for place in (13, 14)]
    assert [problem.what for problem in conflicts] == [
        f"the same text stands under 2 labels: 'positive' (row {lines[0]}), 'negative' (row {lines[1]})"
    ]
    assert conflicts[0].origin == Origin(str(tmp_path / "a.csv"), lines[0])
    demand_trainable(found)


def test_reasons_are_whole(tmp_path):
    rows = ["id,text,label", *good_rows(20), "1,again,positive", "30,slip,Positve", "31, ,negative", "32,x,"]
    found = checked(tmp_path / "a.csv", "\n".join(rows), {"id": "id"})
    assert found.rejected == (
        Rejected(
            Origin(str(tmp_path / "a.csv"), 22),
            "duplicate-id",
            "id '1' already stands in row 3",
            "give each row its own id",
            {"id": "1", "text": "again", "label": "positive"},
        ),
        Rejected(
            Origin(str(tmp_path / "a.csv"), 23),
            "label-typo",
            "label 'Positve' occurs once; did you mean 'positive' (10 rows)?",
            "write 'positive', or add more rows if 'Positve' is a label of its own",
            {"label": "Positve", "text": "slip"},
        ),
        Rejected(
            Origin(str(tmp_path / "a.csv"), 24),
            "empty-text",
            "the text (column 'text') is empty",
            "fill in the text or remove the row",
            {"id": "31", "text": " ", "label": "negative"},
        ),
        Rejected(
            Origin(str(tmp_path / "a.csv"), 25),
            "empty-label",
            "the label (column 'label') is empty",
            "fill in the label or remove the row",
            {"id": "32", "text": "x", "label": ""},
        ),
    )


def test_records_hold_text_label_id_and_origin(tmp_path):
    path = tmp_path / "a.jsonl"
    found = checked(path, '{"text": "a b ", "label": 1}\n\n{"text": "c", "label": " x "}\n')
    first, second = found.records
    assert (first.fields, first.target, first.origin) == ({"text": "a b "}, "1", Origin(str(path), 1))
    assert (second.fields, second.target, second.origin) == ({"text": "c"}, "x", Origin(str(path), 3))
    assert first.id != second.id
    moved = tmp_path / "b.jsonl"
    moved.write_bytes(path.read_bytes())
    source = read(moved)
    assert check(source, find_columns(source, NEEDS, {})).records[0].id == first.id


def test_json_rows_without_a_usable_value_are_rejected(tmp_path):
    lines = [
        {"text": "a", "label": "x"},
        {"text": "b"},
        {"text": ["b"], "label": "x"},
        {"text": None, "label": "x"},
        {"text": "\ud800", "label": "x"},
        {"text": "a\0", "label": "x"},
        {"text": "b", "label": ["x", "y"]},
    ]
    found = checked(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert [(row.origin.row, row.kind) for row in found.rejected] == [
        (2, "wrong-columns"),
        (3, "wrong-type"),
        (4, "empty-text"),
        (5, "bad-encoding"),
        (6, "nul"),
        (7, "wrong-type"),
    ]


def test_rows_without_answers_need_no_label(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\na\nb\n")
    source = read(path)
    found = check(source, find_columns(source, {"text": "text"}, {}))
    assert [record.target for record in found.records] == [None, None]
    assert found.label_counts == {}
    assert found.problems == ()


def test_problems_name_counts_and_advice(tmp_path):
    rows = [f"sentence {i},common" for i in range(60)] + [f"other {i},seldom" for i in range(3)]
    rows += [
        "only here,once",
        "call 13812345678 or me@example.com,common",
        "SENTENCE  3,common",
        "w" * 2500 + ",common",
    ]
    found = checked(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    assert [(problem.severity, problem.kind, problem.what, problem.count) for problem in found.problems] == [
        ("note", "duplicates", "1 rows repeat the text of an earlier row (case, width and spaces aside)", 1),
        (
            "warning",
            "rare-labels",
            "1 labels have fewer than 3 rows and cannot stand in all three parts: 'once' (1)",
            1,
        ),
        ("warning", "imbalance", "label 'common' has 63 rows, 'seldom' only 3: 21 times fewer", 63),
        (
            "note",
            "long-texts",
            "1 texts have 2000 characters or more; a model reads some hundred tokens at once",
            1,
        ),
        ("warning", "personal-data", "1 rows seem to hold personal data (email)", 1),
        ("warning", "personal-data", "1 rows seem to hold personal data (phone)", 1),
    ]
    assert found.duplicates == 1
    assert found.personal == {"email": 1, "phone": 1}
    assert found.distinct_texts == {"common": 62, "seldom": 3, "once": 1}


def test_many_conflicts_are_listed_up_to_a_bound(tmp_path):
    rows = [f"text {i},{label}" for i in range(250) for label in "ab"]
    found = checked(tmp_path / "a.csv", "\n".join(["text,label", *rows]))
    conflicts = [problem for problem in found.problems if problem.kind == "conflicting-labels"]
    assert len(conflicts) == 201
    assert sum(problem.count for problem in conflicts) == 500
    assert conflicts[-1].what == "50 further texts stand under more than one label"


NEEDED = (
    "at least 10 rows and 2 labels with 3 different texts each are needed; some dozens of each label are a good start"
)


@pytest.mark.parametrize(
    ("rows", "what", "do"),
    [
        (
            [f"text {i},pos" for i in range(30)],
            "all 30 usable rows have the same label, 'pos'",
            f"add rows of another label: {NEEDED}",
        ),
        ([f"text {i},{'ab'[i % 2]}" for i in range(9)], "too few rows: 9 usable", f"add rows: {NEEDED}"),
        (
            [f"text {i % 2},a" for i in range(9)] + [f"other {i},b" for i in range(9)],
            "too few different texts: 1 labels have 3 or more; the first are 'b' (9), 'a' (2)",
            f"add rows: {NEEDED}",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path, rows, what, do):
    path = tmp_path / "a.csv"
    with pytest.raises(DataProblem) as caught:
        demand_trainable(checked(path, "\n".join(["text,label", *rows])))
    assert str(caught.value) == f"DataProblem: {what}\n  where: {path}\n  do:    {do}"


def test_too_many_rejected_rows_are_refused_with_examples(tmp_path):
    path = tmp_path / "a.csv"
    rows = [*good_rows(20), "30,,positive", "31,x", "32,y,", "33,,positive"]
    found = checked(path, "\n".join(["id,text,label", *rows]))
    with pytest.raises(DataProblem) as caught:
        demand_trainable(found, listed_in="runs/1/rejected.jsonl")
    assert str(caught.value) == (
        "DataProblem: 4 of 24 rows (16.7%) cannot be used: 2 empty-text, 1 wrong-columns, 1 empty-label. "
        "row 22: the text (column 'text') is empty; row 23: the row has 2 cells; the header has 3; "
        "row 24: the label (column 'label') is empty\n"
        f"  where: {path}:22; all are listed in runs/1/rejected.jsonl\n"
        "  do:    mend the rows, or go on without them: --max-rejected 0.17 (now 0.05)"
    )
    demand_trainable(found, max_rejected=0.17)


def test_rejected_rows_are_written_as_json_lines(tmp_path):
    rejected = Rejected(Origin("a.csv", 3), "nul", "the row holds a NUL character", "remove it", {"line": "甲\0\n"})
    path = tmp_path / "rejected.jsonl"
    write_rejected([rejected], path)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "origin": {"path": "a.csv", "row": 3},
        "kind": "nul",
        "reason": "the row holds a NUL character",
        "do": "remove it",
        "fields": {"line": "甲\0\n"},
    }
    assert [item.name for item in tmp_path.iterdir()] == ["rejected.jsonl"]
    with pytest.raises(MachineProblem, match="the rejected rows cannot be written: No such file or directory"):
        write_rejected([rejected], tmp_path / "none" / "rejected.jsonl")

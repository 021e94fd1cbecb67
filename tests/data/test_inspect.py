import hashlib
import json

from tunesmith.data.inspect import inspect
from tunesmith.types import Origin, Problem, to_json

NEEDS = {"text": "text", "label": "label"}


def write(path, rows, names="review,stars", encoding="utf-8"):
    path.write_text("\n".join([names, *rows]) + "\n", encoding=encoding)
    return path


def test_a_file_is_summed_up(tmp_path):
    rows = [f"这家店的第{i}道菜真的很好吃,{['好', '坏'][i % 2]}" for i in range(30)] + [",好", "联系13812345678,好"]
    path = write(tmp_path / "a.csv", rows, encoding="gb18030")
    found = inspect(path, given={})
    assert (found.path, found.format, found.encoding, found.delimiter) == (str(path), "csv", "gb18030", ",")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.rows, found.used, found.columns) == (32, 31, ("review", "stars"))
    assert found.roles == {"text": "review", "label": "stars"}
    assert len(found.inferred) == 2
    assert found.label_counts == {"好": 16, "坏": 15}
    assert found.personal == {"phone": 1}
    assert [row.origin.row for row in found.rejected] == [32]
    assert sum(count for _, _, count in found.length_histogram) == 31
    assert "13812345678" not in json.dumps(to_json(found), ensure_ascii=False)


def test_the_histogram_has_round_bins_and_holds_every_row(tmp_path):
    path = write(tmp_path / "a.csv", [f"{'w' * n},{'ab'[n % 2]}" for n in range(1, 200)] + ["x" * 5000 + ",a"])
    bins = inspect(path, given={}).length_histogram
    assert bins == (
        (0, 50, 49),
        (50, 100, 50),
        (100, 150, 50),
        (150, 200, 50),
        (200, 250, 0),
        (250, 300, 0),
        (300, 350, 0),
        (350, 400, 0),
        (400, 450, 0),
        (450, 5001, 1),
    )


def test_texts_shared_with_other_files_are_told(tmp_path):
    path = write(tmp_path / "train.csv", [f"text {i},{'ab'[i % 2]}" for i in range(20)])
    test = write(tmp_path / "test.csv", ["something new,a", "TEXT  7,b", "text 3,a"])
    valid = write(tmp_path / "valid.csv", ["nothing shared,a", "at all,b"])
    found = inspect(path, given={}, others=[valid, test])
    assert [problem for problem in found.problems if problem.kind == "leak"] == [
        Problem(
            "warning",
            "leak",
            f"2 rows hold a text that also stands in {test} (first: row 5 here, row 3 there)",
            "scores on shared texts flatter: training leaves these rows out; remove them to be rid of this message",
            Origin(str(path), 5),
            2,
        )
    ]


def test_a_file_without_one_usable_row_is_summed_up_too(tmp_path):
    path = write(tmp_path / "a.csv", [",a", ",b"], names="text,label")
    found = inspect(path, given={})
    assert (found.rows, found.used, found.length_histogram, found.label_counts) == (2, 0, (), {})

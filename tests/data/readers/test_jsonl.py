import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.readers import BadRow, read
from tunesmith.errors import DataProblem

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.text(max_size=5), max_size=3),
)
OBJECTS = st.dictionaries(st.sampled_from(["text", "label", "文本", "tags"]), VALUES, min_size=1)


@settings(deadline=None, max_examples=80)
@given(objects=st.lists(OBJECTS, min_size=1, max_size=8), is_ascii=st.booleans(), is_array=st.booleans())
def test_what_json_writes_comes_back(tmp_path_factory, objects, is_ascii, is_array):
    path = tmp_path_factory.mktemp("json") / ("data.json" if is_array else "data.jsonl")
    lines = [json.dumps(item, ensure_ascii=is_ascii) for item in objects]
    path.write_text("[" + ",\n".join(lines) + "]" if is_array else "\n".join(lines), encoding="utf-8")
    assert list(read(path).rows()) == list(enumerate(objects, start=1))


def test_broken_lines_are_told_by_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b'{"text": "a", "label": 1}',
        b"",
        b'{"text": "a"',
        b'["a", "b"]',
        b'"a"',
        b"null",
        b'{"text": NaN}',
        b'{"text": "a", "text": "b"}',
        b"\xff{}",
        b'{"text": "\0"}',
        b'{"a": ' + b"[" * 100_000,
        b'{"text": "' + b"x" * 1_000_001 + b'"}',
        b'{"text": "z", "labels": ["p", "q"]}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    rows = dict(read(path).rows())
    assert rows[1] == {"text": "a", "label": 1}
    assert rows[13] == {"text": "z", "labels": ["p", "q"]}
    assert {number: row.kind for number, row in rows.items() if isinstance(row, BadRow)} == {
        **dict.fromkeys([3, 4, 5, 6, 7, 8, 11], "broken-json"),
        9: "bad-encoding",
        10: "nul",
        12: "too-long",
    }
    assert rows[4] == BadRow(
        "broken-json",
        "the row is a JSON list, not an object",
        "write the row as one JSON object in one line",
        {"line": '["a", "b"]'},
    )
    assert read(path).columns == ("text", "label", "labels")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.jsonl", "", "the file is empty (0 bytes)"),
        ("a.jsonl", "\n\n", "the file holds no rows"),
        ("a.json", "[]", "the file holds no rows"),
        (
            "a.json",
            '{"data":\n [1, 2]}',
            "none of the first 2 rows is a JSON object with keys: the line is not JSON: Expecting value: "
            "line 2 column 1 (char 9)",
        ),
        ("a.json", '[{"a": 1},\n{"b" 2}]', "the JSON array is broken: Expecting ':' delimiter"),
    ],
)
def test_files_that_are_refused(tmp_path, name, text, what):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataProblem) as caught:
        read(path)
    assert caught.value.what == what
    assert caught.value.where.startswith(str(path))
    assert caught.value.do


def test_an_array_in_one_line_of_a_jsonl_file_is_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('[{"text": "a"}, {"text": "b"}, 3]', encoding="utf-8")
    with pytest.raises(DataProblem, match="none of the first 1 rows is a JSON object"):
        read(path)
    path.write_text('[{"text": "a"}, {"text": "b"}]', encoding="utf-8")
    assert [row for _, row in read(path).rows()] == [{"text": "a"}, {"text": "b"}]

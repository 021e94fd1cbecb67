import gzip
from pathlib import Path

import pytest

from tunesmith.data.readers import BadRow, conll, delimited, find_reader, read
from tunesmith.errors import DataProblem

TEN_LINES = """-DOCSTART- -X- O

# sent_id = 1
Anna NNP B-person
sings VBZ O

# NN O
is VBZ O
Oslo NNP S-place
"""


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rows_of(path: Path, text: str) -> dict:
    return dict(read(write(path, text), "conll").rows())


@pytest.mark.parametrize("suffix", conll.SUFFIXES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ten_lines_become_two_sentences(tmp_path, suffix, end):
    data = TEN_LINES.replace("\n", end).encode()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    source = read(path)
    assert (source.format, source.columns, source.delimiter) == ("conll", ("tokens", "tags"), "")
    assert list(source.rows()) == [
        (4, {"tokens": ["Anna", "sings"], "tags": ["B-person", "O"]}),
        (7, {"tokens": ["#", "is", "Oslo"], "tags": ["O", "O", "S-place"]}),
    ]
    assert list(source.rows()) == list(source.rows())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("gap", ["\t", " ", "   "])
def test_encodings_and_gaps_are_found(tmp_path, encoding, gap):
    path = write(tmp_path / "a.bmes", f"北{gap}B-LOC\n京{gap}E-LOC\n\u3000{gap}O\n\n我们的{gap}O\n", encoding)
    source = read(path)
    assert source.encoding == encoding
    assert list(source.rows()) == [
        (1, {"tokens": ["北", "京", "\u3000"], "tags": ["B-LOC", "E-LOC", "O"]}),
        (5, {"tokens": ["我们的"], "tags": ["O"]}),
    ]


def test_tokens_alone_have_no_tags(tmp_path):
    source = read(write(tmp_path / "a.conll", "# a comment of many words\nAnna\nsings\n\n\n#\n\u3000\n"))
    assert source.columns == ("tokens",)
    assert list(source.rows()) == [(2, {"tokens": ["Anna", "sings"]}), (6, {"tokens": ["#", "\u3000"]})]


def test_a_token_may_hold_a_blank_where_columns_are_parted_by_tabs(tmp_path):
    assert rows_of(tmp_path / "a.iob", "New York\tB-place\n# 1\tO\n\n# text = New York # 1\nx\tO\n") == {
        1: {"tokens": ["New York", "# 1"], "tags": ["B-place", "O"]},
        5: {"tokens": ["x"], "tags": ["O"]},
    }


def test_broken_sentences_are_told_and_the_others_read(tmp_path):
    good = "a\tO\nb\tB-x\n\n"
    path = tmp_path / "a.conll"
    path.write_bytes(
        (good + "a\tO\nb B-x\n\n" + good + "a\t\n\n" + "\tO\n\n" + "a\tO\tO\n\n" + "a\tO\n# lost\nb\tO\n\n").encode()
        + b"a\xff\tO\n\n"
        + b"a\0\tO\n\n"
        + b"long\tO\n" * 200_000
        + b"\nz\tO"
    )
    rows = dict(read(path).rows())
    assert {n: row.kind for n, row in rows.items() if isinstance(row, BadRow)} == {
        **dict.fromkeys([4, 10, 12, 14, 16], "wrong-columns"),
        20: "bad-encoding",
        22: "nul",
        24: "too-long",
    }
    assert rows[4] == BadRow(
        "wrong-columns",
        "line 5 has 1 columns; most lines have 2",
        "give each line its token and its tag, parted the same way",
        {"line": "b B-x"},
    )
    assert [rows[10].reason, rows[12].reason] == ["line 10 has no tag", "line 12 has no token"]
    assert "begins in line 24" in rows[24].reason
    assert [n for n, row in rows.items() if isinstance(row, dict)] == [1, 7, 200_025]


@pytest.mark.parametrize("text", ["\n\n", "-DOCSTART- O\n\n"])
def test_a_file_without_a_sentence_is_refused(tmp_path, text):
    path = write(tmp_path / "a.conll", text)
    with pytest.raises(DataProblem) as caught:
        read(path)
    assert str(caught.value) == (
        f"DataProblem: the file holds no sentence\n  where: {path}\n"
        "  do:    write one token in each line, e.g. Paris<TAB>B-place, and a blank line after each sentence"
    )


def test_a_first_line_that_names_the_columns_is_no_token(tmp_path):
    body = "Anna\tB-x\nsings\tO\nin\tO\nOslo\tB-x\n.\tO\n\n"
    assert rows_of(tmp_path / "a.bio", "token\ttag\n" + body)[2]["tokens"][0] == "Anna"
    assert rows_of(tmp_path / "b.bio", body)[1]["tokens"][0] == "Anna"


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "a.csv", "a.txt.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize(
    "text", ["北\tB-LOC\n京\tI-LOC\n\n我\tO\n", "北 B\r\n京 E\r\n\r\n我 O\r\n", "北 S-a\n\n京 O\n\n"]
)
def test_tokens_with_tags_are_known_by_their_look(tmp_path, name, encoding, text):
    data = text.encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert find_reader(path) is conll
    assert len(list(read(path).rows())) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "text\tlabel\nwhat is this\tB\nand that one\tE\n\nor this\tI\n",
        "text,label\na,O\n\nb,B\n",
        "text\tlabel\ngood\tpositive\n\nbad\tnegative\n",
        "Who am I\n\nOnly I\nWhat would I\n",
        "Anna\tB-person\nsings\tO\n",  # no blank line: may be a table of words
        "just words\n\nand more\n",
    ],
)
def test_other_files_stay_with_the_csv_reader(tmp_path, text):
    assert find_reader(write(tmp_path / "a.txt", text)) is delimited
    assert find_reader(write(tmp_path / "a.tsv", text)) is delimited


def test_a_damaged_file_is_left_to_the_reader_of_its_suffix(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"a\tO\n\n" * 999)[:40])
    assert find_reader(path) is delimited

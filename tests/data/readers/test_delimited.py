import csv
import gzip
import io
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.readers import BadRow, find_reader, read
from tunesmith.errors import DataProblem

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")
GB_CHARACTERS = st.one_of(
    st.sampled_from("你好，世界、的是不了在人有我他这文本标签"), st.characters(max_codepoint=126, min_codepoint=32)
)
NAMES = ("text", "label", "文本", "review title", "a.b", "x1")


def rows_of(path: Path) -> list[dict[str, object]]:
    found = [row for _, row in read(path).rows()]
    bad = [row for row in found if isinstance(row, BadRow)]
    assert not bad, bad
    return [row for row in found if isinstance(row, dict)]


def bad_rows(path: Path) -> dict[int, str]:
    return {number: row.kind for number, row in read(path).rows() if isinstance(row, BadRow)}


@st.composite
def tables(draw: st.DrawFn, cell: st.SearchStrategy[str]) -> tuple[tuple[str, ...], list[list[str]]]:
    names = tuple(draw(st.permutations(NAMES)))[: draw(st.integers(1, 4))]
    rows = draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), min_size=1, max_size=8))
    return names, rows


def written(names: tuple[str, ...], rows: list[list[str]], **how: object) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **how).writerows([names, *rows])  # type: ignore[arg-type]
    return buffer.getvalue()


@settings(deadline=None, max_examples=150)
@given(
    table=tables(st.text(CHARACTERS, max_size=20)),
    delimiter=st.sampled_from([",", "\t", ";", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    is_gzip=st.booleans(),
)
def test_what_csv_writes_comes_back(tmp_path_factory, table, delimiter, encoding, end, quoting, is_gzip):
    names, rows = table
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    data = written(names, rows, delimiter=delimiter, lineterminator=end, quoting=quoting).encode(encoding)
    path.write_bytes(gzip.compress(data) if is_gzip else data)
    if quoting == csv.QUOTE_MINIMAL and len(names) > 1:
        rows = [row for row in rows if any(row)]  # nothing but delimiters is a row all the same
        found = [row for row in rows_of(path) if any(row.values())]
    else:
        found = rows_of(path)
    assert found == [dict(zip(names, row, strict=True)) for row in rows]


@settings(deadline=None, max_examples=60)
@given(table=tables(st.text(GB_CHARACTERS, min_size=1, max_size=20)), delimiter=st.sampled_from([",", "\t", ";", "|"]))
def test_gb18030_comes_back(tmp_path_factory, table, delimiter):
    names, rows = table
    rows.append(["今天的天气很好我们去公园"] * len(names))
    path = tmp_path_factory.mktemp("gb") / "data.csv"
    path.write_bytes(written(names, rows, delimiter=delimiter, quoting=csv.QUOTE_ALL).encode("gb18030"))
    assert read(path).encoding == "gb18030"
    assert rows_of(path) == [dict(zip(names, row, strict=True)) for row in rows]


@settings(deadline=None, max_examples=60)
@given(data=st.binary(min_size=1, max_size=300))
def test_any_bytes_are_read_or_refused_but_never_crash(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "data.csv"
    path.write_bytes(data)
    with suppress(DataProblem):
        assert list(read(path).rows())


def test_row_numbers_are_physical_lines(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'text,label\r\n"two\nlines",a\r\n\nb,c\rd,e\n')
    assert [(number, row) for number, row in read(path).rows()] == [
        (2, {"text": "two\nlines", "label": "a"}),
        (5, {"text": "b", "label": "c"}),
        (6, {"text": "d", "label": "e"}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "delimiter"),
    [
        ("a.csv", "text,label\nx; y; z,a\n", ","),
        ("a.csv", "text;label\nx, y, z;a\nx, y, z;b\n", ";"),
        ("a.txt", "text\tlabel\nx, y | z\ta\n", "\t"),
        ("a.csv", "text|label\nx|a\n", "|"),
        ("a.csv", '"a,b";"c"\n1;2\n', ";"),
        ("a.tsv", "text\nhello, world\n", ""),
    ],
)
def test_delimiter_is_found(tmp_path, name, text, delimiter):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read(path).delimiter == delimiter
    assert rows_of(path)


def test_tab_separated_quotes_are_text_when_they_make_no_sense(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"good" film\tpos\nthe "worst\tneg\n"bad\tneg\n', encoding="utf-8")
    assert rows_of(path) == [
        {"text": '"good" film', "label": "pos"},
        {"text": 'the "worst', "label": "neg"},
        {"text": '"bad', "label": "neg"},
    ]


def test_a_single_column_keeps_its_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('text\nhello, world\n"quoted, yes"\n"half" quoted\n"open\n', encoding="utf-8")
    assert [row["text"] for row in rows_of(path)] == ["hello, world", "quoted, yes", '"half" quoted', '"open']


def test_a_lone_quote_costs_one_row(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["text,label", '"never closed,pos', "fine one,neg", '"proper, quoted",pos', '"x" y,neg', "last,pos"]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert bad_rows(path) == {2: "bad-quotes", 5: "bad-quotes"}
    assert sum(1 for _ in read(path).rows()) == 5


def test_a_lone_quote_in_a_long_file_costs_one_row(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["text,label", "fine,pos", '"never closed,pos'] + ["a row that is quite all right,neg"] * 50_000
    path.write_text("\n".join(lines), encoding="utf-8")
    assert bad_rows(path) == {3: "bad-quotes"}


def test_cells_and_lines_beyond_the_limit_cost_one_row(tmp_path):
    path = tmp_path / "a.csv"
    giant = "word without comma\n" * 60_000
    rows = ["text,label", "x" * 1_000_001 + ",pos", "y" * 5_000_000 + ",pos", f'"{giant}",neg', "fine,pos"]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert bad_rows(path) == {2: "too-long", 3: "too-long", 4: "too-long"}
    assert rows_of_good(path) == [(60_005, {"text": "fine", "label": "pos"})]


def rows_of_good(path: Path) -> list[tuple[int, object]]:
    return [(number, row) for number, row in read(path).rows() if not isinstance(row, BadRow)]


def test_bad_bytes_in_a_utf8_file_cost_their_row_only(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(
        "text,label\n你好,a\n".encode() + b"\xff\xfe,b\n" + "早安,b\n".encode() + "你好".encode("gbk") + b",a\n"
    )
    assert read(path).encoding == "utf-8"
    assert bad_rows(path) == {3: "bad-encoding", 5: "bad-encoding"}


def test_a_utf8_file_with_every_line_cut_is_still_utf8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n" + ("今天的天气很好".encode()[:-1] + b",a\n") * 20)
    assert read(path).encoding == "utf-8"
    assert len(bad_rows(path)) == 20


def test_latin1_letters_do_not_make_an_english_file_chinese(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nplain,a\n" + "un café noir,b\ndéjà vu,a\n".encode("latin-1"))
    assert read(path).encoding == "utf-8"
    assert bad_rows(path) == {3: "bad-encoding", 4: "bad-encoding"}


def test_bad_rows_say_what_and_show_the_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\na\nb,c,d\ne\0,f\n")
    assert dict(read(path).rows()) == {
        2: BadRow("wrong-columns", "the row has 1 cells; the header has 2", "add the missing cells", {"text": "a"}),
        3: BadRow(
            "wrong-columns",
            "the row has 3 cells; the header has 2",
            'put cells that hold the delimiter in "double quotes"',
            {"text": "b", "label": "c", "(further cells)": "d"},
        ),
        4: BadRow("nul", "the row holds a NUL character", "remove the NUL character", {"line": "e\0,f"}),
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "DataProblem: the file is empty (0 bytes)\n  where: {}\n  do:    give a file with a header and rows"),
        (
            b"\n\n",
            "DataProblem: the file holds only blank lines\n  where: {}\n"
            "  do:    add one line for each example below a header",
        ),
        (
            b"text,label\n",
            "DataProblem: the file has a header and no rows\n  where: {}\n"
            "  do:    add one line for each example below a header",
        ),
        (
            b"text,label,text\na,b,c\n",
            "DataProblem: the header names 'text' more than once\n  where: {}:1\n"
            "  do:    give each column its own name",
        ),
        (
            b",text\n0,a\n",
            "DataProblem: column 1 of 2 has no name\n  where: {}:1\n"
            "  do:    name it in the header (pandas writes such a column unless told `index=False`)",
        ),
        (
            "text,label\nhello,there\n".encode("utf-16-le"),
            "DataProblem: the file is not text in a known encoding: 23 of its 46 bytes are NUL\n  where: {}\n"
            "  do:    save it as UTF-8 text (in a spreadsheet program: 'CSV UTF-8')",
        ),
        (
            gzip.compress(b"text,label\n" + bytes(range(65, 91)) * 50, mtime=0)[:-12],
            "DataProblem: the gzip file is cut off: it ends before its end mark\n  where: {}\n"
            "  do:    copy or download it again (`gzip -t` checks it)",
        ),
    ],
)
def test_files_that_are_refused(tmp_path, data, message):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DataProblem) as caught:
        list(read(path).rows())
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize("change", [b"more,rows\n", None])
def test_a_file_that_changes_is_refused(tmp_path, change):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\n" + b"a,b\n" * 1000)
    source = read(path)
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes().replace(b"a", b"c", 1))
    with pytest.raises(DataProblem, match="the file changed while it was being read"):
        list(source.rows())


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    data = bytearray(gzip.compress(b"text,label\n" + b"a,b\n" * 1000))
    data[-6] ^= 1  # the checksum
    path.write_bytes(bytes(data))
    with pytest.raises(DataProblem, match="the gzip file is damaged"):
        read(path)


def test_suffix_gz_on_plain_text_and_gzip_without_it_are_read(tmp_path):
    plain, packed = tmp_path / "a.csv.gz", tmp_path / "b.csv"
    plain.write_bytes(b"text,label\na,b\n")
    packed.write_bytes(gzip.compress(b"text,label\na,b\n"))
    assert rows_of(plain) == rows_of(packed) == [{"text": "a", "label": "b"}]


def test_unknown_suffix_lists_what_is_read(tmp_path):
    path = tmp_path / "a.parquets"
    path.write_bytes(b"x")
    with pytest.raises(DataProblem) as caught:
        find_reader(path)
    assert str(caught.value) == (
        f"DataProblem: no reader for files that end in '.parquets'\n  where: {path}\n"
        "  do:    save the data in a format whose suffix is read: .parquet, .bio, .bioes, .bmes, .conll, .csv, .iob, "
        ".iob2, .json, .jsonl, .jsonlines, .ndjson, "
        ".tsv, .txt (all but .parquet also with .gz), or name a reader: csv, jsonl, parquet, conll, datasets"
    )

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.readers import read
from tunesmith.errors import DataProblem

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.lists(st.tuples(TEXTS, st.integers(0, 5), st.lists(TEXTS, max_size=2)), min_size=1, max_size=20),
    group_rows=st.integers(1, 10),
)
def test_what_pyarrow_writes_comes_back(tmp_path_factory, rows, group_rows):
    path = tmp_path_factory.mktemp("parquet") / "data.parquet"
    dicts = [{"text": text, "label": label, "tags": tags} for text, label, tags in rows]
    schema = pa.schema([("text", pa.string()), ("label", pa.int64()), ("tags", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist(dicts, schema=schema), path, row_group_size=group_rows)
    source = read(path)
    assert source.columns == ("text", "label", "tags")
    assert list(source.rows()) == list(enumerate(dicts, start=1))


def test_cut_empty_and_changed_files_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"] * 1000}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataProblem, match="the Parquet file is damaged or cut off"):
        read(path)
    path.write_bytes(whole)
    source = read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DataProblem, match="the file changed while it was being read"):
        list(source.rows())
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    with pytest.raises(DataProblem, match="the file has columns and no rows"):
        read(path)


def test_a_damaged_page_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"text number {i}" for i in range(5000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:4000] = b"\xff" * 3800
    path.write_bytes(bytes(data))
    with pytest.raises(DataProblem, match="the Parquet file is damaged or cut off"):
        list(read(path).rows())

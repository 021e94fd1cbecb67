import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.data.readers import READERS, Source, find_reader, read
from tunesmith.errors import DataProblem


class Lines:
    SUFFIXES = (".lines",)

    @staticmethod
    def read(path: Path) -> Source:
        rows = [(1, {"text": "from my own reader"})]
        return Source(str(path), "lines", "", "", ("text",), "0" * 64, lambda: iter(rows))


@pytest.mark.parametrize("name", READERS)
def test_every_entry_follows_the_protocol(name):
    reader = importlib.import_module(READERS[name])
    assert isinstance(reader.SUFFIXES, tuple)
    assert callable(reader.read)
    for suffix in reader.SUFFIXES:
        assert suffix.startswith(".")


@pytest.mark.parametrize("name", READERS)
def test_every_suffix_finds_its_reader(tmp_path, name):
    reader = importlib.import_module(READERS[name])
    for suffix in reader.SUFFIXES:
        path = tmp_path / f"DATA{suffix.upper()}"
        path.write_bytes(b"")
        assert find_reader(path) is reader


def test_a_reader_can_be_named_or_given(tmp_path):
    assert find_reader(tmp_path, "csv") is importlib.import_module(READERS["csv"])
    assert find_reader(tmp_path, f"{__name__}:Lines") is Lines
    assert next(read("x.lines", Lines()).rows()) == (1, {"text": "from my own reader"})


def test_wrong_names_are_refused(tmp_path):
    with pytest.raises(DataProblem) as caught:
        find_reader("x", "jsnl")
    assert str(caught.value) == (
        "DataProblem: no reader is called 'jsnl'\n  do:    name one of: jsonl, conll, csv, datasets, parquet"
    )
    with pytest.raises(DataProblem, match=r"reader 'no\.such:Thing' cannot be loaded: No module named 'no'"):
        find_reader("x", "no.such:Thing")


def test_a_missing_file_names_those_beside_it(tmp_path):
    (tmp_path / "reviews.csv").write_text("x")
    with pytest.raises(DataProblem) as caught:
        read(tmp_path / "review.csv")
    assert str(caught.value) == (
        f"DataProblem: file '{tmp_path / 'review.csv'}' does not exist\n  where: {tmp_path}\n"
        "  do:    check the path; that folder has reviews.csv"
    )


def test_importing_the_room_loads_nothing_heavy():
    code = "import sys, tunesmith.data; print([m for m in ('numpy', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""Attacks by what is offered for import: files that run code, or take all memory, when the wrong program opens them."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

import tunesmith
from tunesmith.cli import main
from tunesmith.errors import BundleProblem, DataProblem, ModelProblem, TunesmithError
from tunesmith.models.find import find_base

SAFE_HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
PICKLES = ("model.pkl", "model.pt", "pytorch_model.bin", "training_args.bin", "optimizer.pt")


class Gadget:
    """Creates a file when it is unpickled."""

    def __init__(self, bait: Path) -> None:
        self.bait = bait

    def __reduce__(self):
        return (open, (str(self.bait), "w"))


def folder_with(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", PICKLES)
def test_attack_1_to_5_no_command_opens_a_pickle(tmp_path, capsys, name):
    bait = tmp_path / "was-run"
    folder = folder_with(tmp_path / "model", **{name: pickle.dumps(Gadget(bait))})
    data = tmp_path / "rows.csv"
    rows = "".join(f"one number {number},a\nother word {number},b\n" for number in range(20))
    data.write_text(f"text,label\n{rows}", encoding="utf-8")
    assert main(["train", str(data), "--model", str(folder), "--out", str(tmp_path / "run"), "--dry-run"]) == 2
    assert f"it has {name}, which can run code and is never opened" in capsys.readouterr().err
    for command in (
        ["predict", str(folder), "one"],
        ["evaluate", str(folder), str(data)],
        ["inspect", str(folder / name)],
    ):
        assert main(command) == 2
    with pytest.raises(BundleProblem):
        tunesmith.load(folder)
    assert not bait.exists()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "model.gguf", "tokenizer.json", "generation_config.json"]
)
def test_attack_6_to_8_a_pickle_under_another_name_is_refused_by_content(tmp_path, name):
    bait = tmp_path / "was-run"
    header = len(SAFE_HEADER).to_bytes(8, "little") + SAFE_HEADER + b"\0\0\0\0"
    files = {} if name == "model.gguf" else {"model.safetensors": header}
    folder = folder_with(tmp_path / "model", **{**files, name: pickle.dumps(Gadget(bait))})
    if name == "tokenizer.json":
        from tunesmith.models.build import build_tokenizer

        with pytest.raises(ModelProblem):
            build_tokenizer(folder)
    else:
        with pytest.raises(ModelProblem):
            find_base(str(folder))
    assert not bait.exists()


@pytest.mark.parametrize(
    "suffix",
    [".npy", ".npz", ".joblib", ".dill", ".pkl", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".conll", ".csv.gz"],
)
@pytest.mark.parametrize("is_plain", [True, False])
def test_attack_19_and_20_pickled_rows_are_refused_whatever_they_are_called(tmp_path, suffix, is_plain):
    import numpy as np

    bait = tmp_path / "was-run"
    path = tmp_path / f"rows{suffix}"
    if is_plain:
        path.write_bytes(pickle.dumps([Gadget(bait)]))
    else:
        with path.open("wb") as file:
            np.save(file, np.array([Gadget(bait)], dtype=object), allow_pickle=True)
    with pytest.raises(DataProblem):
        tunesmith.inspect(str(path))
    assert not bait.exists()


def test_attack_1_to_20_a_run_with_pickles_beside_it_answers_without_them(toy_run, tmp_path):
    bait, copy = tmp_path / "was-run", tmp_path / "run"
    shutil.copytree(toy_run.path, copy)
    for name in (*PICKLES, "adapter_model.bin", "rows.npy"):
        (copy / name).write_bytes(pickle.dumps(Gadget(bait)))
    assert tunesmith.load(copy).predict("the1 a1")[0].value in toy_run.labels
    weights = copy / "model.safetensors"
    weights.write_bytes(pickle.dumps(Gadget(bait)))
    with pytest.raises(TunesmithError):
        tunesmith.load(copy)
    with pytest.raises(TunesmithError):
        tunesmith.load(copy, verify=False).predict("the1 a1")
    assert not bait.exists()


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_attack_29_a_huge_cell_costs_one_row_and_little_memory(tmp_path, quote, suffix):
    path = tmp_path / f"rows{suffix}"
    huge, size = b"x" * 1_000_000, 30
    with path.open("wb") as file:
        if suffix == ".csv":
            file.write(b"text,label\none two,a\n" + quote.encode())
            file.writelines(huge for _ in range(size))
            file.write(quote.encode() + b",a\nthree four,b\n")
        else:
            file.write(b'{"text": "one two", "label": "a"}\n{"text": "')
            file.writelines(huge for _ in range(size))
            file.write(b'", "label": "a"}\n{"text": "three four", "label": "b"}\n')
    tracemalloc.start()
    found = tunesmith.inspect(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.used, len(found.rejected)) == (2, 1)
    assert peak < 25_000_000


_CHILD = """
import json, resource, sys
import tunesmith
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
found = tunesmith.inspect(sys.argv[1])
print(json.dumps([found.rows, found.used, len(found.rejected)]))
"""


@pytest.mark.slow
def test_attack_25_and_29_a_gigabyte_in_one_packed_cell_fits_in_little_memory(tmp_path):
    """A gzip bomb of 1,000:1, which is one cell of a gigabyte: read with 700 MB of address space for all of Python."""
    path = tmp_path / "rows.csv.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b"text,label\none two,a\n")
        for _ in range(1000):
            file.write(b"x" * 1_000_000)
        file.write(b",a\nthree four,b\n")
    assert path.stat().st_size < 1_100_000
    command = [sys.executable, "-c", _CHILD, str(path), str(700_000_000)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [3, 2, 1]

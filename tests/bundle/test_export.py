"""An exported run answers as before, without torch; and a run is never left with half of an export."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

import toy_world
from tunesmith.bundle import candidates, exported, kept_rows
from tunesmith.bundle import export as exporting
from tunesmith.bundle.atomic import find_damage
from tunesmith.bundle.compare import compare
from tunesmith.bundle.evaluate import evaluate
from tunesmith.bundle.export import _choose, export
from tunesmith.bundle.load import load
from tunesmith.cli import main
from tunesmith.engines import ENGINES, Runtime
from tunesmith.engines.contest import Timing
from tunesmith.errors import BundleProblem, DataProblem, MissingExtra, ModelProblem, PlanProblem, TunesmithError
from tunesmith.types import Origin, Record

TEXTS = [text for text, _ in toy_world.rows(30, seed=8, is_test=True)] + ["", "never seen words", "a1 " * 60, "中文"]
HEAVY = ("torch", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "onnx", "peft", "accelerate", "safetensors")


@pytest.fixture(scope="module")
def source(toy_run, tmp_path_factory) -> Path:
    """A run that is exported; tests that change it take a copy."""
    run = Path(shutil.copytree(toy_run.path, tmp_path_factory.mktemp("exported") / "run"))
    made = export(run, engine="onnx", threads=1)
    assert made.folder is not None
    return run


@pytest.fixture
def copy(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "run"))


@pytest.fixture
def plain(toy_run, tmp_path) -> Path:
    """A run that is not exported."""
    return Path(shutil.copytree(toy_run.path, tmp_path / "plain"))


def problem_of(kind: type[TunesmithError], call) -> TunesmithError:
    with pytest.raises(kind) as caught:
        call()
    return caught.value


def files_of(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_it_answers_as_torch_does(source):
    records = [Record(str(row), {"text": text}, None, Origin("x", row)) for row, text in enumerate(TEXTS)]
    mine, theirs = load(source), load(source, engine="torch")
    assert mine.exported is not None
    assert theirs.exported is None
    assert np.allclose(mine.answer(records), theirs.answer(records), atol=1e-5)
    one, other = ([(found.value, found.alternatives.keys()) for found in run.predict(TEXTS)] for run in (mine, theirs))
    assert one == other


def test_predict_loads_nothing_heavy(source, tmp_path):
    rows = toy_world.write_csv(tmp_path / "rows.csv", toy_world.rows(12, seed=4))
    out = tmp_path / "out.csv"
    code = (
        "import sys\nfrom tunesmith.cli import main\n"
        f"assert main(['predict', {str(source)!r}, 'a1 a2 a3']) == 0\n"
        f"assert main(['predict', {str(source)!r}, '--file', {str(rows)!r}, '--out', {str(out)!r}]) == 0\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(out.read_text(encoding="utf-8").splitlines()) == 13


def test_the_manifest_lists_the_export(source):
    assert find_damage(source) == []
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    listed = [name for name in manifest["files"] if name.startswith("exports/")]
    assert [Path(name).name for name in listed] == ["export.json", "model.onnx", "model.onnx.data", "tokenizer.json"]
    facts = json.loads((source / manifest["export"] / "export.json").read_text(encoding="utf-8"))
    assert (facts["engine"], facts["quantized"]) == ("onnx", "none")
    assert [row["name"] for row in facts["measured"]["table"]] == ["torch", "onnx"]
    assert [row["is_chosen"] for row in facts["measured"]["table"]] == [False, True]
    assert facts["measured"]["table"][1]["agreement"] == 1.0
    assert [path.name for path in (source / "exports").iterdir()] == [Path(manifest["export"]).name]


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "tokenizer.json", "export.json"])
@pytest.mark.parametrize("what", ["missing", "changed"])
def test_damage_is_told_and_torch_still_answers(copy, name, what):
    (path,) = (copy / "exports").glob(f"*/{name}")
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    found = problem_of(BundleProblem, lambda: load(copy))
    told = f"is {what}" if what == "missing" else "has changed"
    assert found.what == f"what this run was exported to is damaged: {path.relative_to(copy)} {told}"
    assert found.do == f"export it again: tunesmith export {copy}; or answer with --engine torch"
    assert load(copy, engine="torch").predict("a1 a2 a3")


def test_weights_that_are_not_read_may_be_damaged(copy):
    (copy / "model.safetensors").write_bytes(b"123456789")
    assert load(copy).predict("a1 a2 a3")
    assert "model.safetensors has changed" in problem_of(BundleProblem, lambda: load(copy, engine="torch")).what
    (copy / "config.json").write_text("{}", encoding="utf-8")
    assert problem_of(BundleProblem, lambda: load(copy)).what == "this run folder is damaged: config.json has changed"


def test_without_the_runtime_torch_answers_and_says_so(copy, monkeypatch, capsys):
    monkeypatch.setitem(ENGINES, "onnx", Runtime("x", "no_such_runtime", "onnx", "model.onnx"))
    bundle = load(copy)
    assert bundle.exported is None
    remark = "the run is exported for onnx, and no_such_runtime is not installed here: answering with torch"
    assert bundle.remark == remark
    assert main(["predict", str(copy), "a1 a2 a3"]) == 0
    assert capsys.readouterr().err == f"note: {remark}\n"
    assert "pip install 'tunesmith[onnx]'" in problem_of(MissingExtra, lambda: load(copy, engine="onnx")).do
    (copy / "model.safetensors").write_bytes(b"123456789")
    assert "model.safetensors has changed" in problem_of(BundleProblem, lambda: load(copy)).what


def test_full_range_needs_a_cpu_that_has_it(copy, monkeypatch):
    def has_vnni() -> bool:
        return False

    monkeypatch.setattr(exported, "has_vnni", has_vnni)
    assert load(copy).exported is not None
    (path,) = (copy / "exports").glob("*/export.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_full_range": True}), encoding="utf-8")
    bundle = load(copy, verify=False)
    assert bundle.exported is None
    assert bundle.remark.endswith("8-bit instructions (VNNI), which this one lacks: answering with torch")


def test_an_engine_that_was_not_exported_is_refused(source, plain):
    found = problem_of(BundleProblem, lambda: load(source, engine="openvino"))
    assert found.what == "this run has no model for engine 'openvino': it is exported for onnx"
    found = problem_of(BundleProblem, lambda: load(plain, engine="onnx"))
    assert found.what == "this run has no model for engine 'onnx': it is not exported"
    assert found.do == f"tunesmith export {plain} --engine onnx; or answer with --engine auto"
    found = problem_of(PlanProblem, lambda: load(plain, engine="onx"))
    assert (
        str(found) == "PlanProblem: no engine 'onx'\n  where: engine\n  do:    use one of: onnx, auto, openvino, torch"
    )


def test_engines_are_chosen_for_evaluate_and_compare(source, plain, toy_data):
    mine, theirs = (evaluate(source, toy_data["test"], engine=engine) for engine in ("onnx", "torch"))
    assert mine.bundle.exported is not None
    assert theirs.bundle.exported is None
    assert mine.scores.value == theirs.scores.value
    found = compare([source, plain], toy_data["test"])
    assert found.changed_count == 0


def test_a_folder_that_the_manifest_makes_up_is_not_opened(copy):
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, "export": "../elsewhere"}), encoding="utf-8")
    assert load(copy).exported is None


@pytest.mark.slow
def test_exporting_again_replaces_and_torch_forgets(copy):
    before = files_of(copy)
    again = export(copy, engine="onnx", threads=1)
    assert again.folder is not None
    assert [path.name for path in (copy / "exports").iterdir()] == [again.folder.name]
    assert load(copy).exported is not None
    assert export(copy, engine="torch").folder is None
    assert load(copy).exported is None
    assert not list(copy.glob("exports/*"))
    assert files_of(copy) == {
        name: content for name, content in before.items() if not name.startswith("exports/") and name != "manifest.json"
    } | {"manifest.json": (copy / "manifest.json").read_bytes()}
    assert find_damage(copy) == []


@pytest.mark.slow
def test_a_fault_half_way_leaves_the_run_as_it_was(plain, monkeypatch):
    before = files_of(plain)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_commit", fail)
    problem_of(TunesmithError, lambda: export(plain, engine="onnx", threads=1))
    assert {name: content for name, content in files_of(plain).items() if not name.startswith("exports/")} == before
    assert load(plain).exported is None


def test_answers_that_differ_are_refused(plain, monkeypatch):
    before = files_of(plain)
    monkeypatch.setattr(candidates, "LARGEST_DIFFERENCE", -1.0)
    found = problem_of(ModelProblem, lambda: export(plain, engine="onnx", threads=1))
    assert found.what.startswith("the exported model answers otherwise than torch: by ")
    assert files_of(plain) == before


def test_a_tokenizer_that_differs_is_refused(plain, monkeypatch):
    def wrong(tokenizer, path):
        text = tokenizer.backend_tokenizer.to_str().replace('"a1":', '"b1":').replace('"a2":', '"a1":')
        path.write_text(text, encoding="utf-8")

    monkeypatch.setattr(candidates, "write_tokenizer", wrong)
    found = problem_of(ModelProblem, lambda: export(plain, engine="onnx", threads=1))
    assert found.what == "the tokenizer of this model gives other tokens without Transformers than with it"


@pytest.mark.slow
def test_8_bits_that_lose_too_much_are_refused_and_told(plain, monkeypatch):
    before = files_of(plain)
    losses = iter(
        [9.0, 1.0, 8.0, 8.0, 7.0, 7.0, 7.0, 7.0, 6.0, 6.0, 6.0, 6.0, 1.0, 5.0]
    )  # in bulk and alone: the worse counts
    checked = candidates.Workbench._checked

    def worse(self, name, *others, **options):
        found = checked(self, name, *others, **options)
        return exporting.Candidate(**{**vars(found), "loss": next(losses) if name.endswith("int8") else found.loss})

    monkeypatch.setattr(candidates, "has_vnni", lambda: False)
    monkeypatch.setattr(candidates.Workbench, "_checked", worse)
    found = problem_of(PlanProblem, lambda: export(plain, engine="onnx", quantize="int8", threads=1))
    assert found.what.startswith("none of 7 ways to 8 bits keeps within 0.5 points of accuracy on 45 rows; ")
    assert found.what.endswith("the best loses 5.00. The run is as it was")
    assert "--tolerance 5," in found.do
    assert files_of(plain) == before


@pytest.mark.slow
def test_8_bits_are_kept_where_they_lose_little(plain):
    made = export(plain, engine="onnx", quantize="int8", tolerance=100, threads=1)
    assert made.chosen == "onnx int8"
    assert [(one.what, one.is_within) for one in made.tries] == [("onnx, all layers", True)]
    sizes = {row.name: row.file_mib for row in made.table}
    assert 0 < sizes["onnx int8"] < sizes["onnx"]
    bundle = load(plain)
    assert bundle.exported is not None
    assert bundle.exported.words == "onnx int8"
    assert [found.value for found in bundle.predict(["a1 a2 a3", "m1 m2 m3"])]


def test_what_does_not_fit_together_is_refused(plain):
    found = problem_of(PlanProblem, lambda: export(plain, engine="torch", quantize="int8"))
    assert found.do == "use --engine onnx or openvino, or auto"
    assert problem_of(PlanProblem, lambda: export(plain, quantize="int4")).do == "use one of: none, int8, auto"
    assert problem_of(PlanProblem, lambda: export(plain, tolerance=-1)).where == "tolerance"


@pytest.mark.slow
def test_rows_that_are_gone_are_asked_for(plain, toy_data, monkeypatch):
    records = kept_rows.measuring_rows(load(plain))
    valid = set(json.loads((plain / "splits.json").read_text(encoding="utf-8"))["valid"])
    assert {record.id for record in records} == valid
    monkeypatch.setattr(kept_rows, "places_of", lambda bundle, part: [])
    found = problem_of(DataProblem, lambda: export(plain, engine="onnx"))
    assert found.what.endswith("valid.csv is gone or has changed")
    assert found.do == "give labelled rows to measure on: --data FILE"
    made = export(plain, engine="onnx", data=toy_data["test"], threads=1)
    assert made.rows == 90


def test_rows_that_changed_are_not_taken(plain, toy_data, tmp_path, monkeypatch):
    other = toy_world.write_csv(tmp_path / "valid.csv", toy_world.rows(45, seed=99))
    monkeypatch.setattr(kept_rows, "places_of", lambda bundle, part: [str(other)])
    assert "has changed" in problem_of(DataProblem, lambda: kept_rows.measuring_rows(load(plain))).what
    monkeypatch.setattr(kept_rows, "places_of", lambda bundle, part: [str(other), str(toy_data["valid"])])
    assert len(kept_rows.measuring_rows(load(plain))) == 45


def test_the_command_prints_the_table(plain, capsys):
    assert main(["export", str(plain), "--engine", "onnx", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if "one row" in line)
    assert lines[header].split() == ["one", "row", "in", "bulk", "same", "answers", "points", "difference", "size"]
    assert [line.split()[0] for line in lines[header + 1 : header + 3]] == ["torch", "onnx"]
    assert "100.0%" in lines[header + 2]
    assert lines[-1] == f'next     tunesmith predict {plain} "some text"'
    assert max(map(len, lines[header:-3])) <= 80
    assert main(["export", str(plain), "--engine", "torch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == "torch"


@pytest.mark.slow
def test_killed_at_any_moment_the_run_is_as_it_was(plain):
    """SIGKILL the real process again and again; what the manifest lists is whole each time, and the run answers."""
    expected = [found.value for found in load(plain).predict(TEXTS)]
    command = [sys.executable, "-m", "tunesmith", "export", str(plain), "--engine", "onnx", "--threads", "1", "--quiet"]
    start = time.monotonic()
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    whole = time.monotonic() - start
    for place in range(8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
        time.sleep(whole * (place + 1) / 9)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert find_damage(plain) == []
        assert [found.value for found in load(plain).predict(TEXTS)] == expected
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    assert len(list((plain / "exports").iterdir())) == 1, "what the killed ones left is gone"


def test_what_is_to_be_fast_decides_between_engines():
    found = [Mock(runtime="onnx"), Mock(runtime="openvino")]
    found[0].name, found[1].name = "onnx int8", "openvino int8"
    timings = {"onnx int8": Timing(6.3, 175.0, 512), "openvino int8": Timing(9.9, 285.0, 512)}

    def chosen(prefer):
        return _choose(found, timings, "auto", "int8", prefer=prefer).name

    assert chosen("latency") == "onnx int8"
    assert chosen("throughput") == chosen("balanced") == "openvino int8"


def test_an_unknown_preference_is_refused(plain):
    assert "latency" in problem_of(PlanProblem, lambda: export(plain, prefer="speed")).do

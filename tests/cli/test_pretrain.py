"""Tests of `tunesmith pretrain`."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from tunesmith.cli import main


@pytest.fixture
def corpus(tmp_path):
    generator = random.Random(0)
    words = ["river", "stone", "light", "bird", "house", "letter", "winter", "garden", "window", "road"]
    path = tmp_path / "corpus.txt"
    path.write_text("".join(" ".join(generator.choices(words, k=9)) + ".\n" for _ in range(300)), encoding="utf-8")
    return path


QUICK = ["--size", "tiny", "--vocab-size", "320", "--max-length", "32", "--steps", "6", "--set", "eval_steps=3"]


def test_a_run_prints_plan_masks_and_table(corpus, tmp_path, capsys):
    assert main(["pretrain", str(corpus), *QUICK, "--out", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert any(line.startswith("corpus   300 documents") for line in lines)
    assert any("blocks" in line and "of 32 tokens, no padding" in line for line in lines)
    assert any("] -> " in line for line in lines)
    table = [line for line in lines if line.startswith(("single tokens", "the model before", "the model after"))]
    assert len(table) == 3
    assert lines[-1] == f"next     tunesmith train DATA --model {tmp_path / 'run'}"
    assert "step 6/6  loss" in printed.err


def test_json_is_one_document(corpus, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["pretrain", str(corpus), *QUICK, "--objective", "clm", "--out", out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == out
    assert document["plan"]["steps"] == 6
    assert {"loss", "perplexity", "bits_per_character"} <= set(document["result"]["after"])


def test_a_dry_run_prints_the_plan_and_makes_nothing(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", str(corpus), *QUICK, "--dry-run"]) == 0
    assert "price    about" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_mistakes_are_errors_of_three_parts(corpus, tmp_path, capsys):
    assert main(["pretrain"]) == 2
    assert capsys.readouterr().err == (
        "DataProblem: no corpus was given\n  where: corpus\n  do:    tunesmith pretrain FILE [FILE ...]\n"
    )
    assert main(["pretrain", str(corpus), "--size", "huge"]) == 2
    assert "use one of: " in capsys.readouterr().err
    assert main(["pretrain", str(corpus), "--resume", str(tmp_path)]) == 2
    assert "--resume goes on with a run as it was planned" in capsys.readouterr().err
    assert main(["pretrain", str(corpus), "--set", "steps"]) == 2
    assert "--set steps has no value" in capsys.readouterr().err


def test_help_loads_no_torch():
    code = (
        "import sys, tunesmith.cli\n"
        "try:\n    tunesmith.cli.main(['pretrain', '--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--objective" in done.stdout
    assert "--resume" in done.stdout

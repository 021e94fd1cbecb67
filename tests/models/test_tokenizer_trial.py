"""A tokenizer whose expressions backtrack without end is refused before it reads anything."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tunesmith.errors import ModelProblem
from tunesmith.models.tokenizer_trial import demand_tame

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tokenizer(folder: Path, expression: str, place: str = "pre_tokenizer") -> Path:
    path = folder / "tokenizer.json"
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({"version": "1.0", place: {"type": "Sequence", "pretokenizers": [split]}}), "utf-8")
    return path


@pytest.mark.parametrize("expression", ["(a+)+$", "(a|aa)+$"])
@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer"])
def test_an_expression_that_backtracks_is_refused(tmp_path, expression, place):
    path = tokenizer(tmp_path, expression, place)
    with pytest.raises(ModelProblem) as caught:
        demand_tame(path)
    assert str(caught.value) == (
        "ModelProblem: the regular expressions of this tokenizer take more than 2 seconds for a short text\n"
        f"  where: {path}\n"
        "  do:    use a model from a source you trust, or one whose tokenizer has plainer expressions"
    )


def test_it_is_refused_when_a_model_folder_is_found(tmp_path):
    from test_find import write_safetensors

    from tunesmith.models.find import find_base

    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    write_safetensors(tmp_path / "model.safetensors")
    tokenizer(tmp_path, "(a+)+$")
    with pytest.raises(ModelProblem, match="the regular expressions of this tokenizer"):
        find_base(str(tmp_path))


def test_an_absurdly_long_expression_is_refused(tmp_path):
    with pytest.raises(ModelProblem, match="have 30,000 characters"):
        demand_tame(tokenizer(tmp_path, "a" * 30_000))


def test_known_expressions_cost_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("no process is needed"))
    start = time.perf_counter()
    demand_tame(tokenizer(tmp_path, GPT2))
    demand_tame(tmp_path / "not-there.json")
    assert time.perf_counter() - start < 0.5


def test_a_repeated_group_that_is_tame_passes(tmp_path):
    demand_tame(tokenizer(tmp_path, r"(ab)+|\w+"))

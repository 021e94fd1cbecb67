"""`tunesmith suggest`: what it prints and writes, and how it refuses."""

from __future__ import annotations

import csv
import json

import pytest

import toy_world
from tunesmith.cli import main


@pytest.fixture
def run(capsys):
    """Run a command; give its exit code, stdout and stderr."""

    def _run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "pool.csv"
    return toy_world.write_csv(path, [(text, "") for text, _ in toy_world.rows(40, seed=51)])


def test_rows_are_shown_with_what_to_type_next(run, toy_run, pool):
    code, out, err = run("suggest", toy_run.path, pool, "-n", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["row", "score", "why", "text"]
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[-2] == "40 rows: 40 new"
    assert lines[-1] == f"next     tunesmith suggest {toy_run.path} {pool} --out next.csv"
    assert all(len(line) <= 80 for line in lines[:-1])


def test_a_file_is_written_once(run, toy_run, pool, tmp_path):
    out = tmp_path / "next.csv"
    code, said, _ = run("suggest", toy_run.path, pool, "-n", 7, "--by", "uncertainty", "--out", out)
    assert code == 0
    assert f"written  {out} (added: rank, score, why)\n" in said
    assert "next     fill in 'label', add the rows to your data, and train again\n" in said
    with out.open(encoding="utf-8", newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == [str(rank) for rank in range(1, 8)]
    code, _, err = run("suggest", toy_run.path, pool, "--out", out)
    assert (code, err) == (
        2,
        f"PlanProblem: {out} is there already\n  where: {out}\n  do:    choose another --out, or --force\n",
    )
    assert run("suggest", toy_run.path, pool, "--out", out, "--force")[0] == 0


def test_json_has_every_row(run, toy_run, pool):
    code, out, _ = run("suggest", toy_run.path, pool, "-n", 4, "--json")
    found = json.loads(out)
    assert code == 0
    assert [row["rank"] for row in found["rows"]] == [1, 2, 3, 4]
    assert {"row", "score", "why", "text", "answered", "confidence", "columns"} <= set(found["rows"][0])
    assert found["counts"] == {"rows": 40, "used": 40}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "a run and a file are needed"),
        (("RUN",), "a run and a file are needed"),
        (("RUN", "POOL", "--by", "luck"), "rows are chosen by 'luck'"),
        (("RUN", "--simulate", "POOL"), "--simulate takes a labelled file alone"),
        (("RUN", "POOL", "-n", "0"), "the number of rows is 0"),
    ],
)
def test_mistakes_are_told(run, toy_run, pool, arguments, what):
    names = {"RUN": toy_run.path, "POOL": pool}
    code, _, err = run("suggest", *(names.get(argument, argument) for argument in arguments))
    assert code == 2
    assert err.startswith(f"PlanProblem: {what}")
    assert "\n  do:    " in err


@pytest.mark.slow
def test_the_learning_curve_is_a_table_a_page_and_json(run, toy_base, toy_data, tmp_path):
    sets = {"model": toy_base, "test": toy_data["test"], "valid": toy_data["valid"], "threads": 1, "epochs": 1}
    flags = [f"--set={name}={value}" for name, value in sets.items()]
    arguments = ["suggest", "--simulate", toy_data["train"], "--rounds", 1, "--per-round", 6, "--seeds", 1, *flags]
    code, out, err = run(*arguments, "--out", tmp_path / "curve", "--json")
    found = json.loads(out)
    assert code == 0
    assert [(point["by"], point["labelled"]) for point in found["points"]] == [
        *(("both", 6), ("both", 12), ("chance", 6), ("chance", 12)),
    ]
    assert "labels" in err
    assert "By chance" in (tmp_path / "curve" / "report.html").read_text(encoding="utf-8")

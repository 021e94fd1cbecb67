"""Every command: what it prints, what it writes, and how it leaves."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

import toy_world
import tunesmith
from tunesmith.cli import COMMANDS, main
from tunesmith.errors import TunesmithError


@pytest.fixture
def run(capsys):
    """Run a command; give its exit code, stdout and stderr."""

    def _run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _run


@pytest.fixture
def flags(toy_options):
    """The toy run's options as the command line takes them, one epoch."""
    options = {**toy_options, "epochs": 1}
    options.pop("data")
    return [f"--set={name}={value}" for name, value in options.items()]


def document(out: str) -> dict:
    """Parse stdout, which must be one JSON document and nothing else."""
    return json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def three_parts(what: str, where: str, do: str, kind: str = "PlanProblem") -> str:
    return f"{kind}: {what}\n  where: {where}\n  do:    {do}\n"


# the door


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"], ["help"]])
def test_the_overview_lists_every_command(run, arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert all(f"  {name:<17}{meaning}" in out for name, meaning in COMMANDS.items())


def test_the_version_is_told(run):
    assert run("--version") == (0, f"tunesmith {tunesmith.__version__}\n", "")
    assert importlib.metadata.version("tunesmith") == tunesmith.__version__


@pytest.mark.parametrize("name", [*COMMANDS, "finetune", "fit"])
def test_every_command_explains_itself(capsys, name):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: tunesmith ")
    assert all(option in out for option in ("--json", "--quiet", "--debug"))


def test_an_unknown_command_lists_the_nearest_first(run):
    code, out, err = run("trian", "x.csv")
    assert (code, out) == (2, "")
    assert err.startswith("PlanProblem: no command 'trian'\n  where: command line\n  do:    use one of: train, ")


def test_an_unknown_option_is_refused(run):
    assert run("inspect", "x.csv", "--nope") == (
        2,
        "",
        three_parts("unrecognized arguments: --nope", "command line", "tunesmith inspect --help lists the options"),
    )
    assert run("evaluate", "x")[2] == three_parts(
        "the following arguments are required: data", "command line", "tunesmith evaluate --help lists the options"
    )
    assert run("train", "x.csv", "--epo", "3")[0] == 2, "no abbreviations"


def test_errors_have_no_traceback_unless_asked(run):
    quiet, loud = run("evaluate", "nowhere", "x.csv"), run("evaluate", "nowhere", "x.csv", "--debug")
    assert quiet[0] == loud[0] == 2
    assert "Traceback" not in quiet[2]
    assert "Traceback" in loud[2]
    assert quiet[2].startswith("BundleProblem: there is no run folder 'nowhere'")


def test_errors_are_a_document_with_json(run):
    code, out, err = run("evaluate", "nowhere", "x.csv", "--json")
    assert code == 2
    parts = document(out)["error"]
    assert set(parts) == {"type", "what", "where", "do"}
    assert parts["type"] == "BundleProblem"
    assert "where: nowhere" in err


def test_a_fault_of_ours_says_so_and_leaves_with_1(run, monkeypatch):
    from tunesmith import doctor

    def broken():
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(doctor, "examine", broken)
    code, out, err = run("doctor")
    assert (code, out) == (1, "")
    assert err == three_parts(
        "this is a fault of Tunesmith: ZeroDivisionError: oops",
        "tunesmith doctor",
        "run it again with --debug and report what it prints",
        kind="TunesmithError",
    )
    assert "Traceback" in run("doctor", "--debug")[2]


# inspect


def test_inspect_says_what_is_in_a_file(run, toy_data):
    code, out, err = run("inspect", toy_data["train"])
    assert (code, err) == (0, "")
    assert "120" in out
    assert "animal" in out
    code, out, _ = run("inspect", toy_data["train"], toy_data["test"], "--json")
    found = document(out)
    assert (code, found["rows"], found["used"]) == (0, 120, 120)
    assert found["label_counts"] == {"animal": 40, "metal": 40, "weather": 40}
    assert run("inspect", toy_data["train"], "--quiet") == (0, "", "")


def test_inspect_of_a_missing_file_names_the_nearest(run, toy_data):
    code, _, err = run("inspect", toy_data["train"].with_name("tran.csv"))
    assert code == 2
    assert err.startswith("DataProblem: file ")
    assert "that folder has train.csv" in err


# train


def test_train_prints_a_plan_the_gain_and_what_to_type_next(run, toy_data, flags, tmp_path):
    code, out, err = run("train", toy_data["train"], *flags, "--out", tmp_path / "run")
    assert code == 0, err
    assert "reading the data and the base model ..." in out
    assert "TF-IDF" in out
    assert f"report   {tmp_path / 'run' / 'report.html'}" in out
    assert out.splitlines()[-1].startswith(f"next     tunesmith predict {tmp_path / 'run'} '")
    assert "training ..." in err
    assert "accuracy" in err
    assert tunesmith.load(tmp_path / "run").gain.after.n == 90


@pytest.mark.parametrize("verb", ["finetune", "fine-tune", "fit"])
def test_other_verbs_train_too(run, toy_data, flags, verb):
    code, out, _ = run(verb, toy_data["train"], *flags, "--dry-run", "--json")
    assert (code, document(out)["plan"]["steps"]) == (0, 8)


def test_train_json_is_one_document(run, toy_data, flags, tmp_path):
    code, out, err = run("train", toy_data["train"], *flags, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    found = document(out)
    assert found["run"] == str(tmp_path / "run")
    assert found["plan"]["labels"] == list(toy_world.FAMILIES)
    assert set(found["gain"]["baselines"]) >= {"majority", "tfidf"}
    for each in (*found["gain"]["baselines"].values(), found["gain"]["before"], found["gain"]["after"]):
        assert set(each) >= {"values", "intervals", "n", "main", "seconds"}
        assert each["n"] == 90
        low, high = each["intervals"][each["main"]]
        assert low <= each["values"][each["main"]] <= high
    assert found["data"]["rows"] == 120
    assert "reading the data" in err


def test_quiet_training_prints_no_words(run, toy_data, flags, tmp_path):
    assert run("train", toy_data["train"], *flags, "--out", tmp_path / "run", "--quiet") == (0, "", "")
    code, out, err = run("train", toy_data["train"], *flags, "--out", tmp_path / "two", "--quiet", "--json")
    assert (code, err) == (0, "")
    assert document(out)["gain"]


def test_a_dry_run_writes_nothing(run, toy_data, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("train", toy_data["train"], *flags, "--dry-run", "--json")
    found = document(out)
    assert (code, found["run"], found["plan"]["steps"]) == (0, None, 8)
    assert found["plan"]["expected_seconds"] > 0
    code, out, _ = run("train", toy_data["train"], *flags, "--dry-run")
    assert code == 0
    assert "gain" not in out
    assert list(tmp_path.iterdir()) == []


def test_flags_override_the_recipe(run, toy_options, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in toy_options.items()), encoding="utf-8")
    found = document(run("train", recipe, "--dry-run", "--json")[1])["plan"]
    assert (found["options"]["epochs"], found["seed"]) == (6, 0)
    found = document(run("train", recipe, "--num-train-epochs", 2, "--set", "seed=4", "--dry-run", "--json")[1])["plan"]
    assert (found["options"]["epochs"], found["seed"]) == (2, 4)


MISTAKES = [
    (["train"], "no data was given"),
    (["train", "DATA", "--set", "epochs"], "--set epochs has no value"),
    (["train", "DATA", "--set", "epoch=3"], "no recipe key 'epoch'"),
    (["train", "DATA", "--epochs", "many"], "epochs is 'many'; it must be a number or auto"),
    (["train", "DATA", "--method", "magic"], "no method 'magic'"),
    (["train", "DATA", "--model", "./nowhere at all"], "no base model './nowhere at all'"),
    (["train", "DATA", "--track", "paper"], "no tracker 'paper'"),
    (["train", "DATA", "--label", "stars"], "column 'stars' is missing"),
    (["train", "nowhere.yaml"], "there is no such recipe"),
    (["train", "--resume", "nowhere"], "there is no run to resume here: plan.json is missing"),
    (["train", "DATA", "--resume", "nowhere"], "--resume goes on with a run as it was planned"),
    (["predict", "RUN"], "give either texts or --file"),
    (["predict", "RUN", "a", "--file", "b"], "give either texts or --file"),
    (["predict", "RUN", "--file", "DATA"], "--file and --out go together"),
    (["compare", "RUN", "--data", "DATA"], "one run alone cannot be compared"),
    (["inspect", "DATA", "--task", "divination"], "no task 'divination'"),
]


@pytest.mark.parametrize(("arguments", "what"), MISTAKES, ids=lambda item: str(item)[:40])
def test_mistakes_leave_with_2_and_three_parts(run, toy_run, toy_data, flags, arguments, what):
    places = {"DATA": str(toy_data["train"]), "RUN": str(toy_run.path)}
    given = [places.get(argument, argument) for argument in arguments]
    if "--model" not in given and given[:1] == ["train"] and "--resume" not in given and not given[-1].endswith("yaml"):
        given += [flag for flag in flags if flag.startswith("--set=model=")]
    code, out, err = run(*given)
    assert code == 2
    assert what in err.splitlines()[0]
    assert "\n  do:    " in err
    assert "Traceback" not in err
    assert out in {"", "reading the data and the base model ...\n"}


def test_a_run_folder_is_never_overwritten(run, toy_run, toy_data, flags):
    before = sorted(path.name for path in toy_run.path.iterdir())
    code, _, err = run("train", toy_data["train"], *flags, "--out", toy_run.path)
    assert code == 2
    assert err.endswith(three_parts("the run folder is not empty", str(toy_run.path), "choose another name with --out"))
    assert sorted(path.name for path in toy_run.path.iterdir()) == before


# predict


def test_predict_answers_a_text(run, toy_run):
    code, out, err = run("predict", toy_run.path, "a1 a2 a3 the1")
    assert (code, err) == (0, "")
    assert out.startswith("animal  0.9")
    assert run("predict", toy_run.path, "a1 a2 a3 the1", "--quiet")[1] == out, "the answer is what was asked for"
    assert run("predict", toy_run.path, "zzz")[1].startswith("do not know  0.")
    code, out, _ = run("predict", toy_run.path, "a1 a2 a3", "m1 m2 m3", "--all-scores")
    lines = out.splitlines()
    assert lines[0] == "a1 a2 a3"
    assert lines[1].startswith("  animal  ")
    assert len(lines) == 2 * 5


def test_predict_json_has_every_score(run, toy_run):
    code, out, _ = run("predict", toy_run.path, "a1 a2 a3", "zzz", "--json")
    found = document(out)
    assert (code, found["run"]) == (0, str(toy_run.path))
    assert [item["value"] for item in found["predictions"]] == ["animal", None]
    assert set(found["predictions"][0]["alternatives"]) == set(toy_world.FAMILIES)


def test_predict_answers_a_file(run, toy_run, toy_data, tmp_path):
    out_file = tmp_path / "out.csv"
    arguments = ("predict", toy_run.path, "--file", toy_data["test"], "--out", out_file)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "90 rows answered" in out
    with out_file.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90
    assert {"text", "label", "predicted_label", "score", "problem"} == set(rows[0])
    code, _, err = run(*arguments)
    assert (code, err) == (
        2,
        three_parts(f"{out_file} is there already", str(out_file), "choose another --out, or --force"),
    )
    assert run(*arguments, "--force", "--quiet") == (0, "", "")
    found = document(run(*arguments, "--force", "--json")[1])
    assert (found["rows"], found["out"]) == (90, str(out_file))


# evaluate, compare


def test_evaluate_scores_a_file_and_writes_a_report(run, toy_run, toy_data, tmp_path):
    report = tmp_path / "deep" / "report.html"
    code, out, err = run("evaluate", toy_run.path, toy_data["test"], "--out", report)
    assert (code, err) == (0, "")
    assert f"report   {report}" in out
    assert "animal" in out
    assert report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")
    assert run("evaluate", toy_run.path, toy_data["test"], "--out", report)[0] == 2, "never written over unasked"
    report = tmp_path / "other.html"
    found = document(run("evaluate", toy_run.path, toy_data["test"], "--out", report, "--json")[1])
    assert found["scores"]["n"] == 90
    assert found["report"] == str(report)
    assert run("evaluate", toy_run.path, toy_data["test"], "--out", report, "--force", "--quiet") == (0, "", "")


def test_evaluate_tells_which_rows_it_left_out(run, toy_run, toy_data, tmp_path):
    lines = toy_data["test"].read_text(encoding="utf-8").splitlines()
    path = tmp_path / "holes.csv"
    path.write_text("\n".join([*lines[:5], ",animal", *lines[5:]]) + "\n", encoding="utf-8")
    code, out, _ = run("evaluate", toy_run.path, path)
    assert code == 0
    assert "1 rows cannot be used" in out
    assert f"{path}:6" in out.replace("\n", ""), "a long path is wrapped"
    assert "empty-text" in out
    found = document(run("evaluate", toy_run.path, path, "--json")[1])
    assert [row["kind"] for row in found["rejected"]] == ["empty-text"]


def test_compare_puts_runs_side_by_side(run, toy_run, toy_data, flags, tmp_path):
    assert run("train", toy_data["train"], *flags, "--out", tmp_path / "other", "--quiet")[0] == 0
    arguments = ("compare", toy_run.path, tmp_path / "other", "--data", toy_data["test"])
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "toy" in out
    assert "other" in out
    found = document(run(*arguments, "--json")[1])
    assert set(found["scores"]) == {"toy", "other"}
    assert found["n"] == 90
    assert run(*arguments, "--quiet") == (0, "", "")


# init, doctor


def test_init_makes_a_folder_that_trains(run, toy_base, tmp_path):
    folder = tmp_path / "first"
    code, out, err = run("init", folder)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"next     tunesmith train {folder / 'recipe.yaml'}"
    assert sorted(path.name for path in folder.iterdir()) == ["recipe.yaml", "support_messages.csv"]
    code, out, err = run(
        *("train", folder / "recipe.yaml", "--model", toy_base, "--epochs", "0.1", "--out", tmp_path / "run", "--json")
    )
    assert code == 0, err
    assert document(out)["data"]["roles"] == {"text": "message", "label": "topic"}


def test_init_overwrites_only_with_force(run, tmp_path):
    assert run("init", tmp_path, "--quiet") == (0, "", "")
    (tmp_path / "recipe.yaml").write_text("mine", encoding="utf-8")
    assert run("init", tmp_path) == (
        2,
        "",
        three_parts(
            f"{tmp_path} already has support_messages.csv and recipe.yaml",
            str(tmp_path),
            "choose another folder, or --force",
        ),
    )
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == "mine"
    found = document(run("init", tmp_path, "--force", "--json")[1])
    assert found == {"folder": str(tmp_path), "files": ["support_messages.csv", "recipe.yaml"]}
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") != "mine"


def test_doctor_looks_at_everything(run):
    code, out, _ = run("doctor")
    assert code in {0, 2}
    for name in ("python", "libraries", "torchvision", "devices", "threads", "base model", "model cache", "disk"):
        assert f"  {name}" in out
    findings = document(run("doctor", "--json")[1])["findings"]
    assert {finding["state"] for finding in findings} <= {"ok", "warning", "error"}
    assert all(finding["do"] for finding in findings if finding["state"] != "ok")


def test_doctor_finds_a_torchvision_for_another_torch(run, monkeypatch):
    import torch

    real_version, real_requires = importlib.metadata.version, importlib.metadata.requires
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1.0" if name == "torchvision" else real_version(name)
    )
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["numpy", "torch (==1.2.3)"] if name == "torchvision" else real_requires(name),
    )
    code, out, _ = run("doctor", "--json")
    assert code == 2
    found = next(item for item in document(out)["findings"] if item["name"] == "torchvision")
    assert found["state"] == "error"
    assert found["what"] == (
        f"torchvision 0.1.0 wants torch 1.2.3, this is {torch.__version__}; transformers then refuses text models too"
    )
    assert found["do"].startswith("pip uninstall torchvision")


def test_doctor_refuses_a_transformers_too_old_to_be_safe(monkeypatch):
    from tunesmith import doctor

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.2.9" if name == "transformers" else real(name))
    found = [item for item in doctor.examine() if item.name == "transformers"]
    assert [(item.state, item.do) for item in found] == [("error", "pip install 'transformers>=5.3'")]


# real processes


def process(*arguments: object, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tunesmith", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)


def test_a_process_leaves_with_the_code_and_words_on_stderr(tmp_path):
    done = process("inspect", "gone.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("DataProblem: file 'gone.csv' does not exist\n  where: .\n  do:    check the path")
    done = process("inspect", tmp_path / "x.csv", "--json")
    assert document(done.stdout)["error"]["type"] == "DataProblem"


def test_a_process_survives_a_narrow_encoding(toy_run):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = process("predict", toy_run.path, "a1 a2 a3", "中文", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("  animal  0.9")
    assert done.stdout.splitlines()[2] == "??"


def test_every_error_of_the_family_leaves_with_2_3_or_4():
    waiting, codes = [TunesmithError], set()
    while waiting:
        kind = waiting.pop()
        codes.add(kind.exit_code)
        waiting += kind.__subclasses__()
        if kind is not TunesmithError:
            other = [base for base in kind.__mro__ if base.__module__ == "builtins" and base not in (Exception, object)]
            assert set(other) - {BaseException}, f"{kind.__name__} is also the built-in it specialises"
    assert codes == {2, 3, 4}


def test_profile_shows_where_the_time_went(run, toy_data, toy_base, tmp_path):
    flags = ["--valid", toy_data["valid"], "--test", toy_data["test"], "--model", toy_base, "--epochs", 1]
    code, out, err = run("train", toy_data["train"], *flags, "--out", tmp_path / "run", "--profile")
    assert code == 0
    shown = out + err
    for stage in ("forward", "backward", "update", "evaluation", "measuring", "naive baselines"):
        assert stage in shown, stage
    assert "tokens/s in training" in shown
    assert "of this machine's matrix peak" in shown


def test_a_budget_is_kept_and_told(run, toy_data, toy_base, tmp_path):
    flags = ["--valid", toy_data["valid"], "--test", toy_data["test"], "--model", toy_base, "--epochs", 1]
    code, out, err = run("train", toy_data["train"], *flags, "--out", tmp_path / "run", "--budget", "1s")
    assert code == 0
    assert "the top block: kept" in out + err
    assert "What was tried in the time" in (tmp_path / "run" / "report.html").read_text()

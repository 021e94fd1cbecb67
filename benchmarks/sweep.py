"""What does a search over settings cost? `tunesmith sweep` with its trials against as many runs of HF Trainer.

    python benchmarks/sweep.py --data FOLDER --sets sst2_en --rounds 1 --set trials=20 method=top-layers

The Trainer's runs are those of a search by hand in one process: rate and batch size drawn at random from usual ranges,
grouped by length, the best by validation answers the test rows. `--set peer_runs=5` trains only
five of them and multiplies their seconds; the table then says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import Contestant, Figure, Run, arguments, contest, environment, figure, keep, measured_process, of
from training_speed import job_of

OURS, TRAINER = "tunesmith sweep", "HF Trainer, one run a trial"


def sweep(job: dict[str, Any], place: Path, options: dict[str, str], number: int) -> Run:
    """Run the command; the CPU seconds are those of the whole process, imports and the finished run included."""
    out = place / f"sweep-{number}"
    command = [sys.executable, "-m", "tunesmith", "sweep", job["train"], "--valid", job["valid"], "--test", job["test"]]
    command += ["--text", "text", "--label", "label", "--model", job["model"], "--seed", str(number), "--out", str(out)]
    command += ["--trials", options.get("trials", "20"), "--json", "--set", f"threads={job['threads']}"]
    command += ["--max-length", str(job["max_length"])]
    if method := options.get("method", "full"):
        command += ["--method", method]
    if "epochs" in options:
        command += ["--epochs", options["epochs"]]
    log = place / f"sweep-{number}.log"
    status, cpu, wall, memory = measured_process(command, threads=int(job["threads"]), log=log)
    if status != 0:
        reason = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-300:]
        return Run(OURS, number, {}, cpu, wall, memory, not_run=reason, case=job["set"])
    score = test_score(out / "best", job["test"], environment(int(job["threads"])))
    return Run(OURS, number, {"all_cpu_seconds": cpu, "test": score}, cpu, wall, memory, case=job["set"])


def test_score(run: Path, test: str, variables: dict[str, str]) -> float:
    """Ask `tunesmith evaluate` for the score of a finished run."""
    command = [sys.executable, "-m", "tunesmith", "evaluate", str(run), test, "--json"]
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    scores = json.loads(done.stdout)["scores"]
    return float(scores["values"][scores["main"]])


def main() -> None:
    options = arguments(__doc__, rounds=1)
    trials = int(options.set.get("trials", 20))
    peer_runs = int(options.set.get("peer_runs", trials))
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            job = job_of(options, name, Path(folder)) | {"epochs": float(options.set.get("epochs", 3))}
            peer = Contestant(TRAINER, "trainer_search", {"runs": peer_runs, "trials": trials})
            for number in range(options.rounds):
                runs.append(sweep(job, Path(folder), options.set, number))
                runs += [
                    Run(**{**vars(run), "round": number})
                    for run in contest([peer], {**job, "seed": number}, rounds=1, case=name)
                ]
            figures += figures_of(runs, name, f"{peer_runs} runs measured" if peer_runs < trials else "")
    keep("sweep", options, runs, figures)


def figures_of(runs: list[Run], case: str, remark: str) -> list[Figure]:
    """Give CPU seconds and test scores of both, and the share of the Trainer's seconds."""
    found: list[Figure] = []
    for name in (OURS, TRAINER):
        mine = of(runs, name, case).values()
        told = f"{name} ({remark}, multiplied)" if remark and name == TRAINER else name
        found += figure(told, [run.value("all_cpu_seconds") for run in mine], unit="CPU s", case=case)
        found += figure(f"{name}: test score", [100 * run.value("test") for run in mine], unit="%", case=case)
    ours, theirs = of(runs, OURS, case), of(runs, TRAINER, case)
    shares = [
        ours[number].value("all_cpu_seconds") / theirs[number].value("all_cpu_seconds")
        for number in ours.keys() & theirs.keys()
    ]
    return found + figure(f"{OURS} / {TRAINER}", shares, unit="of the CPU s", goal="0.1", case=case)


if __name__ == "__main__":
    main()

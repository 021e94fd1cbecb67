"""How long until a cold command has saved a model that is of use, and how good is it?

    python benchmarks/first_model.py --data FOLDER --sets sst2_en --rows 2000 --rounds 3 --set budget=60s

The command is `tunesmith train FILE --budget ...`, started like a person would. The run folder is looked at twenty
times a second: whenever `manifest.json` is new the bundle is whole, and is copied with the seconds since the start.
Afterwards each copy answers the test rows. A model is of use from 85% of the last one's score on.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from contest import Contestant, Figure, Run, arguments, contest, environment, figure, keep, of
from training_speed import GROUPED, job_of

OURS = "tunesmith train --budget"
_LOOK_SECONDS = 0.05
_SHARE = 0.85


@dataclasses.dataclass(frozen=True)
class Saved:
    """A whole bundle as it lay in the run folder at some time."""

    folder: Path
    wall_seconds: float
    cpu_seconds: float


def train(job: dict[str, Any], budget: str, place: Path, seed: int) -> tuple[list[Saved], Run]:
    """Run the command; give every bundle that it left on its way, and what the whole of it took."""
    out = place / f"run-{seed}"
    command = [sys.executable, "-m", "tunesmith", "train", job["train"], "--valid", job["valid"], "--test", job["test"]]
    command += ["--text", "text", "--label", "label", "--model", job["model"], "--seed", str(seed), "--out", str(out)]
    command += ["--set", f"threads={job['threads']}", "--budget", budget, "--json"]
    saved: list[Saved] = []
    start, stamp, cpu = time.perf_counter(), 0, 0.0
    with (place / f"log-{seed}").open("w+", encoding="utf-8") as log:
        child = subprocess.Popen(command, env=environment(job["threads"]), stdout=subprocess.DEVNULL, stderr=log)
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                cpu = sum(process.cpu_times()[:2])
            except psutil.Error:
                break
            stamp = _look(out, stamp, saved, time.perf_counter() - start, cpu)
            time.sleep(_LOOK_SECONDS)
        status = child.wait()
        _look(out, stamp, saved, time.perf_counter() - start, cpu)
        log.seek(0)
        reason = "" if status == 0 else " ".join(log.read().split())[-300:]
    return saved, Run(OURS, seed, {}, cpu, time.perf_counter() - start, 0.0, not_run=reason, case=job["set"])


def _look(out: Path, stamp: int, saved: list[Saved], wall: float, cpu: float) -> int:
    """Copy the bundle if its manifest is new; a copy that was caught in a change fails its hashes later."""
    try:
        now = (out / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:
        return stamp
    if now != stamp:
        copy = out.with_name(f"{out.name}-saved-{len(saved)}")
        try:
            shutil.copytree(out, copy, ignore=shutil.ignore_patterns("checkpoints"))
        except shutil.Error:  # files came and went meanwhile: the next look takes it
            shutil.rmtree(copy, ignore_errors=True)
            return stamp
        saved.append(Saved(copy, wall, cpu))
    return now


def scores_of(saved: list[Saved], test: str) -> list[tuple[Saved, float]]:
    """Give each copy that is whole with its test score; the others are told."""
    import tunesmith

    scored = []
    for each in saved:
        try:
            scored.append((each, tunesmith.evaluate(each.folder, test).scores.value))
        except tunesmith.TunesmithError as error:
            print(f"the copy after {each.wall_seconds:.1f} s was caught in a change: {error}", file=sys.stderr)
    return scored


def main() -> None:
    options = arguments(__doc__, rounds=3)
    budget = options.set.get("budget", "60s")
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as place:
        for name in options.sets:
            job = job_of(options, name, Path(place)) | {"epochs": float(options.set.get("epochs", 1))}
            for number in range(options.rounds):
                saved, run = train(job, budget, Path(place), number)
                scored = [] if run.not_run else scores_of(saved, job["test"])
                runs.append(run if run.not_run else _with_scores(run, scored))
                peer = Contestant(GROUPED, "trainer", {"sampling": "group_by_length"})
                if "trainer" not in options.set.get("without", ""):
                    runs += [
                        dataclasses.replace(each, round=number) for each in contest([peer], job, rounds=1, case=name)
                    ]
    keep("first_model", options, runs, figures_of(runs, options.sets))


def _with_scores(run: Run, scored: list[tuple[Saved, float]]) -> Run:
    last = scored[-1][1] if scored else float("nan")
    useful = next((saved for saved, score in scored if score >= _SHARE * last), None)
    if useful is None:
        return dataclasses.replace(run, not_run="the command left no whole bundle")
    values = {
        "first_wall_seconds": useful.wall_seconds,
        "first_cpu_seconds": useful.cpu_seconds,
        "last_score": last,
        "bundles": [(saved.wall_seconds, saved.cpu_seconds, score) for saved, score in scored],
    }
    return dataclasses.replace(run, values=values)


def figures_of(runs: list[Run], sets: list[str]) -> list[Figure]:
    """Give the seconds to the first useful bundle, and those of a whole training with the Trainer."""
    found: list[Figure] = []
    for case in sets:
        ours, peers = of(runs, OURS, case).values(), of(runs, GROUPED, case).values()
        first = [run.value("first_wall_seconds") for run in ours]
        found += figure("first useful bundle, from a cold command", first, unit="s wall", goal="15", case=case)
        found += figure("the same", [run.value("first_cpu_seconds") for run in ours], unit="CPU s", case=case)
        scores = [100 * run.value("last_score") for run in ours]
        found += figure("score at the end of the budget", scores, unit="points", case=case)
        whole = [run.wall_seconds for run in peers]
        found += figure(f"{GROUPED}, one epoch, from a cold process", whole, unit="s wall", case=case)
        found += figure("its score", [100 * run.value("test") for run in peers], unit="points", case=case)
    return found


if __name__ == "__main__":
    main()

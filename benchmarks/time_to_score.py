"""How many CPU seconds until validation reaches 98% of what HF Trainer ends with at its best setting?

    python benchmarks/time_to_score.py --data FOLDER --sets sst2_en banking77_en --rounds 3
    python benchmarks/time_to_score.py --data FOLDER --sets chnsenticorp_zh --model FOLDER_OF_A_CHINESE_MODEL

The Trainer's best setting is looked for first, over the rates of `--set rates=5e-5,1e-4,2e-4`, grouped by length, by
the best validation score of a whole training. The target is 98% of that score. The clock of the Trainer stands still
while it evaluates; Tunesmith's never does. Two clocks are told: from the start of the process (imports, reading,
tokenising, the naive baselines and the model before are in it) and from the start of training.
`--set budget=120s` is what the anytime run is given.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from contest import Contestant, Figure, Run, arguments, chosen, contest, figure, keep, of
from training_speed import GROUPED, block_count, job_of

ANYTIME, FULL, TOP = "tunesmith --budget", "tunesmith full", "tunesmith, 2 lowest blocks frozen"
_SHARE = 0.98


def tunesmiths(blocks: int, budget: str, evaluate_steps: int) -> list[Contestant]:
    """Give the ways in which Tunesmith gets to a score."""
    steady = {"eval_steps": evaluate_steps, "patience": 10_000}
    recipes: dict[str, dict[str, Any]] = {
        ANYTIME: {"budget": budget},
        FULL: {**steady, "method": "full"},
        TOP: {**steady, "method": "top-layers", "top_layers": blocks - 2},
    }
    free = {"epochs": None, "batch_size": None, "learning_rate": None}  # an anytime run decides them itself
    return [
        Contestant(name, "tunesmith_train", {"recipe": recipe, **(free if name == ANYTIME else {})})
        for name, recipe in recipes.items()
    ]


def best_rate(job: dict[str, Any], rates: list[float], evaluate_steps: int) -> tuple[float, float, list[Run]]:
    """Give the Trainer's best rate, its best validation score, and the runs that tell."""
    setting = {"sampling": "group_by_length", "evaluate_steps": evaluate_steps}
    tried = [Contestant(f"{GROUPED}, rate {rate:g}", "trainer", {**setting, "learning_rate": rate}) for rate in rates]
    runs = contest(tried, job, rounds=1, case=f"{job['set']}: search")
    scores = {run.contestant: max(score for _, score in run.values["curve"]) for run in runs if not run.not_run}
    best = max(tried, key=lambda each: scores.get(each.name, -1.0))
    return float(best.options["learning_rate"]), scores[best.name], runs


def seconds_until(run: Run, target: float) -> tuple[float, float] | None:
    """Give CPU seconds to the target from the start of the process, and of training; None where it is never reached."""
    reached = next((cpu for cpu, score in run.values["curve"] if score >= target), None)
    return None if reached is None else (reached, reached - float(run.values["began_cpu_seconds"]))


def figures_of(runs: list[Run], ours: list[str], target: float, case: str) -> list[Figure]:
    """Give the seconds of each and the shares of the Trainer's seconds that ours need."""
    taken = {
        name: {number: seconds_until(run, target) for number, run in of(runs, name, case).items()}
        for name in (GROUPED, *ours)
    }
    found: list[Figure] = []
    for place, clock in enumerate(("process", "training")):
        for name, rounds in taken.items():
            missed = sum(value is None for value in rounds.values())
            told = f", missed in {missed} of {len(rounds)} rounds" if missed else ""
            seconds = [value[place] for value in rounds.values() if value is not None]
            found += figure(f"{name}: {clock}{told}", seconds, unit="CPU s", case=case)
        for name in ours:
            shares = []
            for number in taken[name].keys() & taken[GROUPED].keys():
                our, their = taken[name][number], taken[GROUPED][number]
                if our is not None and their is not None:
                    shares.append(our[place] / their[place])
            goal = "0.2" if name == ANYTIME else ""
            found += figure(f"{name} / {GROUPED}: {clock}", shares, unit="of the CPU s", goal=goal, case=case)
    return found


def main() -> None:
    options = arguments(__doc__, rounds=3, sets=("sst2_en", "banking77_en"))
    rates = [float(rate) for rate in options.set.get("rates", "5e-5,1e-4,2e-4").split(",")]
    budget = options.set.get("budget", "120s")
    runs: list[Run] = []
    figures: list[Figure] = []
    targets: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in options.sets:
            job = job_of(options, name, Path(place)) | {"epochs": float(options.set.get("epochs", 3))}
            looks = int(options.set.get("looks", 6))  # a training of the Trainer is looked at this often in an epoch
            evaluate_steps = max(1, -(-options.rows // job["batch_size"]) // looks)
            rate, score, searched = best_rate(job, rates, evaluate_steps)
            targets[name] = _SHARE * score
            setting = {"sampling": "group_by_length", "evaluate_steps": evaluate_steps, "learning_rate": rate}
            ours = tunesmiths(block_count(job["model_folder"]), budget, evaluate_steps)
            contestants = [Contestant(GROUPED, "trainer", setting), *chosen(ours, options.only)]
            runs += [dataclasses.replace(run, case=f"{name}: search") for run in searched]
            runs += contest(
                contestants, job, rounds=options.rounds, case=name, each_round=lambda number: {"seed": number}
            )
            figures += figures_of(runs, [each.name for each in contestants[1:]], targets[name], name)
    keep("time_to_score", options, runs, figures, targets=targets)


if __name__ == "__main__":
    main()

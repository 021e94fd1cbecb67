"""A search by hand with HF Trainer: every trial is a whole training; the best by validation answers the test rows.

What counts are imports, training and one look at the validation rows for each trial. Tokenising, loading the model and
answering the test rows do not: they could be had cheaper than they are here.
"""

from __future__ import annotations

import random
from typing import Any

import entry
import trainer


def search(job: dict[str, Any]) -> dict[str, Any]:
    """Train `runs` times with drawn rates and batch sizes; the seconds are scaled up to `trials` runs."""
    generator = random.Random(int(job["seed"]))
    imports = 0.0
    tried, seconds = [], []
    for _ in range(int(job["runs"])):
        drawn = {"learning_rate": 10 ** generator.uniform(-5, -3.3), "batch_size": generator.choice([16, 32])}
        found = trainer.train({**job, **drawn, "sampling": "group_by_length", "evaluate_steps": 10**9})
        seconds.append(found["timed_cpu_seconds"] + found["looking_cpu_seconds"])
        imports = imports or found["import_cpu_seconds"]  # of the first run: later ones find all loaded
        tried.append({**drawn, "valid": max(score for _, score in found["curve"]), "test": found["test"]})
    best = max(tried, key=lambda each: each["valid"])
    return {
        "all_cpu_seconds": imports + sum(seconds) / len(tried) * int(job["trials"]),
        "runs": len(tried),
        "test": best["test"],
        "tried": tried,
    }


if __name__ == "__main__":
    entry.run(search)

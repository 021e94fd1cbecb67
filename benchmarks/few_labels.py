"""With few labels: which is more accurate, and what does it cost? SetFit, HF Trainer and Tunesmith, over draws of rows.

    python benchmarks/few_labels.py --data FOLDER --sets banking77_en sst2_en --rounds 5 --set shots=8,16

A round draws other rows: `shots` of each label, from the training rows. SetFit has an environment of its own where it
cannot share one: `--set setfit_python=/path/to/python`. It learns one epoch over the pairs that its sampler makes with
`num_iterations` (20, as in its paper), batch 16. CPU seconds are those of training; Tunesmith's hold its evaluations
and the fitting of a head.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from contest import Contestant, Figure, Run, arguments, chosen, contest, figure, keep, of, ratio
from rows import count_tokens, read
from training_speed import job_of

SETFIT, TRAINER, FULL, CONTRASTIVE, PROBE = (
    "SetFit",
    "HF Trainer",
    "tunesmith full",
    "tunesmith contrastive",
    "tunesmith probe",
)


def field(setfit_python: str, iterations: int) -> list[Contestant]:
    """Give all who compete."""
    return [
        Contestant(SETFIT, "setfit_train", {"num_iterations": iterations}, python=setfit_python),
        Contestant(TRAINER, "trainer", {"sampling": "group_by_length"}),
        *(
            Contestant(
                name, "tunesmith_train", {"recipe": recipe, "epochs": None, "batch_size": None, "learning_rate": None}
            )
            for name, recipe in (
                (CONTRASTIVE, {"method": "contrastive"}),
                (FULL, {"method": "full"}),
                (PROBE, {"method": "top-layers", "top_layers": 0}),
            )
        ),
    ]


def draw(path: str, out: Path, shots: int, seed: int) -> tuple[str, int]:
    """Write `shots` rows of each label, and give the file and its rows."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for text, label in read(path):
        by_label[label].append(text)
    generator = random.Random(seed)
    rows = [
        (text, label)
        for label in sorted(by_label)
        for text in generator.sample(by_label[label], min(shots, len(by_label[label])))
    ]
    generator.shuffle(rows)
    place = out / f"few-{shots}-{seed}.csv"
    with place.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(place), len(rows)


def figures_of(runs: list[Run], case: str) -> list[Figure]:
    """Give scores and CPU seconds of each, and the shares of SetFit's seconds."""
    found: list[Figure] = []
    names = (SETFIT, TRAINER, CONTRASTIVE, FULL, PROBE)
    for name in names:
        mine = of(runs, name, case).values()
        found += figure(f"{name}: accuracy", [100 * run.value("test") for run in mine], unit="%", case=case)
        found += figure(f"{name}: training", [cost(run) for run in mine], unit="CPU s", case=case)
    for name in names[1:]:
        goal = "0.2" if name == CONTRASTIVE else ""
        mine, theirs = of(runs, name, case), of(runs, SETFIT, case)
        shares = [cost(mine[number]) / cost(theirs[number]) for number in mine.keys() & theirs.keys()]
        found += figure(f"{name} / {SETFIT}", shares, unit="of the CPU s", goal=goal, case=case)
    found += ratio(runs, CONTRASTIVE, SETFIT, value="test", case=case, name=f"accuracy: {CONTRASTIVE} / {SETFIT}")
    return found


def cost(run: Run) -> float:
    """Give the CPU seconds of training: Tunesmith's evaluations and the fitting of its head are part of that."""
    parts: dict[str, Any] = run.values.get("cpu_by_kind", {})
    if not parts:
        return run.value("timed_cpu_seconds")
    return float(sum(parts[name] for name in ("step", "evaluation", "checkpoint")))


def main() -> None:
    options = arguments(__doc__, rounds=5, sets=("banking77_en",), rows=100_000)
    python, iterations = options.set.get("setfit_python", sys.executable), int(options.set.get("num_iterations", 20))
    contestants = chosen(field(python, iterations), options.only)
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in options.sets:
            whole = job_of(options, name, place) | {"epochs": float(options.set.get("epochs", 20)), "batch_size": 16}
            for shots in map(int, options.set.get("shots", "8,16").split(",")):
                case = f"{name}, {shots} of each"

                def each(number: int, whole: dict[str, Any] = whole, shots: int = shots) -> dict[str, Any]:
                    train, _ = draw(whole["train"], place, shots, number)
                    few, _ = draw(whole["valid"], place / "valid", max(2, shots // 4), number)
                    tokens = count_tokens(train, whole["model_folder"], whole["max_length"])
                    return {"train": train, "valid": few, "tokens_per_epoch": tokens, "seed": number}

                (place / "valid").mkdir(exist_ok=True)
                runs += contest(contestants, whole, rounds=options.rounds, case=case, each_round=each)
                figures += figures_of(runs, case)
    keep("few_labels", options, runs, figures)


if __name__ == "__main__":
    main()

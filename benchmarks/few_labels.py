"""With few labels: which is more accurate, and what does it cost? Method contrastive and what people would use instead.

    python benchmarks/few_labels.py --data FOLDER --sets banking77_en clinc150_en --rounds 5 --set shots=8,16

A round draws `shots` rows of each label, and that is all that anybody has: who needs validation rows (Tunesmith) takes
them out of these. SetFit has an environment of its own where it cannot share one: `--set setfit_python=PYTHON`; it
learns as its paper did, one epoch over `num_iterations` (20) times two pairs for each row, batch 16, from the same base
model. The test rows are the data's own. Training seconds are CPU seconds of the training alone (Tunesmith's with
its evaluations, and with the fitting of its head); those of the whole process hold imports, baselines, answering the
test rows and the report.
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
from rows import cut, read
from training_speed import model_folder

OURS, SETFIT, FULL, PROBE, TFIDF = "tunesmith contrastive", "SetFit", "tunesmith full", "tunesmith probe", "TF-IDF"
_LONGEST = 64  # tokens of a row
_EVERY_ROW = 1_000_000


def field(setfit_python: str, iterations: int) -> list[Contestant]:
    """Give all who compete, ours first."""
    return [
        Contestant(OURS, "tunesmith_train", {"recipe": {"method": "contrastive"}}),
        Contestant(SETFIT, "setfit_train", {"num_iterations": iterations}, python=setfit_python),
        Contestant(FULL, "tunesmith_train", {"recipe": {"method": "full"}}),
        Contestant(PROBE, "tunesmith_train", {"recipe": {"method": "top-layers", "top_layers": 0}}),
        Contestant(TFIDF, "tfidf_train"),
    ]


def draw(path: str, out: Path, shots: int, seed: int) -> str:
    """Write `shots` rows of each label, and give the file."""
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
    return str(place)


def figures_of(runs: list[Run], case: str) -> list[Figure]:
    """Give accuracy and CPU seconds of each, and ours beside SetFit's round by round."""
    found: list[Figure] = []
    for name in dict.fromkeys(run.contestant for run in runs if run.case == case):
        mine = of(runs, name, case).values()
        found += figure(f"{name}: accuracy", [100 * run.value("test") for run in mine], unit="%", case=case)
        found += figure(f"{name}: training", [cost(run) for run in mine], unit="CPU s", case=case)
        found += figure(f"{name}: whole process", [run.cpu_seconds for run in mine], unit="CPU s", case=case)
    ours, theirs = of(runs, OURS, case), of(runs, SETFIT, case)
    both = sorted(ours.keys() & theirs.keys())
    shares = [cost(ours[number]) / cost(theirs[number]) for number in both]
    found += figure(f"{OURS} / {SETFIT}: training", shares, unit="of the CPU s", goal="0.2", case=case)
    points = [100 * (ours[number].value("test") - theirs[number].value("test")) for number in both]
    found += figure(f"{OURS} - {SETFIT}: accuracy", points, unit="points", goal="0", case=case)
    name = f"{OURS} / {SETFIT}: whole process"
    return found + ratio(runs, OURS, SETFIT, value="cpu_seconds", case=case, name=name, unit="of the CPU s")


def cost(run: Run) -> float:
    """Give the CPU seconds of training: Tunesmith's evaluations and the fitting of its head are part of that."""
    parts: dict[str, Any] = run.values.get("cpu_by_kind", {})
    if not parts:
        return run.value("timed_cpu_seconds")
    return float(sum(parts[name] for name in ("step", "evaluation", "checkpoint")))


def main() -> None:
    options = arguments(__doc__, rounds=5, sets=("banking77_en",), rows=_EVERY_ROW)
    python, iterations = options.set.get("setfit_python", sys.executable), int(options.set.get("num_iterations", 20))
    contestants = chosen(field(python, iterations), options.only)
    runs: list[Run] = []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in options.sets:
            slice_ = cut(options.data, name, place, rows=options.rows, test_rows=options.test_rows)
            about = {"model": options.model, "model_folder": model_folder(options.model), "max_length": _LONGEST}
            whole = {**slice_.job(), **about, "threads": options.threads, "valid": "", "tokens_per_epoch": 0}
            for shots in map(int, options.set.get("shots", "8,16").split(",")):

                def each(number: int, whole: dict[str, Any] = whole, shots: int = shots) -> dict[str, Any]:
                    return {"train": draw(whole["train"], place, shots, number), "seed": number}

                case = f"{name}, {shots} of each"
                runs += contest(contestants, whole, rounds=options.rounds, case=case, each_round=each)
                figures += figures_of(runs, case)
    keep("few_labels", options, runs, figures)


if __name__ == "__main__":
    main()

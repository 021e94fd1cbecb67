"""Train on a slice of a labelled data set and print the table of what adaptation gained, as Markdown.

    python benchmarks/gain.py DATASET_FOLDER [DATASET_FOLDER ...] --rows 2000 --out benchmarks/out

A data set folder holds train.csv and test.csv (or .csv.gz), optionally dev.csv. The slice is the first rows of a seeded
shuffle of the training file; the whole test file is scored (at most --test-rows of it).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import random
import subprocess
import sys
import time
from pathlib import Path


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def part(folder: Path, name: str) -> Path:
    return next(path for path in (folder / f"{name}.csv", folder / f"{name}.csv.gz") if path.is_file())


def slice_to(path: Path, source: Path, rows: int, seed: int) -> None:
    header, content = read(source)
    random.Random(seed).shuffle(content)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *content[:rows]])


def run(folder: Path, options: argparse.Namespace, extra: list[str]) -> dict[str, object]:
    place = options.out / folder.name
    place.mkdir(parents=True, exist_ok=True)
    slice_to(place / "train.csv", part(folder, "train"), options.rows, options.seed)
    slice_to(place / "test.csv", part(folder, "test"), options.test_rows, options.seed)
    number = 1
    while (place / f"run-{number}").exists():
        number += 1
    command = [sys.executable, "-m", "tunesmith", "train", str(place / "train.csv"), "--test", str(place / "test.csv")]
    command += ["--text", "text", "--label", "label", "--out", str(place / f"run-{number}"), "--json", *extra]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    result["wall_seconds"] = time.perf_counter() - start
    return result


def table_row(name: str, result: dict) -> str:
    gain = result["gain"]
    scores = {**gain["baselines"], "before": gain["before"], "after": gain["after"]}
    cells = [
        f"{100 * row['values'][row['main']]:.1f} ({100 * row['intervals'][row['main']][0]:.1f} to "
        f"{100 * row['intervals'][row['main']][1]:.1f})"
        for row in scores.values()
    ]
    plan = result["plan"]
    return (
        f"| {name} | {len(plan['labels'])} | {' | '.join(cells)} | {gain['after']['seconds']:.0f} s | "
        f"{result['wall_seconds']:.0f} s (plan said at most {plan['expected_seconds']:.0f} s) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    options, extra = parser.parse_known_args()
    print("| data | labels | majority | TF-IDF + LR | zero-shot | adapted | training and answering | all |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in options.folders:
        result = run(folder, options, extra)
        print(table_row(folder.name, result), flush=True)
        print(f"{folder.name}: {result['gain']['verdict']}", file=sys.stderr)


if __name__ == "__main__":
    main()

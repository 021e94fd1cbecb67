"""Show that memory does not grow with the file, and time no faster than it: train on ever more generated rows.

    python benchmarks/memory.py [--rows 10000 100000 1000000] [--steps 50] [--threads 1] [--json FILE]

Rows are sentences of made-up topics, about 25 tokens each, written to a temporary folder that is removed afterwards.
Each size is trained in a process of its own: a linear probe (`top_layers=0`) for a fixed number of steps, so that what
grows is everything but training. The peak of a stage is the process's resident memory in that stage alone.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOPICS = 4
COMMON, OWN = 6000, 400  # words that every topic uses, and words of each topic


def words(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    syllables = [first + last for first in "bdfgklmnprstvz" for last in "aeiou"]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(syllables, k=generator.choice((1, 2, 2, 3))))] = None
    return list(found)


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write sentences whose words follow Zipf's law; three or so of each belong to its topic."""
    generator = random.Random(seed)
    known = words(COMMON + TOPICS * OWN, seed=1)
    common, rest = known[:COMMON], known[COMMON:]
    totals = list(itertools.accumulate(1 / (rank + 3) for rank in range(COMMON)))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            topic = generator.randrange(TOPICS)
            found = generator.choices(common, cum_weights=totals, k=generator.randint(5, 10))
            found += generator.choices(rest[topic * OWN : (topic + 1) * OWN], k=generator.randint(1, 3))
            generator.shuffle(found)
            writer.writerow([" ".join(found), f"topic {topic}"])


class Meter:
    """Time, CPU time and peak memory of one stage after the other."""

    def __init__(self) -> None:
        self.stages: list[dict[str, object]] = []
        self._name = "starting"
        self._reset()

    def enter(self, name: str) -> None:
        self.stages.append(
            {
                "stage": self._name,
                "seconds": time.perf_counter() - self._wall,
                "cpu_seconds": time.process_time() - self._cpu,
                "peak_mib": _resident_kib("VmHWM") / 1024,
                "after_mib": _resident_kib("VmRSS") / 1024,
            }
        )
        self._name = name
        self._reset()

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak starts again from what is held now
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def _resident_kib(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry + ":"))


def measure(data: str, out: str, steps: int, threads: int) -> None:
    """Be the process that trains: print one JSON line with its stages."""
    meter = Meter()
    meter.enter("importing")
    from tunesmith.training import prepare as training
    from tunesmith.training.recipe import make_recipe

    values = {"data": data, "out": out, "method": "top-layers", "top_layers": 0, "max_steps": steps, "threads": threads}
    meter.enter("reading, checking, splitting")
    take_in = training.take_in

    def taken(recipe: object) -> object:
        found = take_in(recipe)
        meter.enter("encoding, planning")
        return found

    training.take_in = taken
    job = training.prepare(make_recipe(values))
    for event in job.run():
        if event.kind == "stage":
            meter.enter(event.text)
        elif event.kind == "end":
            meter.enter("saving")
    meter.enter("")
    gain = job.bundle.gain
    facts = {"verdict": gain.verdict, "rows": {part: job.plan.data[part] for part in ("train", "valid", "test")}}
    print(json.dumps({"stages": meter.stages, **facts}))


def run(rows: int, steps: int, threads: int) -> dict:
    with tempfile.TemporaryDirectory(prefix="tunesmith-memory-") as folder:
        data = Path(folder) / "rows.csv"
        write_rows(data, rows)
        command = [sys.executable, __file__, "--measure", str(data), "--steps", str(steps), "--threads", str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TMPDIR": folder}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        result = json.loads(done.stdout.splitlines()[-1])
        result["file_mib"] = data.stat().st_size / 2**20
    return result


def table(results: dict[int, dict]) -> str:
    names = [stage["stage"] for stage in next(iter(results.values()))["stages"]]
    lines = ["| stage | " + " | ".join(f"{rows:,} rows: MiB | CPU s" for rows in results) + " |"]
    lines.append("|---|" + "---|---|" * len(results))
    for place, name in enumerate(names):
        cells = [result["stages"][place] for result in results.values()]
        lines.append(
            f"| {name} | " + " | ".join(f"{cell['peak_mib']:.0f} | {cell['cpu_seconds']:.1f}" for cell in cells) + " |"
        )
    peaks = [max(stage["peak_mib"] for stage in result["stages"]) for result in results.values()]
    totals = [sum(stage["cpu_seconds"] for stage in result["stages"]) for result in results.values()]
    lines.append(
        "| **peak, total** | "
        + " | ".join(f"**{p:.0f}** | **{t:.1f}**" for p, t in zip(peaks, totals, strict=True))
        + " |"
    )
    if len(peaks) > 1:
        lines.append(
            f"\npeak with {list(results)[-1]:,} rows over peak with {next(iter(results)):,}: {peaks[-1] / peaks[0]:.3f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.measure + ".run", options.steps, options.threads)
        return
    results = {}
    for rows in options.rows:
        results[rows] = run(rows, options.steps, options.threads)
        print(f"{rows:,} rows done: {results[rows]['verdict']}", file=sys.stderr, flush=True)
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

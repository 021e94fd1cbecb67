"""Run all benchmarks one after the other and write their figures into docs/performance.md: what `make bench` does.

    python benchmarks/run.py --data FOLDER [--only training_speed answering] [--chinese MODEL_FOLDER]
        [--setfit PYTHON] [--tiny]

FOLDER holds the data sets by name, at its top or one level deeper. A benchmark that fails is told at the end, and the
others go on. `--tiny` takes a few rows and one round: to see that everything runs, not to measure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from contest import HERE

_LONG = ("ag_news_en", "chnsenticorp_zh", "cluener_zh")


def plan(chinese: str, setfit: str) -> dict[str, list[list[str]]]:
    """Give the arguments of each benchmark; several lists where it is run for several models."""
    setfit_set = ["--set", f"setfit_python={setfit}"] if setfit else []
    time_zh = [["--sets", "chnsenticorp_zh", "--model", chinese, "--name", "time_to_score_zh"]] if chinese else []
    return {
        "training_speed": [["--sets", "sst2_en"], ["--sets", *_LONG, "--name", "training_speed_long"]],
        "accuracy": [["--sets", "sst2_en", "banking77_en"]],
        "time_to_score": [["--sets", "sst2_en", "banking77_en"], *time_zh],
        "first_model": [[]],
        "sweep": [[]],
        "answering": [["--set", "method=full", "epochs=3"]],
        "cold_start": [[]],
        "pretraining_speed": [[]],
        "few_labels": [["--sets", "banking77_en", *setfit_set]],
        "memory": [[]],
    }


_ROUND = ("--rounds", "1")
_FEW = ("--rows", "64", *_ROUND)
_TINY: dict[str, tuple[str, ...]] = {
    "training_speed": _FEW,
    "accuracy": _FEW,
    "time_to_score": _FEW,
    "first_model": _FEW,
    "sweep": _FEW,
    "answering": ("--test-rows", "64", *_FEW),
    "cold_start": _FEW,
    "pretraining_speed": _ROUND,
    "few_labels": ("--test-rows", "64", *_ROUND),
    "memory": ("--rows", "500", "1000", "--steps", "5"),
}


def places(name: str, data: Path, out: Path) -> list[str]:
    """Give the arguments that say where rows come from and where results go; memory makes its own rows."""
    if name == "memory":
        out.mkdir(parents=True, exist_ok=True)
        return ["--json", str(out / "memory.json")]
    return ["--data", str(data), "--out", str(out)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="benchmarks to run, by name")
    parser.add_argument("--chinese", default="", help="folder of a Chinese base model, for time_to_score")
    parser.add_argument("--setfit", default="", help="python of an environment that has SetFit")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    benchmarks = plan(options.chinese, options.setfit)
    if unknown := set(options.only) - set(benchmarks):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(benchmarks)}")
    failed = []
    for name in options.only or benchmarks:
        for arguments in benchmarks[name]:
            shared = ["--threads", str(options.threads), *places(name, options.data, options.out)]
            less = _TINY[name] if options.tiny else ()
            start = time.perf_counter()
            print(f"== {name} {' '.join(arguments)}", flush=True)
            command = [sys.executable, str(HERE / f"{name}.py"), *shared, *arguments, *less]
            if subprocess.run(command, check=False).returncode != 0:
                failed.append(name)
            print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    document = [] if options.tiny else [sys.executable, str(HERE / "report.py"), "--results", str(options.out)]
    if document:
        subprocess.run(document, check=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

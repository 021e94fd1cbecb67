"""Run contestants side by side: each in a process of its own, interleaved, several times over; keep every number.

A contestant is a script of `contestants/`. It is given one JSON file that says what to do and writes another that says
what it took. Rounds are interleaved (one run of each, then the next round) and every other round goes backwards, so
that a machine that slows down slows all of them. Ratios are taken inside a round, and given as median, least and most.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NOT_RUN = 3  # exit status of a contestant whose package or feature is missing; its last line says which
_PACKAGES = ("tunesmith", "torch", "transformers", "tokenizers", "onnxruntime", "sentence-transformers", "setfit")


@dataclass(frozen=True)
class Contestant:
    """Who competes, and how it is started."""

    name: str  # as tables and charts show it
    script: str  # a file of `contestants/`, without .py
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable  # a peer that cannot live beside ours has an environment of its own


@dataclass(frozen=True)
class Run:
    """What one run of one contestant took."""

    contestant: str
    round: int
    values: Mapping[str, Any]  # what the contestant measured of itself
    cpu_seconds: float  # of the whole process with its threads and children, imports included
    wall_seconds: float
    memory_mib: float  # largest resident set of the process
    not_run: str = ""  # why there are no values
    case: str = ""  # data set or setting, where a benchmark has several

    def value(self, name: str) -> float:
        """Give one of its numbers, or one of the whole process."""
        return float(self.values[name] if name in self.values else getattr(self, name))


@dataclass(frozen=True)
class Figure:
    """One number of a table, with what it is held against."""

    name: str
    value: float
    low: float  # least and most over the rounds
    high: float
    rounds: int
    unit: str = "times"
    goal: str = ""
    limit: str = ""  # what the machine allows at most, where that was measured
    case: str = ""


def environment(threads: int) -> dict[str, str]:
    """Give the environment of a contestant: the same threads for every library, and no network."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **dict.fromkeys(names, count), **quiet}


def measured_process(command: Sequence[str], *, threads: int, log: Path) -> tuple[int, float, float, float]:
    """Run a command to its end; give its exit status, CPU seconds, wall seconds and largest resident set in MiB."""
    start = time.perf_counter()
    with log.open("wb") as output:
        child = subprocess.Popen(command, env=environment(threads), stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return child.returncode, cpu, time.perf_counter() - start, usage.ru_maxrss / 1024


def run_once(contestant: Contestant, job: Mapping[str, Any], *, number: int, case: str) -> Run:
    """Run one contestant once. A failure is kept as the reason why it was not run; nothing is left out in silence."""
    with tempfile.TemporaryDirectory(prefix="contest-") as folder:
        task, answer, log = (Path(folder) / name for name in ("job.json", "answer.json", "log"))
        task.write_text(json.dumps({**job, **contestant.options, "scratch": folder}), encoding="utf-8")
        script = HERE / "contestants" / f"{contestant.script}.py"
        command = [contestant.python, str(script), str(task), str(answer)]
        status, cpu, wall, memory = measured_process(command, threads=int(job["threads"]), log=log)
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        if status == 0:
            values = json.loads(answer.read_text(encoding="utf-8"))
            return Run(contestant.name, number, values, cpu, wall, memory, case=case)
        reason = said.rsplit("\n", 1)[-1][-300:] or f"exit status {status}"
        if status != NOT_RUN:
            reason = f"failed with status {status}: {reason}"
            print(said[-3000:], file=sys.stderr)
        return Run(contestant.name, number, {}, cpu, wall, memory, not_run=reason, case=case)


def contest(
    contestants: Sequence[Contestant],
    job: Mapping[str, Any],
    *,
    rounds: int,
    case: str = "",
    each_round: Callable[[int], Mapping[str, Any]] = lambda number: {},
) -> list[Run]:
    """Run all contestants in turn, `rounds` times; who cannot run in the first round is not asked again.

    Args:
        contestants: In the order of the tables.
        job: What all of them do; has `threads`.
        rounds: How often.
        case: Name of this data set or setting.
        each_round: Gives what differs from round to round, e.g. the seed.
    """
    runs: list[Run] = []
    for number in range(rounds):
        order = list(contestants)[:: 1 if number % 2 == 0 else -1]
        for contestant in order:
            if any(run.not_run for run in runs if run.contestant == contestant.name):
                continue
            run = run_once(contestant, {**job, **each_round(number)}, number=number, case=case)
            runs.append(run)
            told = run.not_run or ", ".join(
                f"{name} {value:.4g}" for name, value in run.values.items() if isinstance(value, (int, float))
            )
            print(f"[{case} {number + 1}/{rounds}] {contestant.name}: {told}", file=sys.stderr, flush=True)
    return runs


def of(runs: Iterable[Run], contestant: str, case: str = "") -> dict[int, Run]:
    """Give a contestant's whole runs by round."""
    return {run.round: run for run in runs if run.contestant == contestant and run.case == case and not run.not_run}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Give median, least and most."""
    return statistics.median(values), min(values), max(values)


def figure(name: str, values: Sequence[float], **about: str) -> list[Figure]:
    """Give one figure of a value for each round; none where there are no values."""
    return [Figure(name, *spread(values), len(values), **about)] if values else []


def ratio(
    runs: Sequence[Run], over: str, under: str, *, value: str, case: str = "", name: str = "", **about: str
) -> list[Figure]:
    """Give `value` of one contestant over another's, taken round by round; none where one of them did not run."""
    first, second = of(runs, over, case), of(runs, under, case)
    shared = sorted(first.keys() & second.keys())
    values = [first[number].value(value) / second[number].value(value) for number in shared]
    return figure(name or f"{over} / {under}", values, case=case, **about)


def machine(threads: int) -> dict[str, Any]:
    """Say what the numbers were measured on."""
    from importlib import metadata

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = path.read_text(encoding="utf-8").splitlines()
    entries = dict(part for line in lines if len(part := [item.strip() for item in line.split(":", 1)]) == 2)
    flags = set(entries.get("flags", "").split())
    units = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{entries.get('model name', 'unknown')} ({', '.join(units)})"


def arguments(about: str, *, rounds: int, sets: Sequence[str] = ("sst2_en",), rows: int = 2000) -> argparse.Namespace:
    """Read the options that every benchmark has; a benchmark's own ones are KEY=VALUE pairs behind `--set`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets, or of folders of them")
    parser.add_argument("--sets", nargs="+", default=list(sets), help="data sets to use, by folder name")
    parser.add_argument("--model", default="minilm", help="base model: minilm, or a folder")
    parser.add_argument("--rows", type=int, default=rows, help="training rows")
    parser.add_argument("--test-rows", type=int, default=2000, help="most validation and test rows")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each contestant runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="what this benchmark alone knows")
    parser.add_argument(
        "--only", nargs="*", default=[], help="contestants to run, by part of their name (or a regular expression)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the JSON")
    parser.add_argument("--name", default="", help="name of the JSON, where one benchmark is run for several models")
    options = parser.parse_args()
    options.set = dict(item.split("=", 1) for item in options.set)
    return options


def chosen(contestants: Sequence[Contestant], wanted: Sequence[str]) -> list[Contestant]:
    """Give those in whose name one of the wanted patterns is found; all of them where none is wanted."""
    return [each for each in contestants if not wanted or any(re.search(word, each.name) for word in wanted)]


def keep(name: str, options: argparse.Namespace, runs: Sequence[Run], figures: Sequence[Figure], **more: Any) -> Path:
    """Write `<out>/<name>.json` with every run, and print the figures as a Markdown table."""
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.name or name
    path: Path = options.out / f"{name}.json"
    content = {
        "benchmark": name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(options.threads),
        "options": {key: _without_folder(value) for key, value in vars(options).items() if not isinstance(value, Path)},
        "figures": [dataclasses.asdict(each) for each in figures],
        "runs": [dataclasses.asdict(each) for each in runs],
        **more,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(figure_table([dataclasses.asdict(each) for each in figures]))
    for run in runs:
        if run.not_run:
            print(f"not run: {run.contestant}: {run.not_run}")
    print(f"written: {path}")
    return path


def _without_folder(value: Any) -> Any:
    """Give an option as it means something elsewhere: of a path its name."""
    if isinstance(value, dict):
        return {key: _without_folder(each) for key, each in value.items()}
    return Path(value).name if isinstance(value, str) and "/" in value else value


def figure_table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Give figures as a Markdown table."""
    lines = ["| data | figure | median | least to most | rounds | goal | limit |", "|---|---|---|---|---|---|---|"]
    for each in figures:
        cells = (
            each["case"],
            each["name"],
            f"{shown(each['value'])} {each['unit']}",
            f"{shown(each['low'])} to {shown(each['high'])}",
            each["rounds"],
            each["goal"],
            each["limit"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def shown(value: float) -> str:
    """Give three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

"""What does one answer from a cold process cost? The whole process counts: imports, loading, answering.

    python benchmarks/cold_start.py --data FOLDER --sets sst2_en --rounds 7 [--set run=RUN_FOLDER]

Without `run=` a run is trained first on the set's rows (one epoch, top layers). The run answers as it is, and again
after `tunesmith export`. The peer is `transformers.pipeline` on the same folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from answering import EXPORTS, export, trained_run
from contest import Contestant, Figure, Run, arguments, chosen, figure, keep, measured_process, of, ratio
from training_speed import job_of

PIPELINE, HELP, AS_TRAINED = "pipeline", "tunesmith --help", "tunesmith predict"
_TEXT = "a gripping film , if a little long"
_PIPELINE = """
import sys
from transformers import pipeline
print(pipeline("text-classification", model=sys.argv[1])(sys.argv[2]))
"""


def commands(run_folder: Path, place: Path, threads: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Give the command line of each entrant, and the reasons of those that cannot take part."""
    python = sys.executable
    found = {
        PIPELINE: [python, "-c", _PIPELINE, str(run_folder), _TEXT],
        HELP: [python, "-m", "tunesmith", "--help"],
        AS_TRAINED: [python, "-m", "tunesmith", "predict", str(run_folder), _TEXT],
    }
    missing = {}
    for name, flags in EXPORTS.items():
        copy = place / name.replace(" ", "-")
        reason = export(run_folder, copy, flags, threads)
        if reason:
            missing[f"tunesmith predict, {name}"] = reason
        else:
            found[f"tunesmith predict, {name}"] = [python, "-m", "tunesmith", "predict", str(copy), _TEXT]
    return found, missing


def figures_of(runs: list[Run], names: list[str]) -> list[Figure]:
    """Give CPU seconds, memory and what they are of the pipeline's."""
    found: list[Figure] = []
    for name in names:
        mine = of(runs, name).values()
        goal = "0.15" if name == HELP else ""
        found += figure(name, [run.cpu_seconds for run in mine], unit="CPU s", goal=goal)
        found += figure(f"{name}: memory", [run.memory_mib for run in mine], unit="MiB")
    for name in names:
        if name.startswith("tunesmith predict"):
            is_exported = name != AS_TRAINED
            told = {"goal": "12"} if is_exported else {}
            found += ratio(runs, PIPELINE, name, value="cpu_seconds", name=f"CPU: {PIPELINE} / {name}", **told)
            told = {"goal": "4"} if is_exported else {}
            found += ratio(runs, PIPELINE, name, value="memory_mib", name=f"memory: {PIPELINE} / {name}", **told)
    return found


def main() -> None:
    options = arguments(__doc__, rounds=7)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        run_folder = trained_run(options, job_of(options, options.sets[0], place), place)
        found, missing = commands(run_folder, place, options.threads)
        runs += [Run(name, 0, {}, 0.0, 0.0, 0.0, not_run=reason) for name, reason in missing.items()]
        wanted = {each.name for each in chosen([Contestant(name, "") for name in found], options.only)}
        for number in range(options.rounds):
            for name, command in found.items():
                if name not in wanted:
                    continue
                log = place / "log"
                status, cpu, wall, memory = measured_process(command, threads=options.threads, log=log)
                reason = "" if status == 0 else log.read_text(encoding="utf-8", errors="replace")[-300:]
                runs.append(Run(name, number, {}, cpu, wall, memory, not_run=reason))
    keep("cold_start", options, runs, figures_of(runs, list(found)))


if __name__ == "__main__":
    main()

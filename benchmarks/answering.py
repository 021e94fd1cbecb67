"""How fast are answers, one by one and in bulk, and are they the same ones?

    python benchmarks/answering.py --data FOLDER --sets sst2_en --rounds 5 [--set run=RUN_FOLDER count=200 bulk=2000]

All answer the same test texts with the same run folder: `transformers.pipeline` (one by one; and in the batch size that
serves it best, texts sorted by length, which it does not do itself), ONNX Runtime by hand with fused attention, and
Tunesmith as trained and after `tunesmith export`, for each thing that is to be fast (`--prefer latency`: one by one;
`--prefer throughput`: in bulk). sentence-transformers only encodes: it gives no label, and stands there for speed.
Loading is not timed. Answers are compared with those of the run in torch, texts one by one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contest import Contestant, Figure, Run, arguments, chosen, contest, environment, figure, keep, of, ratio
from training_speed import job_of

PIPELINE, ORT, ENCODE, AS_TRAINED = "pipeline", "ONNX Runtime by hand", "sentence-transformers encode", "tunesmith"
ONE, BULK = "one by one", "in bulk"
EXPORTS = {
    "exported for latency": ["--quantize", "none", "--prefer", "latency"],
    "exported for throughput": ["--quantize", "none", "--prefer", "throughput"],
    "exported int8 for latency": ["--quantize", "int8", "--prefer", "latency"],
    "exported int8 for throughput": ["--quantize", "int8", "--prefer", "throughput"],
}
_GOALS = {
    "exported for latency": {ONE: "2.4"},
    "exported for throughput": {BULK: "2.4"},
    "exported int8 for latency": {ONE: "3.5"},
    "exported int8 for throughput": {BULK: "3.5"},
}


def trained_run(options: argparse.Namespace, job: dict[str, Any], place: Path) -> Path:
    """Give the run folder of `--set run=`, else train one (`--set method=full epochs=2` change how)."""
    if given := options.set.get("run"):
        return Path(given)
    out = place / "run"
    command = [sys.executable, "-m", "tunesmith", "train", job["train"], "--valid", job["valid"], "--test", job["test"]]
    command += ["--text", "text", "--label", "label", "--model", job["model"], "--out", str(out), "--quiet"]
    command += ["--method", options.set.get("method", "top-layers"), "--epochs", str(options.set.get("epochs", 1))]
    command += ["--set", f"threads={options.threads}"]
    subprocess.run(command, env=environment(options.threads), check=True)
    return out


def export(run: Path, copy: Path, flags: list[str], threads: int) -> str:
    """Copy a run and export the copy; give the reason where that is not possible, else an empty string."""
    import shutil

    shutil.copytree(run, copy)
    command = [sys.executable, "-m", "tunesmith", "export", str(copy), "--threads", str(threads), *flags]
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split())[-300:]


def field(run: Path, place: Path, threads: int, wanted: list[str]) -> tuple[list[Contestant], list[Run]]:
    """Give the wanted ones of all who compete, and a line for each export that could not be made."""
    peers = [
        Contestant(PIPELINE, "pipeline_answer", {"run": str(run)}),
        Contestant(ORT, "onnx_answer", {"run": str(run)}),
        Contestant(ENCODE, "encode_answer", {"run": str(run)}),
        Contestant(AS_TRAINED, "tunesmith_answer", {"run": str(run)}),
    ]
    copies = {f"{AS_TRAINED} {name}": place / name.replace(" ", "-") for name in EXPORTS}
    ours = [Contestant(name, "tunesmith_answer", {"run": str(copy)}) for name, copy in copies.items()]
    missing = {}
    for each, flags in zip(ours, EXPORTS.values(), strict=True):
        if chosen([each], wanted) and (reason := export(run, copies[each.name], flags, threads)):
            missing[each.name] = Run(each.name, 0, {}, 0.0, 0.0, 0.0, not_run=reason)
    found = [each for each in (*peers, *ours) if each.name not in missing]
    return chosen(found, wanted), list(missing.values())


def with_agreement(runs: list[Run], true: list[str]) -> list[Run]:
    """Add to each run which share of its answers is the same as that of the run in torch, and its accuracy."""
    reference = next((run.values["answers"] for run in runs if run.contestant == AS_TRAINED and not run.not_run), None)
    for run in runs:
        answers = run.values.get("answers")
        if answers:
            values: dict[str, Any] = run.values  # type: ignore[assignment]
            values["accuracy"] = sum(a == b for a, b in zip(answers, true, strict=True)) / len(true)
            if reference:
                values["same"] = sum(a == b for a, b in zip(answers, reference, strict=True)) / len(true)
    return runs


def figures_of(runs: list[Run], names: list[str]) -> list[Figure]:
    """Give the time of an answer, answers per CPU second, and both against the pipeline, with the quality of each."""
    found: list[Figure] = []
    for name in names:
        mine = list(of(runs, name).values())
        singles = [1000 * run.value("single_cpu_seconds") for run in mine if "single_cpu_seconds" in run.values]
        found += figure(f"{name}: one by one", singles, unit="CPU ms")
        found += figure(f"{name}: in bulk", [run.value("bulk_per_cpu_second") for run in mine], unit="texts/CPU s")
        found += figure(
            f"{name}: accuracy", [100 * run.value("accuracy") for run in mine if "accuracy" in run.values], unit="%"
        )
        found += figure(
            f"{name}: same answers", [100 * run.value("same") for run in mine if "same" in run.values], unit="%"
        )
    for name in names:
        if name == PIPELINE:
            continue
        kind = name.removeprefix(AS_TRAINED).strip()
        goals = _GOALS.get(kind, {})
        for way, value, (over, under) in (
            (ONE, "single_cpu_seconds", (PIPELINE, name)),
            (BULK, "bulk_per_cpu_second", (name, PIPELINE)),
        ):
            if (name, way) != (ENCODE, ONE):
                told = {"goal": goals.get(way, ""), "name": f"{way}: {name} against the {PIPELINE}"}
                found += ratio(runs, over, under, value=value, **told)
    return found


def main() -> None:
    from rows import read

    options = arguments(__doc__, rounds=5)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        job = job_of(options, options.sets[0], place)
        run = trained_run(options, job, place)
        bulk = read(job["test"])[: int(options.set.get("bulk", 2000))]
        texts, true = [text for text, _ in bulk], [label for _, label in bulk]
        asked = {"texts": texts, "singles": int(options.set.get("count", 200)), "threads": options.threads}
        found, missing = field(run, place, options.threads, options.only)
        runs = contest(found, asked, rounds=options.rounds)
        runs = with_agreement(runs, true)
        figures = figures_of(runs, [each.name for each in found])
        for each in runs:
            each.values.pop("answers", None)  # type: ignore[attr-defined]
        keep("answering", options, [*runs, *missing], figures)


if __name__ == "__main__":
    main()

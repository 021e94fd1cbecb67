"""Turn a finished run into one that answers fast and without torch: the fastest model that gives the same answers.

The run stays what it is, and gains a folder of its own in `exports`; its manifest then names it. Killed at any moment,
the export leaves the run as it was.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, TEMPORARY, explain_os_errors, sync, write_json
from tunesmith.bundle.candidates import MEASURED_TOKENS, Candidate, Workbench, why_not
from tunesmith.bundle.exported import FACTS, FOLDER, FORMAT
from tunesmith.bundle.kept_rows import measuring_rows, part_rows
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.members import demand_single
from tunesmith.bundle.writing_in_8_bits import MOST as MOST_WRITTEN
from tunesmith.bundle.writing_in_8_bits import measure
from tunesmith.engines import AUTO, ENGINES, TORCH, demand_engine, demand_installed, is_installed
from tunesmith.engines.contest import PREFER, Timing, time_engines
from tunesmith.engines.fast_tokenizer import FILE
from tunesmith.engines.graph import demand_onnx, write_mapped
from tunesmith.engines.int8 import Try
from tunesmith.errors import PlanProblem, TunesmithError
from tunesmith.models.find import hash_file

QUANTIZE = ("none", "int8", AUTO)


@dataclass(frozen=True)
class Contender:
    """One row of the table: a model that may answer, and what was measured of it."""

    name: str
    milliseconds: float  # one row by itself
    rows_per_second: float  # in bulk
    batch_tokens: int
    difference: float  # largest, from torch's outputs, in units of the largest output
    loss: float  # points of the main metric lost
    agreement: float  # share (0..1) of rows with the same answer as torch
    file_mib: float  # of the exported files; 0 for torch
    is_chosen: bool


@dataclass(frozen=True)
class Export:
    """What an export made and measured."""

    run: Path
    folder: Path | None  # None where the run answers with torch
    chosen: str
    metric: str = ""
    rows: int = 0  # that scores and answers were compared on
    tolerance: float = 0.0
    table: tuple[Contender, ...] = ()
    tries: tuple[Try, ...] = ()  # ways of quantising
    declined: Mapping[str, str] = field(default_factory=dict)  # engine -> why it is not in the table


def export(
    run: str | Path,
    *,
    engine: str = AUTO,
    quantize: str = "none",
    tolerance: float = 0.5,
    prefer: str = "balanced",
    data: str | Path = "",
    threads: int | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Export:
    """Export a finished run.

    Args:
        run: The run folder.
        engine: onnx or openvino; auto: whatever is fastest here, torch included; torch: forget an earlier export.
        quantize: none; int8: 8 bits or an error; auto: 8 bits where that keeps to the tolerance and is fastest.
        tolerance: Points of the main metric that 8 bits may cost on the rows measured (percent of its value where the
            metric is no share).
        prefer: What is to be fast: latency (rows one by one), throughput (rows in bulk), or both (balanced).
        data: Labelled rows to measure on (default: the run's validation rows, read again from their file).
        threads: CPU threads of an answer while measuring; None leaves it to the engines.
        on_step: Told in words what is being done.

    Raises:
        BundleProblem: The run is damaged, or of a kind that cannot be exported.
        ModelProblem: The model cannot be written as a graph that answers alike.
        PlanProblem: No way to 8 bits keeps to the tolerance, or the wishes do not fit together.
        DataProblem: There are no rows to measure on.
        MissingExtra: What the engine needs is not installed.
    """
    demand_engine(engine)
    _demand_fitting(engine, quantize, tolerance)
    if prefer not in PREFER:
        raise PlanProblem(f"prefer is '{prefer}'", where="prefer", do=f"use one of: {', '.join(PREFER)}")
    bundle = load(run, engine=TORCH, threads=threads)
    if engine == TORCH:
        _commit(bundle.path, "", {})
        return Export(bundle.path, None, TORCH)
    demand_single(bundle, "exported")
    if reason := why_not(bundle, quantize):
        raise reason
    if not hasattr(bundle.task, "inputs"):
        return _export_writing(bundle, engine, quantize, tolerance=tolerance, data=data, threads=threads)
    demand_onnx()
    if engine != AUTO:
        demand_installed(engine)
    records = measuring_rows(bundle, data)
    with _workspace(bundle.path) as folder:
        on_step(f"comparing with torch on {len(records):,} rows")
        bench = Workbench(bundle, records, folder, threads)
        found, tries, declined = _contenders(bench, engine, quantize, tolerance, on_step)
        on_step("measuring speed")
        timings = time_engines({one.name: one.engine for one in found}, bench.examples, bench.make_inputs)
        chosen = _choose(found, timings, engine, quantize, prefer=prefer)
        made = Export(
            bundle.path,
            None if chosen.runtime == TORCH else bundle.path / FOLDER / _folder_name(chosen),
            chosen.name,
            bench.metric,
            len(records),
            tolerance,
            tuple(_contender(one, timings[one.name], chosen) for one in found),
            tuple(tries),
            declined,
        )
        _keep(made, chosen, timings[chosen.name], bench)
    return made


def _export_writing(
    bundle: Bundle, engine: str, quantize: str, *, tolerance: float, data: str | Path, threads: int | None
) -> Export:
    """Let a run that answers in words write with 8-bit weights, where that costs little enough; torch runs it still."""
    if engine != AUTO:
        raise PlanProblem(
            f"runs of task {bundle.task.name} write with torch, not with engine '{engine}'",
            where="engine",
            do="leave out --engine",
        )
    records = measuring_rows(bundle, data)
    records = records[:: max(1, len(records) // MOST_WRITTEN)][:MOST_WRITTEN]
    metric = str(bundle.plan.options["metric"])
    plain, small = measure(bundle, records)
    is_within = small.loss <= tolerance + 1e-9
    if quantize == "int8" and not is_within:
        what = (
            f"8-bit weights lose {small.loss:.2f} points of {metric} on {len(records):,} rows, more than {tolerance:g}"
        )
        least = math.ceil(10 * small.loss) / 10
        do = f"use --quantize none, allow more with --tolerance {least:g}, or measure on more rows: --data FILE"
        raise PlanProblem(f"{what}. The run is as it was", where="quantize", do=do)
    is_chosen = is_within and (quantize == "int8" or small.milliseconds < plain.milliseconds)
    table = tuple(
        Contender(
            TORCH if one is plain else f"{TORCH} int8",
            *(one.milliseconds, one.rows_per_second, int(bundle.facts["batch_tokens"]), math.nan),
            *(one.loss, one.agreement, 0.0, (one is small) == is_chosen),
        )
        for one in (plain, small)
    )
    folder = bundle.path / FOLDER / f"{TORCH}-int8-{uuid.uuid4().hex[:8]}" if is_chosen else None
    made = Export(bundle.path, folder, table[is_chosen].name, metric, len(records), tolerance, table)
    if folder is None:
        _commit(made.run, "", {})
    else:
        _keep_8_bits(made, threads)
    return made


def _keep_8_bits(made: Export, threads: int | None) -> None:
    """Let the manifest name a folder that says how the run's own model answers, and holds nothing else."""
    content = {
        "format": FORMAT,
        "engine": TORCH,
        "quantized": "int8",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "measured": {
            "threads": threads,
            "metric": made.metric,
            "rows": made.rows,
            "tolerance": made.tolerance,
            "table": made.table,
        },
    }
    with _workspace(made.run) as place:
        whole = place / "whole"
        whole.mkdir()
        write_json(whole / FACTS, content)
        sync(whole / FACTS)
        _put(whole, made)


def _demand_fitting(engine: str, quantize: str, tolerance: float) -> None:
    if quantize not in QUANTIZE:
        raise PlanProblem(f"quantize is '{quantize}'", where="quantize", do=f"use one of: {', '.join(QUANTIZE)}")
    if not 0 <= tolerance <= 100:
        raise PlanProblem(f"tolerance is {tolerance:g}", where="tolerance", do="give points of the metric, 0..100")
    if quantize == "int8" and engine == TORCH:
        raise PlanProblem(
            f"engine '{engine}' does not answer in 8 bits here",
            where="quantize",
            do="use --engine onnx or openvino, or auto",
        )


def _contenders(
    bench: Workbench, engine: str, quantize: str, tolerance: float, on_step: Callable[[str], None]
) -> tuple[list[Candidate], list[Try], dict[str, str]]:
    """Make every model that was asked for; with `auto`, what cannot be made is declined with its reason."""
    declined: dict[str, str] = {}
    on_step("writing the graph")
    plain = bench.float_onnx()
    found = [bench.torch(), plain]
    can_openvino = engine == "openvino" or (engine == AUTO and is_installed("openvino"))
    if can_openvino and quantize != "int8":
        on_step("converting for OpenVINO")
        try:
            found.append(bench.openvino())
        except (TunesmithError, RuntimeError) as error:
            if engine != AUTO:
                raise
            declined["openvino"] = _reason(error)
    elif engine == AUTO and not can_openvino:
        declined["openvino"] = "not installed (pip install 'tunesmith[openvino]')"
    tries: list[Try] = []
    if quantize != "none":
        smaller, tries, refused = _in_8_bits(bench, plain, tolerance, on_step, engines=engine, is_able=can_openvino)
        declined |= refused
        found += smaller
        if quantize == "int8" and not smaller:
            raise _too_lossy(bench, tries, tolerance)
    return found, tries, declined


def _in_8_bits(
    bench: Workbench,
    plain: Candidate,
    tolerance: float,
    on_step: Callable[[str], None],
    *,
    engines: str,
    is_able: bool,
) -> tuple[list[Candidate], list[Try], dict[str, str]]:
    """Quantise for every engine that was asked for; what loses too much is declined with its reason.

    Args:
        bench: With the plain graph written.
        plain: The float graph.
        tolerance: Points that may be lost.
        on_step: Told in words of each try.
        engines: onnx, openvino, or auto for both.
        is_able: Whether OpenVINO is here.
    """
    found: list[Candidate] = []
    tries: list[Try] = []
    declined: dict[str, str] = {}

    def tell(one: Try) -> None:
        on_step(f"int8, {one.what}: {-one.loss:+.2f} points")

    def keep(name: str, made: tuple[Candidate | None, list[Try]]) -> None:
        tries.extend(made[1])
        if made[0] is not None:
            found.append(made[0])
        else:
            declined[name] = "every way of quantising lost more than the tolerance"

    if engines in {AUTO, "onnx"}:
        keep("onnx int8", bench.int8_onnx(plain.files[0], tolerance, tell))
    if engines in {AUTO, "openvino"} and is_able:
        on_step("finding ranges for OpenVINO")
        try:
            keep("openvino int8", bench.int8_openvino(part_rows(bench.bundle, "train"), tolerance, tell))
        except (TunesmithError, RuntimeError) as error:
            if engines != AUTO:
                raise
            declined["openvino int8"] = _reason(error)
    return found, tries, declined


def _reason(error: Exception) -> str:
    """Give an error on one line."""
    return " ".join(str(getattr(error, "what", error)).split())[:200]


def _too_lossy(bench: Workbench, tries: Sequence[Try], tolerance: float) -> PlanProblem:
    best = min((one.loss for one in tries), default=float("nan"))
    return PlanProblem(
        f"none of {len(tries)} ways to 8 bits keeps within {tolerance:g} points of {bench.metric} on "
        f"{len(bench.records):,} rows; the best loses {best:.2f}. The run is as it was",
        where="quantize",
        do=f"use --quantize none, allow more with --tolerance {math.ceil(10 * best) / 10:g}, "
        "or measure on more rows: --data FILE",
    )


def _choose(
    found: Sequence[Candidate], timings: Mapping[str, Timing], engine: str, quantize: str, *, prefer: str
) -> Candidate:
    """Give the fastest of those that were asked for."""
    able = [one for one in found if engine in {AUTO, one.runtime}]
    if quantize == "int8":
        able = [one for one in able if one.name.endswith("int8")]
    return max(able, key=lambda one: timings[one.name].speed(prefer))


def _contender(one: Candidate, timing: Timing, chosen: Candidate) -> Contender:
    return Contender(
        name=one.name,
        milliseconds=timing.milliseconds,
        rows_per_second=timing.rows_per_second,
        batch_tokens=timing.batch_tokens,
        difference=one.difference,
        loss=one.loss,
        agreement=one.agreement,
        file_mib=sum(path.stat().st_size for path in one.files) / 2**20,
        is_chosen=one is chosen,
    )


def _folder_name(chosen: Candidate) -> str:
    return f"{chosen.name.replace(' ', '-')}-{uuid.uuid4().hex[:8]}"


@contextmanager
def _workspace(run: Path) -> Iterator[Path]:
    """Give a folder to work in, beside where the result will lie; it is removed afterwards."""
    with explain_os_errors(run, "making a folder to export to"):
        _sweep(run / FOLDER)
        folder = run / FOLDER / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
    try:
        with explain_os_errors(run, "exporting the run"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not any((run / FOLDER).iterdir()):
            (run / FOLDER).rmdir()


def _sweep(folder: Path) -> None:
    """Remove what exports that were killed have left."""
    import psutil

    for left in folder.glob(f"{TEMPORARY}*"):
        number = left.name.removeprefix(TEMPORARY).split("-")[0]
        if not (number.isdecimal() and psutil.pid_exists(int(number))):
            shutil.rmtree(left, ignore_errors=True)


def _keep(made: Export, chosen: Candidate, timing: Timing, bench: Workbench) -> None:
    """Put the chosen model into a folder of its own, and let the manifest name it."""
    if made.folder is None:
        _commit(made.run, "", {})
        return
    content: dict[str, Any] = {
        "format": FORMAT,
        "engine": chosen.runtime,
        "quantized": "int8" if chosen.name.endswith("int8") else "none",
        "is_full_range": chosen.is_full_range,
        "batch_tokens": min(timing.batch_tokens, MEASURED_TOKENS),
        "tokenizer": bench.facts,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "measured": {
            "threads": bench.threads,
            "metric": made.metric,
            "rows": made.rows,
            "tolerance": made.tolerance,
            "table": made.table,
            "tries": made.tries,
            "declined": made.declined,
        },
    }
    folder = bench.folder / "whole"
    folder.mkdir()
    shutil.move(bench.folder / FILE, folder / FILE)
    name = ENGINES[chosen.runtime].file
    if chosen.runtime == "onnx":
        write_mapped(chosen.files[0], folder / name)
    else:
        for path in chosen.files:
            shutil.move(path, folder / Path(name).with_suffix(path.suffix))
    write_json(folder / FACTS, content)
    for path in folder.iterdir():
        sync(path)
    _put(folder, made)


def _put(folder: Path, made: Export) -> None:
    """Give a whole folder its name, and let the manifest name it."""
    assert made.folder is not None
    os.rename(folder, made.folder)
    sync(made.folder.parent)
    entries = {
        path.relative_to(made.run).as_posix(): {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in sorted(made.folder.iterdir())
    }
    _commit(made.run, f"{FOLDER}/{made.folder.name}", entries)


def _commit(run: Path, name: str, entries: Mapping[str, Any]) -> None:
    """Let the manifest name an export (or none) and its files; then remove those that it named before."""
    manifest = json.loads((run / MANIFEST).read_text(encoding="utf-8"))
    others = {file: entry for file, entry in manifest["files"].items() if not file.startswith(f"{FOLDER}/")}
    manifest["files"] = {**others, **entries}
    manifest.pop("export", None)
    write_json(run / MANIFEST, {**manifest, **({"export": name} if name else {})})
    for folder in (run / FOLDER).glob("*"):
        if f"{FOLDER}/{folder.name}" != name and not folder.name.startswith(TEMPORARY):
            shutil.rmtree(folder, ignore_errors=True)

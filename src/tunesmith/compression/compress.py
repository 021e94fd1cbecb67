"""Make a run smaller and faster, step by step, and keep the result only if it lost no more than the person allows.

    run -> distil -> prune -> quantise, export -> measure -> keep, or set aside

Everything is made in a folder of its own beside the result, which appears whole or not at all. The run stays as it is.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tunesmith.bundle.atomic import TEMPORARY, explain_os_errors, sync
from tunesmith.bundle.candidates import why_not
from tunesmith.bundle.evaluate import read_labelled
from tunesmith.bundle.export import QUANTIZE, export
from tunesmith.bundle.kept_rows import part_rows
from tunesmith.bundle.load import Bundle, load
from tunesmith.bundle.members import demand_single
from tunesmith.compression.candidate import Show, Workshop, demand_compressible, drain
from tunesmith.compression.distil import blocks_asked, distil
from tunesmith.compression.lineage import copy_run, write_lineage
from tunesmith.compression.measured import Scale, Step, within
from tunesmith.compression.prune import prune, remarks_of
from tunesmith.engines import AUTO, TORCH, demand_engine, demand_installed
from tunesmith.errors import PlanProblem
from tunesmith.types import Record

ASIDE = "-set-aside"
"""What the folder of a result that lost too much is called behind the name it would have had."""

_MOST_ROUNDS = 20
_LEAST_SHARE_LEFT = 0.25  # of the tolerance, that quantising may lose whatever came before


@dataclass(frozen=True)
class Wishes:
    """What is asked of a compression; nothing of it is done by default."""

    distill: str = ""  # layers:N, or a base model
    prune: float = 0.0  # share (0..1) of the numbers in the blocks' matrices that leaves
    rounds: int = 2  # in which they leave
    quantize: str = "none"  # none, int8, auto
    export: str = ""  # onnx, openvino, auto
    tolerance: float = 1.0  # points of the main metric that all of it may cost
    unlabelled: str = ""  # rows without labels to learn from
    data: str = ""  # labelled rows to measure on, instead of the run's test rows
    out: str = ""  # folder of the result (default: beside the run, with -compressed behind its name)
    threads: int | None = None  # CPU threads of an answer while measuring
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe keys for what is trained

    @property
    def command(self) -> str:
        """The options of the command line that ask the same."""
        plain = {item.name: item.default for item in dataclasses.fields(self) if item.name not in {"settings", "out"}}
        given = {name: value for name in plain if (value := getattr(self, name)) != plain[name]}
        words = [f"--{name} {shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"
                 for name, value in given.items()]  # fmt: skip
        words += [f"--set {shlex.quote(f'{name}={value}')}" for name, value in self.settings.items()]
        return " ".join(words)


@dataclass(frozen=True)
class Compression:
    """What a compression made and measured."""

    run: Path
    folder: Path  # of the result; where it lost too much, of what was set aside
    is_kept: bool
    metric: str
    tolerance: float
    steps: tuple[Step, ...]  # the run itself first
    remarks: tuple[str, ...] = ()


def compress(
    run: str | Path,
    wishes: Wishes,
    *,
    show: Show = drain,
    say: Callable[[str], None] = lambda text: None,
    stop_signal: Callable[[], int] = lambda: 0,
) -> Compression:
    """Compress a finished run.

    Args:
        run: The run folder; it stays as it is.
        wishes: What is to be done.
        show: Goes through the events of a training job.
        say: Told in words what is being done.
        stop_signal: Asked after every step of training.

    Returns:
        What was made. Where `is_kept` is false it lost too much, and lies in a folder set aside.

    Raises:
        PlanProblem: The wishes do not fit together, or this run.
        BundleProblem: The run is damaged, or of a kind that cannot be exported.
        DataProblem: The run's rows are not where they were.
        Stopped: `stop_signal` said so; nothing is left behind.
    """
    _demand_sensible(wishes)
    parent = load(run, engine=TORCH, threads=wishes.threads)
    is_trained = bool(wishes.distill or wishes.prune)
    _demand_possible(parent, wishes, is_trained=is_trained)
    out = _free_folder(wishes.out or f"{parent.path.absolute()}-compressed")
    records = _measuring_rows(parent, wishes.data)
    with _workspace(out) as folder:
        say(f"measuring the run on {len(records):,} rows")
        scale = Scale(parent, records)
        shop = Workshop(
            parent,
            folder,
            out.name,
            unlabelled=wishes.unlabelled,
            settings=wishes.settings,
            show=show,
            say=say,
            stop_signal=stop_signal,
        )
        made, remarks = parent, shop.remarks
        if wishes.distill:
            made = distil(shop, wishes.distill)
            scale.weigh(made, f"distilled ({wishes.distill})" if blocks_asked(wishes.distill) else "distilled")
        if wishes.prune:
            made = prune(shop, made, wishes.prune, wishes.rounds)
            remarks += remarks_of(made.model)
            scale.weigh(made, f"pruned by {100 * wishes.prune:g}%")
        if not is_trained:
            copy_run(parent, folder / "copied", out.name)
            made = load(folder / "copied", engine=TORCH, threads=wishes.threads)
        if wishes.export or wishes.quantize != "none":
            made = _exported(made, wishes, scale, remarks=remarks, say=say)
        say("measuring speed")
        steps = scale.timed()
        is_kept = within(steps, wishes.tolerance)
        command = f"tunesmith compress {shlex.quote(parent.name)} {wishes.command}".rstrip()
        write_lineage(made.path, parent, steps, command=command, asked=dataclasses.asdict(wishes), remarks=remarks)
        target = out if is_kept else _aside(out)
        _put(made.path, target)
    return Compression(parent.path, target, is_kept, scale.metric, wishes.tolerance, tuple(steps), tuple(remarks))


def too_lossy(made: Compression) -> PlanProblem:
    """Give the problem of a result that lost more than was allowed."""
    last = made.steps[-1]
    needed = math.ceil(10 * last.loss) / 10 if math.isfinite(last.loss) else 100
    return PlanProblem(
        f"the compressed run loses {last.loss:.2f} points of {made.metric} on {last.scores.n:,} rows, more than "
        f"{made.tolerance:g}; it was set aside, and the run is as it was",
        where=str(made.folder),
        do=f"ask for less, give more rows to learn from (--unlabelled FILE), or allow more: --tolerance {needed:g}",
    )


def _demand_sensible(wishes: Wishes) -> None:
    """Refuse wishes that are out of range, or none at all."""
    if not (wishes.distill or wishes.prune or wishes.export or wishes.quantize != "none"):
        raise PlanProblem(
            "nothing was asked for",
            where="command line",
            do="say what: --prune 0.3, --distill layers:3, --quantize int8, --export onnx",
        )
    if not 0 <= wishes.prune < 1:
        raise PlanProblem(f"prune is {wishes.prune:g}", where="prune", do="give a share below 1, e.g. --prune 0.3")
    if not 1 <= wishes.rounds <= _MOST_ROUNDS:
        raise PlanProblem(f"rounds is {wishes.rounds}", where="rounds", do=f"give 1 to {_MOST_ROUNDS}")
    if not 0 <= wishes.tolerance <= 100:
        raise PlanProblem(f"tolerance is {wishes.tolerance:g}", where="tolerance", do="give points, 0..100")
    if wishes.quantize not in QUANTIZE:
        raise PlanProblem(f"quantize is '{wishes.quantize}'", where="quantize", do=f"use one of: {', '.join(QUANTIZE)}")
    if wishes.export:
        demand_engine(wishes.export)
        if wishes.export == TORCH:
            raise PlanProblem("torch runs the model as it is", where="export", do="leave --export out")
        if wishes.export != AUTO:
            demand_installed(wishes.export)
    if wishes.unlabelled and not (wishes.distill or wishes.prune):
        what = "unlabelled rows are learnt from, and nothing is to be trained"
        raise PlanProblem(what, where="unlabelled", do="leave --unlabelled out, or add --distill layers:3")
    blocks_asked(wishes.distill)


def _demand_possible(parent: Bundle, wishes: Wishes, *, is_trained: bool) -> None:
    """Refuse what this run does not allow, before an hour of training."""
    demand_single(parent, "compressed")
    if is_trained:
        demand_compressible(parent, wishes.unlabelled)
    if (wishes.export or wishes.quantize != "none") and (reason := why_not(parent, wishes.quantize)):
        raise reason


def _free_folder(out: str) -> Path:
    folder = Path(out).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PlanProblem(f"{folder} is there already", where="--out", do="choose another name with --out")
    return folder


def _measuring_rows(parent: Bundle, path: str) -> Sequence[Record]:
    """Give the rows that every step is measured on: of a file, else the run's own test rows."""
    if path:
        return read_labelled(parent, path)[0]
    return part_rows(parent, "test")


def _exported(made: Bundle, wishes: Wishes, scale: Scale, *, remarks: list[str], say: Callable[[str], None]) -> Bundle:
    """Let the smaller run answer by another engine, in 8 bits if asked; give it as it then answers."""
    lost = scale.steps[-1].loss
    left = max(wishes.tolerance - max(lost, 0.0), _LEAST_SHARE_LEFT * wishes.tolerance)
    found = export(
        made.path,
        engine=wishes.export or AUTO,
        quantize=wishes.quantize,
        tolerance=left,
        threads=wishes.threads,
        on_step=say,
    )
    remarks += [f"{name}: {reason}" for name, reason in found.declined.items()]
    if found.folder is None:
        remarks.append("no export answers faster here than torch: none was kept")
        return made
    bundle = load(made.path, threads=wishes.threads)
    scale.weigh(bundle, found.chosen)
    return bundle


def _aside(out: Path) -> Path:
    """Give a folder for what lost too much; one of an earlier try gives way to it."""
    folder = out.with_name(out.name + ASIDE)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _put(made: Path, target: Path) -> None:
    with explain_os_errors(target, "putting the compressed run in its place"):
        if target.is_dir():
            target.rmdir()
        os.rename(made, target)
        sync(target.parent)


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """Give a folder to work in beside the result; it is removed afterwards, and those of killed processes before."""
    with explain_os_errors(out, "making a folder to work in"):
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f"{TEMPORARY}compress-*"):
            number = left.name.removeprefix(f"{TEMPORARY}compress-").split("-")[0]
            if not (number.isdecimal() and psutil.pid_exists(int(number))):
                shutil.rmtree(left, ignore_errors=True)
        folder = out.parent / f"{TEMPORARY}compress-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

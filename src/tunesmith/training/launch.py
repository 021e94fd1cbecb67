"""`tunesmith train --processes N`: start the processes of a run, watch over them, and tell as one what became of them.

`torch.distributed.elastic` starts them and ends all when one has failed, as torchrun does; each says what went wrong in
the file that elastic asks for. What is added here is one error in three parts, whoever failed and however, and Ctrl-C:
the processes are no part of the terminal's group, so they hear a signal once, through this one, and save.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tunesmith import errors
from tunesmith.errors import MachineProblem, PlanProblem, Stopped, TunesmithError
from tunesmith.training.processes import LAUNCHER, NOTES, is_launched, noted_folder

_FILE = "TORCHELASTIC_ERROR_FILE"  # environment of a process that elastic has started
_LAST_WORDS = 2000  # characters of what a process said before it ended without a report


def launch(arguments: Sequence[str], *, processes: int) -> None:
    """Run the command line in several processes of this machine, until all have ended.

    Args:
        arguments: Of `tunesmith`, the command's name first.
        processes: How many (2 or more).

    Raises:
        TunesmithError: What the first process that failed has told; MachineProblem where it could not tell.
        Stopped: A signal asked the run to stop; its work is saved.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    with tempfile.TemporaryDirectory(prefix="tunesmith-", ignore_cleanup_errors=True) as name, _hearing() as heard:
        notes = Path(name)
        exits: Mapping[int, int] = {}
        start = elastic_launch(_configuration(notes, processes), sys.executable)
        try:
            with _environment(notes, processes), _quiet():
                start("-m", "tunesmith", *arguments)
        except ChildFailedError as error:
            exits = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException as error:  # versions of torch that hear signals whatever they are told
            heard.append(int(error.sigval))
        finally:
            _end_all()
        if exits or heard:
            raise _told(notes, exits, processes, heard)


def _configuration(notes: Path, processes: int) -> Any:
    """Give elastic's own: one machine, no second try, and a port that is free."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    settings: dict[str, Any] = {
        "min_nodes": 1,
        "max_nodes": 1,
        "nproc_per_node": processes,
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",
        "local_addr": "localhost",
        "max_restarts": 0,
        "monitor_interval": 0.1,
        # The first process speaks; what the others say is kept for the case that one ends without a report.
        "logs_specs": DefaultLogsSpecs(log_dir=str(notes), redirects=dict.fromkeys(range(1, processes), Std.ALL)),
        "signals_to_handle": "",  # `_hearing` does: it waits for what is being saved as long as that takes
    }
    known = {item.name for item in dataclasses.fields(LaunchConfig)}
    return LaunchConfig(**{name: value for name, value in settings.items() if name in known})


@contextlib.contextmanager
def _environment(notes: Path, processes: int) -> Iterator[None]:
    """Set what the processes inherit; CPU threads are divided among them."""
    import torch

    threads = str(max(1, torch.get_num_threads() // processes))
    own = {LAUNCHER: str(os.getpid()), NOTES: str(notes), "OMP_NUM_THREADS": threads}
    kept = {name: os.environ.get(name) for name in (*own, "TORCHELASTIC_SIGNALS_TO_HANDLE")}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep elastic from telling in its own words what is told here."""
    kept = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(kept)


@contextlib.contextmanager
def _hearing() -> Iterator[list[int]]:
    """Pass the first SIGINT or SIGTERM on to the processes, which save and stop; a second one ends them at once."""
    heard: list[int] = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)
        for child in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number if len(heard) == 1 else signal.SIGKILL)

    kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _children() -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _end_all() -> None:
    """Leave no process behind, however this one came here."""
    for child in _children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


# What a process tells, and what is made of it.


def is_told(error: TunesmithError) -> bool:
    """Tell the command that has started this process what went wrong, which then tells the person; False when alone."""
    if not (is_launched() and os.environ.get(_FILE)):
        return False
    parts = {"type": type(error).__name__, "what": error.what, "where": error.where, "do": error.do}
    message = {"message": str(error), **parts, "exit_code": error.exit_code}
    message["extraInfo"] = {"timestamp": str(int(time.time()))}  # elastic reads it
    Path(os.environ[_FILE]).write_text(json.dumps({"message": message}), encoding="utf-8")
    return True


def _told(notes: Path, exits: Mapping[int, int], processes: int, heard: Sequence[int]) -> TunesmithError:
    """Give the one error that the person should know.

    Args:
        notes: Where the processes have left word.
        exits: Process number -> exit status (below 0: the signal that ended it), of those that failed.
        processes: How many there were.
        heard: Signals that came.
    """
    reports = {int(path.parent.name): _read(path) for path in sorted(notes.glob("*/attempt_0/*/error.json"))}
    known = {rank: report for rank, report in reports.items() if report}
    folder = noted_folder(notes)
    more = f" --processes {processes}"
    for rank in sorted(known):
        if known[rank]["type"] not in {"Stopped", "ProcessLost"}:
            return _as_error(known[rank], more)
    if heard:
        stopped = next((known[rank] for rank in sorted(known) if known[rank]["type"] == "Stopped"), None)
        if stopped is not None and len(heard) == 1:
            return _as_error(stopped, more)
        return Stopped(
            f"stopped by signal {heard[0]}",
            where=folder,
            do=_go_on(folder, processes),
            signal_number=heard[0],
        )
    # Those that elastic ended because another one had failed come last.
    silent = {rank: code for rank, code in exits.items() if rank not in known}
    for rank in sorted(silent, key=lambda rank: silent[rank] == -signal.SIGTERM):  # else in the order of their ends
        words = _last_words(notes, rank)
        return MachineProblem(
            f"process {rank} of {processes} {_ending(silent[rank])}" + (f"; it said: {words}" if words else ""),
            where=folder or f"process {rank}",
            do=_go_on(folder, processes),
        )
    return _as_error(known[min(known)], more)


def _go_on(folder: str, processes: int) -> str:
    if not folder:
        return "run the command again"
    return f"go on with: tunesmith train --resume {folder} --processes {processes}"


def _ending(code: int) -> str:
    """Say how a process ended that told nothing."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (", as a system does that runs out of memory" if -code == signal.SIGKILL else "")


def _read(path: Path) -> Mapping[str, Any]:
    """Give a process's report; nothing where it is not one of ours, or was cut off."""
    try:
        message = json.loads(path.read_text(encoding="utf-8"))["message"]
    except (ValueError, KeyError, TypeError):
        return {}
    return message if isinstance(message, dict) and "exit_code" in message else {}


def _last_words(notes: Path, rank: int) -> str:
    """Give the last line that a process wrote; the first one's words stand on the terminal."""
    for path in notes.glob(f"*/attempt_0/{rank}/stderr.log"):
        lines = path.read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def _as_error(report: Mapping[str, Any], more: str) -> TunesmithError:
    """Give the error that a process had, of its own kind where it can be had; to be gone on with in as many."""
    what, where, do, code = report["what"], report["where"], report["do"], int(report["exit_code"])
    do = do + more if "--resume" in do else do
    if report["type"] == "Stopped":
        return Stopped(what, where=where, do=do, signal_number=code - 128)
    kind = getattr(errors, str(report["type"]), TunesmithError)
    error: TunesmithError = kind(what, where=where, do=do)
    error.exit_code = code
    return error


def demand_processes(wanted: str) -> int:
    """Read how many processes a person asks for.

    Raises:
        PlanProblem: It is no whole number from 1 on, or somebody else has started several processes already.
    """
    try:
        count = int(wanted)
    except ValueError:
        count = 0
    if count < 1:
        raise PlanProblem(f"--processes is '{wanted}'", where="--processes", do="give a whole number, 1 or more")
    if count > 1 and "RANK" in os.environ and not is_launched():
        raise PlanProblem(
            "torchrun or accelerate launch has started this process, and says how many there are",
            where="--processes",
            do="leave --processes out, or run tunesmith without a launcher",
        )
    return count

"""Load test a run, or a stand-in, over HTTP on this machine: how many requests a second, and how long each takes.

  tunesmith bench-serve runs/reviews                 finds the capacity, then asks half of it and ten times of it
  tunesmith bench-serve runs/reviews --rate 20       only this many requests a second
  tunesmith bench-serve --stub 20ms                  what the service itself costs, without a model

It starts a service of its own on a free port, with nothing kept. Inputs are the run's own test rows that its report
shows. Client and service share this machine's cores. Times are those that a client sees, from when it should have sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import MachineProblem, PlanProblem

if TYPE_CHECKING:
    from tunesmith.service.load_test import Stage, Target

_MUCH_STOLEN = 0.05  # of the cores' time, from where on it is said
_WARM_SECONDS = 3.0
_START_SECONDS = 300.0
_PASSED_ON = ("workers", "threads", "engine", "batch_rows", "batch_tokens", "queue_rows", "max_wait_ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", nargs="?", default="", help="run folder")
    parser.add_argument("--stub", default="", help="serve a stand-in that takes e.g. 20ms a batch instead")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load (default 30)")
    parser.add_argument("--clients", type=int, default=32, help="that ask as fast as they are answered (default 32)")
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, in place of finding the capacity")
    parser.add_argument("--over", type=float, default=10.0, help="times the capacity at the end; 0: not (default 10)")
    group = parser.add_argument_group("passed on to `tunesmith serve`")
    for name in _PASSED_ON:
        group.add_argument("--" + name.replace("_", "-"), default=None)


def run(options: argparse.Namespace, output: Output) -> int:
    """Start a service, ask it, and tell."""
    if bool(options.run) == bool(options.stub):
        raise PlanProblem("give either a run or --stub", where="command line", do="tunesmith bench-serve RUN")
    if options.seconds <= 0 or options.clients < 1 or options.rate < 0 or options.over < 0:
        raise PlanProblem(
            "seconds and clients are above 0, rate and over are 0 or more", where="command line", do="--help"
        )
    from tunesmith.service.load_test import Target

    inputs = _inputs(Path(options.run).expanduser()) if options.run else ["a text of some six words"]
    with _service(options) as (url, process):
        found = _measure(Target(url, "bench" if options.run else "stub", inputs), options, process, output)
    output.document(found)
    output.show(_table(found))
    return 0


def _measure(target: Target, options: argparse.Namespace, process: int, output: Output) -> dict[str, Any]:
    from tunesmith.service.load_test import ask_closed, ask_open, batches_of

    seconds, stages, memory = options.seconds, [], [_memory_mib(process)]

    def ask(stage: Any, note: str) -> Stage:
        output.say(note)
        before, times = batches_of(_get(f"{target.url}/metrics")), _processor_times()
        found: Stage = asyncio.run(stage)
        after = batches_of(_get(f"{target.url}/metrics"))
        rows = (after[1] - before[1]) / max(1, after[0] - before[0])
        memory.append(_memory_mib(process))
        taken, passed = (now - then for now, then in zip(_processor_times(), times, strict=True))
        stages.append(
            {
                **found.to_json(),
                "rows_in_batch": rows,
                "memory_mib": memory[-1],
                "stolen_share": taken / max(passed, 1e-9),
            }
        )
        return found

    asyncio.run(ask_closed(target, clients=options.clients, seconds=_WARM_SECONDS))
    if options.rate:
        ask(ask_open(target, rate=options.rate, seconds=seconds, name="given rate"), f"{options.rate:g} a second")
        return {"stages": stages}
    capacity = ask(
        ask_closed(target, clients=options.clients, seconds=seconds, name="capacity"),
        f"{options.clients} clients, each as fast as it is answered",
    ).per_second
    if not capacity:
        raise MachineProblem("the service answered nothing", where=target.url, do="look at its log")
    ask(ask_open(target, rate=capacity / 2, seconds=seconds, name="half"), f"half of that: {capacity / 2:.0f} a second")
    if options.over:
        rate = options.over * capacity
        name = f"{options.over:g} times"
        ask(ask_open(target, rate=rate, seconds=seconds, name=name), f"{name} that: {rate:.0f} a second")
    return {"capacity_per_second": capacity, "stages": stages}


@contextlib.contextmanager
def _service(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Run a service of our own; give its address and process id."""
    with tempfile.TemporaryDirectory() as registry:
        words = [f"bench={Path(options.run).expanduser().absolute()}", "--no-follow"] if options.run else []
        words += ["--stub", options.stub] if options.stub else []
        for name in _PASSED_ON:
            if getattr(options, name) is not None:
                words += ["--" + name.replace("_", "-"), str(getattr(options, name))]
        command = [sys.executable, "-m", "tunesmith", "serve", *words, "--port", "0", "--registry", registry]
        process = subprocess.Popen(
            [*command, "--no-keep", "--log", str(Path(registry) / "log.jsonl"), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            event = json.loads(line) if line.startswith("{") else {}
            if "url" not in event:
                words_of_it = (process.communicate()[1] or "").strip()
                raise MachineProblem(
                    f"the service did not start: {words_of_it[-500:]}", do="try `tunesmith serve` itself"
                )
            _wait_until_ready(event["url"], process)
            yield event["url"], process.pid
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=30)
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            _get(f"{url}/readyz")
            return
        time.sleep(0.1)
    raise MachineProblem("the service was never ready", where=url, do="try `tunesmith serve` itself")


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: bytes = answer.read()
    return found.decode("utf-8")


def _inputs(run: Path) -> list[Any]:
    """Give test rows that the run keeps for its report; a made-up text where it keeps none."""
    try:
        gain = json.loads((run / "gain.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["a text of some six words"]
    details = gain.get("after", {}).get("details", {})
    return [row["input"] for row in details.get("samples", ()) if row.get("input")] or ["a text of some six words"]


def _memory_mib(process: int) -> float:
    """Give what a process and its children hold for themselves, MiB: pages that they share count once."""
    import psutil

    total = 0.0
    with contextlib.suppress(psutil.Error):
        whole = psutil.Process(process)
        for one in (whole, *whole.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_full_info().uss
    return total / 2**20


def _processor_times() -> tuple[float, float]:
    """Give the seconds of all cores that a host took for others of its machines, and all that have passed."""
    import psutil

    times = psutil.cpu_times()
    return getattr(times, "steal", 0.0), sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)


def _remarks(found: dict[str, Any]) -> list[str]:
    """Say what failed, and where the machine was not ours alone."""
    said = []
    for stage in found["stages"]:
        if stage["failed"]:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in stage["failed"].items())
            said.append(f"{stage['name']}: failed: {kinds}")
        if stage["stolen_share"] > _MUCH_STOLEN:
            said.append(
                f"{stage['name']}: the host took {stage['stolen_share']:.0%} of the cores' time for other machines: "
                "times are longer than on a machine of one's own"
            )
    return said


def _table(found: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for title in ("answers/s", "p50", "p95", "p99", "rows", "refused", "p99", "failed"):
        table.add_column(title, justify="right")
    for stage in found["stages"]:
        times = [f"{1000 * stage[f'p{share}_seconds']:.0f} ms" for share in (50, 95, 99)]
        refused = (
            [f"{stage['refused']:,}", f"{1000 * stage['refused_p99_seconds']:.0f} ms"]
            if stage["refused"]
            else ["0", ""]
        )
        failed = f"{sum(stage['failed'].values()):,}"
        rows = f"{stage['rows_in_batch']:.1f}"
        table.add_row(stage["name"], f"{stage['per_second']:,.0f}", *times, rows, *refused, failed)
    memory = [stage["memory_mib"] for stage in found["stages"]]
    words = f"memory: {memory[0]:.0f} MiB after the first load, {memory[-1]:.0f} MiB after the last"
    return Group(table, *map(Text, [words, *_remarks(found)]))

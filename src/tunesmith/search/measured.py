"""One training run in a process of its own, so that its memory and CPU time are its own.

`python -m tunesmith.search.measured RECIPE OUT COST`. Events go to stdout, one JSON object a line. What the run cost
goes to the file COST, also when it is stopped: a run that goes on adds to what it had cost before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, write_json
from tunesmith.errors import Stopped, TunesmithError
from tunesmith.training.job import Job
from tunesmith.training.prepare import prepare, prepare_resume
from tunesmith.training.recipe import make_recipe, read_recipe
from tunesmith.types import Event, to_json


def main(arguments: Sequence[str]) -> int:
    """Train, or go on with training; give the exit code."""
    recipe, out, cost = (Path(argument) for argument in arguments)
    meter = _Meter(cost)
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    try:
        if (out / MANIFEST).is_file():  # a kill came between the last file and its cost
            meter.keep("done")
            return 0
        is_begun = (out / "plan.json").is_file()
        job = prepare_resume(out) if is_begun else prepare(make_recipe({**read_recipe(recipe), "out": str(out)}))
        meter.look_at(job)
        for event in job.run(lambda: asked[0] if asked else 0):
            meter.take(event)
            try:
                sys.stdout.write(json.dumps(to_json(event), ensure_ascii=False) + "\n")
                sys.stdout.flush()
            except BrokenPipeError:  # whoever asked for this run is gone
                asked.append(signal.SIGTERM)
                sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    except Stopped as stopped:
        meter.keep("stopped")
        return stopped.exit_code
    except TunesmithError as error:
        state = "declined" if not meter.is_training else "failed"
        meter.keep(state, what=error.what, where=error.where, do=error.do)
        return error.exit_code
    meter.keep("done")
    return 0


class _Meter:
    """Counts what this process costs, on top of what is in the file already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.started = time.perf_counter()
        self.training: tuple[float, float] | None = None  # wall and CPU seconds when training began
        self.trained = (0.0, 0.0)
        self.sizes: dict[str, int] = {}

    @property
    def is_training(self) -> bool:
        """Whether training has begun: what is refused before is declined, what goes wrong after has failed."""
        return self.training is not None

    def look_at(self, job: Job) -> None:
        """Count the parameters."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in job.model.parameters()]
        self.sizes = {"parameters": sum(size for size, _ in sizes)}
        self.sizes["trainable"] = sum(size for size, is_free in sizes if is_free) if job.plan.steps else 0

    def take(self, event: Event) -> None:
        """Note where training begins and ends: at the stages that the run names."""
        if event.kind == "stage":
            now = (time.perf_counter(), time.process_time())
            if self.training is not None and self.trained == (0.0, 0.0):
                self.trained = (now[0] - self.training[0], now[1] - self.training[1])
            self.training = now if event.text.startswith(("training", "nothing to train")) else self.training

    def keep(self, state: str, **more: str) -> None:
        """Write what all processes of this run have cost so far."""
        if self.training is not None and self.trained == (0.0, 0.0):
            self.trained = (time.perf_counter() - self.training[0], time.process_time() - self.training[1])
        spent = {
            "seconds": time.perf_counter() - self.started,
            "cpu_seconds": time.process_time(),
            "training_seconds": self.trained[0],
            "training_cpu_seconds": self.trained[1],
        }
        total = {name: round(value + float(self.earlier.get(name, 0.0)), 3) for name, value in spent.items()}
        memory = max(peak_memory_mib(), float(self.earlier.get("memory_mib", 0.0)))
        kept = {name: self.earlier[name] for name in ("parameters", "trainable") if name in self.earlier}
        write_json(self.path, {"state": state, **kept, **self.sizes, **total, "memory_mib": round(memory, 1), **more})


def peak_memory_mib() -> float:
    """Give the most memory that this process held at once, in MiB.

    Linux counts what the parent held into the resource usage of a process that it started; its own peak is in /proc.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

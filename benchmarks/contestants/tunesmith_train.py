"""Tunesmith by its public API: `tunesmith.train` with the recipe keys of the job; a budget as the command takes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import entry


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train as the job says. Steps are timed by the run's own events; evaluations and checkpoints are told apart."""
    import tunesmith

    clock = entry.Clock()
    watch = Watch(clock)
    recipe = {
        "valid": job["valid"],
        "test": job["test"],
        "task": job["kind"],
        "model": job["model"],
        "threads": job["threads"],
        "seed": job["seed"],
        "max_length": job["max_length"],
        "max_rejected": 0.05,
        "out": str(Path(job["scratch"]) / "run"),
        **{name: job[name] for name in ("epochs", "batch_size", "learning_rate") if job.get(name) is not None},
        **({"text": "text", "label": "label"} if job["kind"] == "text-classification" else {}),
        **job.get("recipe", {}),
    }
    try:
        run = _trained(job["train"], recipe, watch)
    except tunesmith.TunesmithError as error:
        raise entry.NotRun(" ".join(str(error).split())) from error
    scores = run.gain.after
    batch_size = int(run.plan.options["batch_size"])
    epochs = watch.steps / math.ceil(run.plan.data["train"] / batch_size)
    return {
        "timed_cpu_seconds": watch.cpu["step"],
        "timed_wall_seconds": watch.wall["step"],
        "tokens": job["tokens_per_epoch"] * epochs,
        "steps": watch.steps,
        "rows": run.plan.data["train"],
        "test": scores.value,
        "test_last": scores.value,
        "began_cpu_seconds": watch.began_cpu,  # imports, data, the model before
        "curve": watch.curve,
        "cpu_by_kind": watch.cpu,
        "command_cpu_seconds": clock.cpu,
    }


def _trained(data: str, recipe: dict[str, Any], watch: Watch) -> Any:
    import tunesmith

    if "budget" not in recipe:
        return tunesmith.train(data, on_event=watch.take, **recipe)
    from tunesmith.training.anytime import prepare_anytime
    from tunesmith.training.recipe import make_recipe

    job = prepare_anytime(make_recipe({"data": data, **recipe}))
    for event in job.run():
        watch.take(event)
    return job.bundle


class Watch:
    """Charges the time before each event to its kind: step, evaluation, checkpoint, stage."""

    def __init__(self, clock: entry.Clock) -> None:
        self.clock, self.steps = clock, 0
        self.cpu = dict.fromkeys(("stage", "step", "evaluation", "checkpoint", "note", "end"), 0.0)
        self.wall = dict(self.cpu)
        self.curve: list[tuple[float, float]] = []  # CPU s since the process began, score
        self.began_cpu = 0.0
        self._cpu = self._wall = 0.0

    def take(self, event: Any) -> None:
        cpu, wall = self.clock.cpu, self.clock.wall
        self.cpu[event.kind] += cpu - self._cpu
        self.wall[event.kind] += wall - self._wall
        if event.kind == "step" and not self.steps:
            self.began_cpu = self.clock.process_cpu - (cpu - self._cpu)
        self.steps = max(self.steps, event.step)
        self._cpu, self._wall = cpu, wall
        if event.kind == "evaluation":
            score = event.values.get("accuracy", event.values.get("f1"))
            if score is not None:
                self.curve.append((self.clock.process_cpu, float(score)))


if __name__ == "__main__":
    entry.run(train)

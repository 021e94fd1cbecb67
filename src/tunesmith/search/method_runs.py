"""One run for each method, in a process of its own; what is finished is taken as it is, what is not goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle.atomic import MANIFEST, write_file, write_json
from tunesmith.bundle.delta import FOLDER
from tunesmith.bundle.load import load
from tunesmith.data import read
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.models.find import find_base
from tunesmith.training.recipe import Recipe, make_recipe, read_recipe, write_recipe
from tunesmith.types import Event, Scores

_LEARNT = ("adapter_model.safetensors", "delta.safetensors")
_ELSEWHERE = ("data", "valid", "test", "out", "model", "threads")  # keys that are compared by what they lead to
_COUNTED = ("training_seconds", "training_cpu_seconds", "seconds", "cpu_seconds", "memory_mib")

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class MethodRun:
    """One method with one seed: what it reached and what it cost."""

    method: str
    seed: int
    state: str  # done, declined, failed
    path: Path
    reason: str = ""  # why it was declined or failed, and what to do
    scores: Scores | None = None  # on the test rows
    trainable: int = 0  # parameters that training may change
    parameters: int = 0  # in all
    training_seconds: float = 0.0
    training_cpu_seconds: float = 0.0
    seconds: float = 0.0  # of the whole process: with reading, baselines and measuring
    cpu_seconds: float = 0.0
    memory_mib: float = 0.0  # the most that the process held at once
    bundle_bytes: int = 0
    learnt_bytes: int | None = None  # of what was learnt, apart from the base; None where it is not apart


def in_words(run: MethodRun) -> str:
    """Say how a run ended."""
    if run.scores is None:
        return f"{run.state}: {run.reason}"
    return f"{run.scores.main.replace('_', ' ')} {run.scores.value:.3f}, trained in {run.training_seconds:.1f} s"


def train_method(
    recipe: Recipe, folder: Path, name: str, on_event: OnEvent, stop_signal: Callable[[], int]
) -> MethodRun:
    """Give the run of one method: as it is where it is finished, else trained in a process of its own."""
    out, cost, file = folder / name, folder / "costs" / f"{name}.json", folder / "recipes" / f"{name}.yaml"
    if (out / "plan.json").is_file():
        _demand_same(recipe, out)
    if not ((out / MANIFEST).is_file() and cost.is_file() and _read(cost).get("state") == "done"):
        write_file(file, _with_whole_paths(recipe))
        _train(folder, (file, out, cost), on_event, stop_signal)
    found = _read(cost)
    if found["state"] != "done":
        reason = f"{found.get('what', 'it was stopped')}. Do: {found.get('do', 'run this again')}"
        return MethodRun(recipe.method, recipe.seed, str(found["state"]), out, reason)
    bundle = load(out, verify=False)
    numbers = {key: found[key] for key in (*_COUNTED, "trainable", "parameters") if key in found}
    return MethodRun(
        recipe.method,
        recipe.seed,
        "done",
        out,
        scores=bundle.gain.after,
        bundle_bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
        learnt_bytes=_learnt_bytes(out),
        **numbers,
    )


def _train(folder: Path, paths: tuple[Path, Path, Path], on_event: OnEvent, stop_signal: Callable[[], int]) -> None:
    """Train in a process of its own and pass its events on.

    Raises:
        Stopped: A signal came; the run is saved.
        PlanProblem: The process died without a word.
    """
    command = [sys.executable, "-m", "tunesmith.search.measured", *map(str, paths)]
    words = folder / "costs" / f"{paths[2].stem}.log"
    with words.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8")
        number = 0
        with _ended(process):
            assert process.stdout is not None
            for line in process.stdout:
                with contextlib.suppress(ValueError, TypeError):
                    on_event(Event(**json.loads(line)))
                if not number and (number := stop_signal()):
                    process.terminate()
            process.wait()
    number = number or stop_signal()
    if number:
        raise Stopped(f"stopped by signal {number}", where=str(folder), signal_number=number)
    if process.returncode != 0 and _read(paths[2]).get("state") not in {"declined", "failed"}:
        last = (words.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1]
        killed = (
            "it was killed, perhaps for want of memory" if process.returncode < 0 else f"its last words: {last:.200}"
        )
        write_json(paths[2], {"state": "failed", "what": f"its process died ({killed})", "do": f"see {words}"})


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """See to it that no process is left, however this ends."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _with_whole_paths(recipe: Recipe) -> str:
    """Give the recipe as YAML that can be run from any folder."""
    whole: dict[str, Any] = {}
    for name in ("data", "valid", "test"):
        if path := getattr(recipe, name):
            whole[name] = str(Path(path).absolute())
    if (model := Path(recipe.model).expanduser()).is_dir():
        whole["model"] = str(model.absolute())
    return write_recipe(dataclasses.replace(recipe, **whole))


def _demand_same(recipe: Recipe, out: Path) -> None:
    """Check that a run in the folder is of this recipe, these files and this base model.

    Raises:
        PlanProblem: It is not.
    """
    kept = make_recipe(read_recipe(out / "recipe.yaml"), where=str(out / "recipe.yaml"))
    changed = [name for name, value in vars(recipe).items() if name not in _ELSEWHERE and getattr(kept, name) != value]
    plan = _read(out / "plan.json")
    files = {part: found["sha256"] for part, found in plan["data"]["files"].items()}
    now = {part: read(path).sha256 for part in ("data", "valid", "test") if (path := getattr(recipe, part))}
    changed += [part for part, sha256 in now.items() if files.get(part) != sha256]
    changed += ["model"] if find_base(recipe.model).sha256 != plan["base_sha256"] else []
    if changed:
        raise PlanProblem(
            f"the folder holds a run with other settings: {', '.join(changed[:5])}",
            where=str(out),
            do="choose another --out, or remove that folder",
        )


def _learnt_bytes(out: Path) -> int | None:
    """Give the size of what was learnt apart from the base, where it lies apart."""
    files = [path for place in (out, out / FOLDER) for name in _LEARNT if (path := place / name).is_file()]
    return sum(path.stat().st_size for path in files) if files else None

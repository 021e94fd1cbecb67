"""From a recipe to a sweep that is ready to start: one run is prepared for each method, and all trials share it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from tunesmith.bundle.atomic import write_file, write_json
from tunesmith.errors import PlanProblem
from tunesmith.methods import find_method, space_of
from tunesmith.search import study as database
from tunesmith.search.found import Found, SweepOptions
from tunesmith.search.space import METHOD, SearchSpace, make_space, read_space
from tunesmith.search.sweep import OnEvent, Sweep, whole_paths
from tunesmith.training import folder as run_folder
from tunesmith.training.job import Job
from tunesmith.training.memo import Memo
from tunesmith.training.prepare import prepare
from tunesmith.training.recipe import AUTO, Recipe, canonical, make_recipe, read_recipe

_SETTINGS, _RECIPE, _FORMAT = "sweep.json", "recipe.yaml", 1


def prepare_sweep(recipe: Recipe, options: SweepOptions | None = None) -> Sweep:
    """Read the rows, find the base model, and settle what varies; `recipe.out` is the sweep's folder.

    A folder that holds the same sweep goes on where that stopped.

    Raises:
        DataProblem, PlanProblem, ModelProblem, MissingExtra: As for training, and for spaces that make no sense.
    """
    options, memo = options or SweepOptions(), Memo()
    _demand_sense(recipe, options)
    if recipe.threads == AUTO:  # all trials alike, whichever process makes them
        recipe = dataclasses.replace(recipe, threads=max(1, torch.get_num_threads() // max(1, options.jobs)))
    out, recipe = recipe.out, dataclasses.replace(recipe, out="")
    jobs: dict[str, Job] = {}
    for method in options.methods or (recipe.method,):
        job = prepare(dataclasses.replace(recipe, method=method), memo=memo)
        jobs[job.plan.method] = job  # `auto` has its name now
    first = next(iter(jobs.values()))
    space = make_space(
        read_space(options.space),
        {method: space_of(find_method(method)) for method in jobs},
        {method: job.plan.options for method, job in jobs.items()},
        sizes={"blocks": len(first.anatomy.blocks), "hidden": first.anatomy.hidden},
    )
    name = _study_name(recipe, first, space)
    folder = _folder(out, recipe.data, name)
    sweep = Sweep(
        recipe=dataclasses.replace(first.recipe, out=""),  # `auto` has become a method, and may have set its options
        options=options,
        folder=folder,
        url=options.database or f"sqlite:///{(folder / 'trials.db').absolute()}",
        name=name,
        space=space,
        metric=str(first.plan.options["select_by"]),
        most_epochs=_most_epochs(space, jobs),
        memo=memo,
        job=first,
        remarks=list(first.remarks),
    )
    _write_settings(sweep)
    return sweep


def prepare_sweep_again(folder: str | Path, options: SweepOptions) -> Sweep:
    """Make ready to go on with the sweep of a folder; trials, budget, jobs and engine may be others than before.

    Raises:
        PlanProblem: There is no sweep, or its database needs its password again.
    """
    path = Path(folder).expanduser()
    settings = path / _SETTINGS
    if not settings.is_file():
        raise PlanProblem(
            "there is no sweep to go on with: sweep.json is missing",
            where=str(path),
            do="give the folder that the stopped command named, e.g. tunesmith sweep --resume runs/reviews-sweep",
        )
    kept = json.loads(settings.read_text(encoding="utf-8"))
    url = options.database or str(kept["database"])
    if ":***@" in url:
        raise PlanProblem(
            "the password of the sweep's database is not kept",
            where=str(settings),
            do="give it again: tunesmith sweep --resume ... --database URL",
        )
    recipe = make_recipe({**read_recipe(path / _RECIPE), "out": str(path)}, where=str(path / _RECIPE))
    methods, space = tuple(kept["methods"]), tuple(kept["asked"])
    return prepare_sweep(recipe, dataclasses.replace(options, methods=methods, space=space, database=url))


def _most_epochs(space: SearchSpace, jobs: dict[str, Job]) -> float:
    """Give the longest training that a trial may have, in passes over the rows."""
    varied = [
        entry.distribution for found in space.entries.values() for entry in found.values() if entry.key == "epochs"
    ]
    ends = [float(getattr(each, "high", 0) or max(getattr(each, "choices", (0,)))) for each in varied]
    return max([*ends, *(float(job.plan.options["epochs"]) for job in jobs.values())])


def _demand_sense(recipe: Recipe, options: SweepOptions) -> None:
    if recipe.budget:
        raise PlanProblem(
            "the recipe has a budget of its own, and how far a trial gets must not hang on the clock",
            where="budget",
            do="leave it out of the recipe, and give the sweep one: --budget 20m",
        )
    if options.trials < 1 or options.jobs < 0 or options.budget_seconds <= 0:
        raise PlanProblem(
            f"{options.trials} trials in {options.budget_seconds:g} s by {options.jobs} processes leave nothing to do",
            where="command line",
            do="give at least one of each: --trials 20 --budget 20m --jobs 1",
        )
    if options.engine not in {"local", "ray"}:
        raise PlanProblem(f"no engine '{options.engine}'", where="--engine", do="use one of: local, ray")


def _study_name(recipe: Recipe, job: Job, space: SearchSpace) -> str:
    """Name the study after all that its trials have in common, so that only trials of one question meet in it."""
    plan = job.plan
    varied = {METHOD, *(entry.key for found in space.entries.values() for entry in found.values())}
    names = {"data", "valid", "test", "out", "model", "track", "threads"}  # said by fingerprint and hash, or no matter
    fixed = {name: value for name, value in vars(recipe).items() if name not in names | varied}
    content = [plan.data["fingerprint"], plan.base_sha256, plan.task, list(plan.labels), fixed, space.described()]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return f"{_stem(recipe.data)}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _stem(data: str) -> str:
    name = Path(data).name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix) or "run"


def _folder(out: str, data: str, name: str) -> Path:
    """Make the sweep's folder, or take the one that holds this very sweep."""
    path = Path(out).expanduser() if out else None
    if path is not None and (path / _SETTINGS).is_file():
        kept = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
        if kept["study"] != name:
            raise PlanProblem(
                "this folder holds another sweep: other rows, another base model, recipe or space",
                where=str(path),
                do=f"choose another --out, or go on with that one: tunesmith sweep --resume {path}",
            )
        return path
    return run_folder.new_folder(out, f"{_stem(data)}-sweep", "sweep")


def _write_settings(sweep: Sweep) -> None:
    """Keep what is searched; of a database's URL all but the password."""
    (sweep.folder / "trials").mkdir(exist_ok=True)
    url = "" if not sweep.options.database else database.shown(sweep.url)
    content = {
        "format": _FORMAT,
        "study": sweep.name,
        "methods": sweep.space.methods,
        "asked": sweep.options.space,
        "space": sweep.space.described(),
        "database": url,
        "metric": sweep.metric,
    }
    if not (sweep.folder / _SETTINGS).is_file():
        write_file(sweep.folder / _RECIPE, whole_paths(sweep.recipe, sweep.job))
        write_json(sweep.folder / _SETTINGS, content)


def sweep(
    data: str | Path,
    *,
    on_event: OnEvent | None = None,
    search: SweepOptions | None = None,
    **options: Any,
) -> Found:
    """Search the settings that suit the rows of a file, and finish the best run.

    Args:
        data: A file of labelled rows, or a recipe.
        on_event: Called with each Event as it happens; "trial" events say what a trial came to.
        search: Trials, time, methods, space, database.
        options: Recipe keys that all trials have in common.

    Returns:
        `found.best`, `found.trials`, `found.importance`, and the finished run as `found.bundle`.
    """
    is_recipe = Path(data).suffix in {".yaml", ".yml"}
    values = {**read_recipe(Path(data)), **canonical(options)} if is_recipe else {"data": str(data), **options}
    return prepare_sweep(make_recipe(values), search).run(on_event=on_event or (lambda _: None))

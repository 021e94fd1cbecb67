"""Search the settings that suit the data: many short trainings, chosen by validation rows; then finish the best one.

DATA is a file of labelled rows, a folder saved by the datasets library, or a recipe (.yaml) that all trials start from.
What varies is what the method declares, or what --space names: KEY, KEY=LOW..HIGH or KEY=A,B,C.
A sweep that was stopped or killed goes on with --resume, or with the same command and the same --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.cli.train import add_recipe_arguments, recipe_values
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.training.recipe import make_recipe
from tunesmith.training.recipe_values import read_seconds

if TYPE_CHECKING:
    from tunesmith.search.found import Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe_arguments(parser, leave_out=("budget",))
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="trials in all, also over several processes"
    )
    parser.add_argument(
        "--budget", default="", metavar="TIME", help="search no longer than this, e.g. 90s, 20m or 1h30m"
    )
    parser.add_argument("--methods", default="", metavar="A,B", help="let trials choose among these methods")
    parser.add_argument(
        "--space", nargs="+", action="extend", default=[], metavar="KEY", help="what varies (see above)"
    )
    parser.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="SQLAlchemy URL that several machines share (default: a SQLite file)",
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes that search at once (default: 1)")
    parser.add_argument("--engine", default="local", metavar="X", help="local, or ray: as tasks of a Ray cluster")
    parser.add_argument("--resume", metavar="SWEEP", help="go on with the sweep in this folder")


def run(options: argparse.Namespace, output: Output) -> int:
    """Search with a progress line, print what was found and what the test rows say of it."""
    values = recipe_values(argparse.Namespace(**{**vars(options), "budget": None}))
    output.say("reading the data and the base model ...")
    from tunesmith.cli.progress import stop_signals
    from tunesmith.cli.search_progress import SearchProgress
    from tunesmith.cli.search_tables import sweep_lines
    from tunesmith.cli.tables import notice_lines
    from tunesmith.search.found import SweepOptions
    from tunesmith.search.prepare import prepare_sweep, prepare_sweep_again

    asked = SweepOptions(
        trials=options.trials,
        budget_seconds=read_seconds(options.budget, "--budget") if options.budget else float("inf"),
        methods=tuple(name.strip() for name in options.methods.split(",") if name.strip()),
        space=tuple(options.space),
        database=options.database,
        jobs=options.jobs,
        engine=options.engine,
    )
    if options.resume:
        _demand_alone(options, values)
        sweep = prepare_sweep_again(options.resume, asked)
    else:
        sweep = prepare_sweep(make_recipe(values), asked)
    seen = dataclasses.replace(sweep.job.intake.inspection, inferred=())  # that is told with what varies
    if seen.problems or seen.rejected:
        output.show(notice_lines(seen))
    for line in _introduction(sweep):
        output.say(line)
    progress = SearchProgress(asked, sweep.metric, is_quiet=output.is_quiet)
    with stop_signals() as stop_signal:
        try:
            found = sweep.run(on_event=progress.take, stop_signal=stop_signal)
        except Stopped as stopped:
            progress.close()
            stopped.do = f"go on with: tunesmith sweep --resume {shlex.quote(str(sweep.folder))}"
            if (sweep.folder / "best.yaml").is_file():
                stopped.do += f"; the best recipe so far is {sweep.folder / 'best.yaml'}"
            raise
        finally:
            progress.close()
    output.document(_document(found))
    output.show(sweep_lines(found))
    for line in _last_lines(found):
        output.say(line)
    return 0


def _demand_alone(options: argparse.Namespace, values: dict[str, Any]) -> None:
    if options.data or values or options.methods or options.space:
        raise PlanProblem(
            "--resume goes on with a sweep as it was set up",
            where="command line",
            do=f"tunesmith sweep --resume {options.resume}, with no other options than --trials, --budget, --database, "
            "--jobs and --engine",
        )


def _introduction(sweep: Any) -> list[str]:
    """Say what will be searched, before the first trial."""
    from tunesmith.bundle.report import metric_name

    plan = sweep.job.plan
    rows = plan.data
    parts = f"{rows['train']:,} train, {rows['valid']:,} valid (these choose), {rows['test']:,} test (the best only)"
    lines = [f"rows      {parts}"]
    for method, found in sweep.space.described().items():
        lines.append(f"{method} varies {', '.join(found)}")
    lines.append(f"chosen by {metric_name(sweep.metric)}")
    lines += [*sweep.job.intake.inferred, *(f"note: {remark}" for remark in sweep.remarks)]
    return lines


def _document(found: Found) -> dict[str, Any]:
    """Give the JSON document: what was found, and the events of its trials."""
    from tunesmith.training.folder import Log

    content = {name: value for name, value in vars(found).items() if name != "bundle"}
    gain = None if found.bundle is None else found.bundle.gain
    return {**content, "events": Log(found.folder).read(), "run": found.bundle and found.bundle.path, "gain": gain}


def _last_lines(found: Found) -> list[str]:
    assert found.bundle is not None
    folder = shlex.quote(str(found.folder))
    return [
        "",
        f"run      {found.bundle.path}",
        f"report   {found.folder / 'report.html'}",
        f"recipe   tunesmith train {folder}/best.yaml",
        f"next     tunesmith sweep --resume {folder} --trials {2 * len(found.trials)}",
    ]

"""Adapt a base model to labelled rows, and measure what that gained.

DATA is a file of labelled rows (CSV, TSV, JSONL, Parquet, also .gz), a folder saved by the datasets library, or a
recipe (.yaml). Options override the recipe. A recipe with a list `tasks` trains several tasks on one body.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem
from tunesmith.training.launch import demand_processes, launch
from tunesmith.training.multi_task.tasks_file import FILE, is_tasks_file
from tunesmith.training.processes import is_launched, process_rank
from tunesmith.training.recipe import ALIASES, keys, make_recipe, read_recipe, read_sets
from tunesmith.types import to_json

if TYPE_CHECKING:
    from tunesmith.training.anytime import Anytime
    from tunesmith.training.job import Job
    from tunesmith.training.self_training import SelfTraining

# fmt: off
FLAGS = (
    "task", "columns", "text", "label", "valid", "test", "model", "method", "budget", "epochs", "batch_size",
    "learning_rate", "max_length", "abstain_at", "max_rejected", "seed", "sharding", "track", "out",
)
# fmt: on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: the recipe's, and what is this command's own."""
    add_recipe_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan with its price, and stop")
    parser.add_argument("--profile", action="store_true", help="show at the end where the time went")
    parser.add_argument("--processes", default="1", metavar="N", help="train in N processes of this machine at once")
    parser.add_argument("--resume", metavar="RUN", help="go on with an unfinished run from its newest checkpoint")


def add_recipe_arguments(parser: argparse.ArgumentParser, leave_out: Collection[str] = ()) -> None:
    """Declare the recipe keys that matter most, and `--set` for all others; some commands mean one otherwise."""
    meanings = {item.name: str(item.metadata["help"]) for item in keys()}
    parser.add_argument("data", nargs="?", help="labelled rows, or a recipe")
    for name in FLAGS:
        if name in leave_out:
            continue
        flag = "--" + name.replace("_", "-")
        meaning = meanings[name].replace("%", "%%")
        parser.add_argument(flag, dest=name, metavar="X", help=meaning)
    for other, name in ALIASES.items():  # Transformers' own names; too many for the help text
        if name in FLAGS:
            flag = "--" + other.replace("_", "-")
            parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    others = ", ".join(sorted(set(meanings) - set(FLAGS) - {"data"}))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"any other key: {others}")


def run(options: argparse.Namespace, output: Output) -> int:
    """Prepare, print the plan, train with a progress line, print what was gained."""
    if is_tasks_file(options.data or "") or (options.resume and (Path(options.resume) / FILE).is_file()):
        from tunesmith.cli.train_together import run_together

        return run_together(options, given_values(options), output)
    values = recipe_values(options)
    processes = demand_processes(options.processes)
    if processes > 1 and not options.dry_run and not is_launched():
        launch(options.command_line, processes=processes)
        return 0
    if process_rank() > 0:
        output.is_quiet = True
    output.say("reading the data and the base model ...")
    from tunesmith.cli.progress import work
    from tunesmith.training.track import demand_tracker
    from tunesmith.training.train import ready, ready_again

    if options.resume:
        if options.data or values:
            raise PlanProblem(
                "--resume goes on with a run as it was planned",
                where="command line",
                do=f"tunesmith train --resume {options.resume}, without other options",
            )
        job: Job | Anytime | SelfTraining = ready_again(options.resume)
    else:
        recipe = make_recipe(values)
        if recipe.track:
            demand_tracker(recipe.track)
        job = ready(recipe)
    _print_plan(job, output)
    if options.dry_run:
        output.document({"run": None, "plan": job.plan, "data": job.intake.inspection})
        return 0
    work(job, output, resume="tunesmith train --resume")
    if job.bundle is not None:  # in a run of several processes only the first one writes and speaks
        _print_gain(job, output, has_profile=options.profile)
    return 0


def recipe_values(options: argparse.Namespace) -> dict[str, Any]:
    """Give the recipe's keys: from the file, then from `--set`, then from the flags."""
    is_recipe = options.data and Path(options.data).suffix in {".yaml", ".yml"}
    values = read_recipe(Path(options.data)) if is_recipe else {"data": options.data} if options.data else {}
    return values | given_values(options)


def given_values(options: argparse.Namespace) -> dict[str, Any]:
    """Give the keys that stand on the command line: those of `--set`, then the flags."""
    flags = {name: value for name in FLAGS if (value := getattr(options, name, None)) is not None}
    return read_sets(options.set) | flags


def _print_plan(job: Job | Anytime | SelfTraining, output: Output) -> None:
    from tunesmith.cli.tables import plan_lines

    output.show(plan_lines(job.plan, job.intake.inspection, job.intake.inferred, base=job.base.name))
    for remark in job.remarks:
        output.say(f"note: {remark}")


def _print_gain(job: Job | Anytime | SelfTraining, output: Output, *, has_profile: bool) -> None:
    from tunesmith.cli.tables import abstention_line, gain_table, profile_table, speed_line

    assert job.bundle is not None
    gain, folder = job.bundle.gain, job.bundle.path
    speed = job.bundle.speed
    result = {"run": folder, "plan": job.bundle.plan, "gain": gain, "data": job.intake.inspection}
    output.document({**result, "speed": speed} if has_profile else result)
    output.say()
    output.show(gain_table(gain))
    output.say()
    silence = abstention_line(gain.after, len(job.intake.splits.valid))
    for sentence in filter(None, (gain.verdict, *gain.advice, silence)):
        output.show(sentence)
    output.say()
    if has_profile:
        output.show(profile_table(speed))
    if speed.get("tokens_per_second"):
        output.say(f"speed    {speed_line(speed, job.plan.threads)}")
    fields, forms = job.intake.splits.test[0].fields, job.intake.task.forms
    roles = next((list(form.inputs) for form in forms if set(form.inputs) <= set(fields)), list(fields))
    asked = {role: to_json(fields[role]) for role in roles}
    text = str(asked["text"]) if asked.keys() == {"text"} else json.dumps(asked, ensure_ascii=False)
    text = "".join(character for character in " ".join(text.split()) if character.isprintable())
    is_short = len(text) <= 40 or text.startswith("{")
    shown = shlex.quote(text if is_short else text[:39] + "…")
    output.say(f"run      {folder}")
    output.say(f"report   {folder / 'report.html'}")
    output.say(f"next     tunesmith predict {shlex.quote(str(folder))} {shown}")

"""`tunesmith train tasks.yaml`: several tasks on one body; the plan before, and what each task came to after."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem
from tunesmith.training.multi_task.tasks_file import read_tasks_file

if TYPE_CHECKING:
    from tunesmith.training.multi_task.run import Together


def run_together(options: argparse.Namespace, given: Mapping[str, Any], output: Output) -> int:
    """Prepare, print the plan, train, print what each task came to.

    Args:
        options: Of `tunesmith train`.
        given: Recipe keys of the command line; they go before those of the file.
        output: Where words go.
    """
    output.say("reading the data and the base model ...")
    from tunesmith.cli.progress import work
    from tunesmith.training.multi_task.run import prepare_together, resume_together

    if options.resume:
        if options.data or given:
            raise PlanProblem(
                "--resume goes on with a run as it was planned",
                where="command line",
                do=f"tunesmith train --resume {options.resume}, without other options",
            )
        together = resume_together(options.resume)
    else:
        together = prepare_together(read_tasks_file(options.data, given))
    _print_plan(together, output)
    if options.dry_run:
        output.document({"run": None, "plan": together.plan})
        return 0
    work(together, output, resume="tunesmith train --resume")
    _print_outcomes(together, output)
    return 0


def _print_plan(together: Together, output: Output) -> None:
    from tunesmith.cli.tables import plain_table
    from tunesmith.training.multi_task.mixture import shares
    from tunesmith.training.multi_task.tasks_file import POWERS

    plan = together.plan
    table = plain_table("", "train", "valid", "test", "steps")
    parts = shares([len(job.examples["train"]) for job in together.jobs.values()], POWERS[together.file.sampling])
    for (name, job), part in zip(together.jobs.items(), parts, strict=True):
        rows = [f"{len(getattr(job.intake.splits, each)):,}" for each in ("train", "valid", "test")]
        table.add_row(f"{name} ({job.plan.task})", *rows, f"{part:.0%}")
    output.show(table)
    output.say(
        f"one body: {plan.base}, method {plan.method}, {plan.steps:,} steps of {plan.options['batch_size']} rows, "
        f"rate {plan.options['learning_rate']:.1e}, sampling {together.file.sampling}, about "
        f"{plan.expected_seconds:.0f} s" + (", then each task alone" if together.file.alone else "")
    )
    for remark in together.remarks:
        output.say(f"note: {remark}")


def _print_outcomes(together: Together, output: Output) -> None:
    from tunesmith.bundle.report import amount, amount_span, metric_name, points
    from tunesmith.cli.tables import plain_table
    from tunesmith.training.multi_task.report import verdict_of

    table = plain_table("", "metric", "together", "95% interval", "alone", "difference", numbers_from=2)
    for each in together.outcomes:
        main = each.scores.main
        alone = amount(main, each.alone.value) if each.alone else ""
        difference = points(each.difference) if each.difference else ""
        shown = (amount(main, each.scores.value), amount_span(main, each.scores.interval))
        table.add_row(each.name, metric_name(main), *shown, alone, difference)
    output.document(
        {"run": together.folder, "plan": together.plan, "tasks": [one.document for one in together.outcomes]}
    )
    output.say()
    output.show(table)
    output.say()
    for each in together.outcomes:
        output.show(f"{each.name}: {each.bundle.gain.verdict}")
    output.show(verdict_of(together.outcomes))
    output.say()
    assert together.folder is not None
    first = together.folder / together.outcomes[0].name
    output.say(f"runs     {', '.join(str(together.folder / each.name) for each in together.outcomes)}")
    output.say(f"report   {together.folder / 'report.html'}")
    output.say(f'next     tunesmith predict {shlex.quote(str(first))} "some text"')

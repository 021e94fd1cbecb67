"""List the tasks: what each reads, what it answers with, by what it is measured."""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("task", nargs="?", default="", help="show this one alone, with its other names and its options")


def run(options: argparse.Namespace, output: Output) -> int:
    """Print the catalogue, or one entry of it."""
    from tunesmith.cli.tables import task_lines, tasks_table
    from tunesmith.tasks import ALIASES, TASKS, find_task

    tasks = {name: find_task(name) for name in TASKS}
    others = {name: [alias for alias, meant in ALIASES.items() if meant == name] for name in TASKS}
    if options.task:
        task = find_task(options.task)
        output.show(task_lines(task, others.get(task.name, [])))
        tasks = {task.name: task}
    else:
        output.show(tasks_table(tasks))
    output.document(
        [
            {
                "name": name,
                "aliases": others.get(name, []),
                "forms": [
                    {"inputs": form.inputs, "targets": form.targets, "optional": form.optional} for form in task.forms
                ],
                "metrics": task.metrics,
                "main": task.main,
                "options": task.options,
            }
            for name, task in tasks.items()
        ]
    )
    return 0

"""Say what is in a data file and what is wrong with it. Give more files to find texts that stand in both."""

from __future__ import annotations

import argparse
import dataclasses

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("data", help="CSV, TSV, JSONL or Parquet (also .gz), or a folder saved by the datasets library")
    parser.add_argument("others", nargs="*", help="files in which no text of the first should stand (valid, test)")
    parser.add_argument("--task", default="auto", help="what the rows are for (default: told from the columns)")
    parser.add_argument("--text", default="", help="column that holds the text (default: inferred)")
    parser.add_argument("--label", default="", help="column that holds the label (default: inferred)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. question=q,context=c")


def run(options: argparse.Namespace, output: Output) -> int:
    """Inspect and print; 0 also when rows are unusable: finding them is what was asked."""
    from tunesmith import data
    from tunesmith.cli.tables import inspection_lines
    from tunesmith.tasks import find_task, guess_task

    given = read_roles(options.columns, text=options.text, label=options.label)
    name = guess_task(data.read(options.data), given) if options.task == "auto" else options.task
    found = data.inspect(options.data, layout=find_task(name), given=given, others=options.others)
    if options.task == "auto":
        guess = f"task is {name} (by the columns {', '.join(found.columns)}; override with --task)"
        found = dataclasses.replace(found, inferred=(guess, *found.inferred))
    output.document(found)
    output.show(inspection_lines(found))
    return 0

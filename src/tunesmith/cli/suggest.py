"""Choose the rows that are worth a label next, and see what choosing brings.

  tunesmith suggest RUN unlabelled.csv -n 50 --out next.csv
  tunesmith suggest --simulate reviews.csv --rounds 6 --per-round 50

The first answers the rows of a file and gives those that the run is least sure of and that are unlike each other; the
file is streamed, and rows that are labelled already are left out. The second hides the labels of a labelled file and
reveals them round by round, once for chosen rows and once for rows drawn by chance.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles
from tunesmith.errors import PlanProblem, Stopped
from tunesmith.types import Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", nargs="?", help="run folder")
    parser.add_argument("file", nargs="?", help="rows without labels")
    parser.add_argument("-n", "--number", type=int, default=50, metavar="N", help="rows to choose (default: 50)")
    meaning = "how: uncertainty (smallest margins), diversity (unlike all that is labelled), both (default)"
    parser.add_argument("--by", default="both", metavar="X", help=meaning)
    parser.add_argument("--out", help="file to write: .csv, .tsv or .jsonl; with --simulate the folder")
    parser.add_argument("--force", action="store_true", help="write over --out if it is there")
    meaning = "rows that were labelled since the run; may be given several times"
    parser.add_argument("--labelled", action="append", default=[], metavar="FILE", help=meaning)
    parser.add_argument("--text", default="", help="column that holds the text (default: as in training)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. text_a=first,text_b=second")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    group = parser.add_argument_group("learning curve of chosen rows against chance")
    group.add_argument("--simulate", metavar="DATA", help="labelled rows, whose labels are hidden and revealed")
    group.add_argument("--rounds", type=int, default=6, metavar="N", help="how often rows are added (default: 6)")
    group.add_argument("--per-round", type=int, default=50, metavar="N", help="rows of each round (default: 50)")
    group.add_argument("--start", type=int, metavar="N", help="rows to begin with (default: as many as of a round)")
    group.add_argument("--seeds", type=int, default=3, metavar="N", help="how often all is repeated (default: 3)")
    meaning = (
        "recipe keys of the runs, e.g. model=FOLDER, top_layers=2, test=FILE (default: method top-layers, 1 block)"
    )
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=meaning)


def run(options: argparse.Namespace, output: Output) -> int:
    """Choose rows and show or write them; or draw the learning curve."""
    if options.simulate:
        return _simulate(options, output)
    if not options.run or not options.file:
        do = "tunesmith suggest RUN unlabelled.csv -n 50, or --simulate DATA"
        raise PlanProblem("a run and a file are needed", where="command line", do=do)
    from tunesmith.bundle.suggest import suggest
    from tunesmith.bundle.suggestions_file import added_columns, demand_target, write_suggestions
    from tunesmith.cli.suggest_tables import suggestion_lines

    if options.out:
        demand_target(Path(options.out), options.file, may_overwrite=options.force)
    found = suggest(
        options.run,
        options.file,
        count=options.number,
        by=options.by,
        columns=read_roles(options.columns, text=options.text),
        labelled=options.labelled,
        seed=options.seed,
        on_rows=_count if sys.stderr.isatty() and not output.is_quiet else lambda _: None,
    )
    for words in found.remarks:
        output.remark(words)
    if options.out:
        write_suggestions(found, options.out, may_overwrite=options.force)
    output.document({**vars(found), "out": options.out})
    output.show(suggestion_lines(found, is_written=bool(options.out)))
    if options.out:
        output.say(f"written  {options.out} (added: {', '.join(added_columns(found).values())})")
        output.say(f"next     fill in {found.label_column!r}, add the rows to your data, and train again")
    else:
        output.say(f"next     tunesmith suggest {shlex.quote(options.run)} {shlex.quote(options.file)} --out next.csv")
    return 0


def _simulate(options: argparse.Namespace, output: Output) -> int:
    """Draw the learning curve of chosen rows against rows by chance."""
    if options.run:
        do = "leave out the run: each round trains one of its own"
        raise PlanProblem("--simulate takes a labelled file alone", where="command line", do=do)
    from tunesmith.cli.progress import stop_signals
    from tunesmith.cli.suggest_tables import curve_lines
    from tunesmith.search.label_curve import simulate
    from tunesmith.training.recipe import read_sets

    output.say("reading the data and the base model ...")
    with stop_signals() as stop_signal:
        try:
            found = simulate(
                options.simulate,
                by=options.by,
                rounds=options.rounds,
                per_round=options.per_round,
                start=options.start,
                seeds=options.seeds,
                out=options.out or "",
                on_event=(lambda _: None) if output.is_quiet else _show,
                stop_signal=stop_signal,
                **{"seed": options.seed, "columns": options.columns, "text": options.text, **read_sets(options.set)},
            )
        except Stopped as stopped:
            stopped.where, stopped.do = options.simulate, "go on after the last whole round with the same command"
            raise
    output.document(found)
    output.show(curve_lines(found))
    output.say()
    output.say(f"report   {found.folder / 'report.html'}")
    return 0


def _show(event: Event) -> None:
    """Show what is being trained."""
    if event.kind == "note":
        sys.stderr.write(event.text + "\n")
        sys.stderr.flush()


def _count(rows: int) -> None:
    sys.stderr.write(f"\r{rows:,} rows")
    sys.stderr.flush()

"""Label the rows that are worth it, one after the other; each answer is kept at once.

  tunesmith label RUN                  rows that the served model answered: the least sure first, unlike each other
  tunesmith label RUN unlabelled.csv   rows of a file, chosen in the same way

A number chooses a label, Enter agrees with the model, s skips, u takes the last answer back, c adds a comment, q ends.
Where an answer is typed in words, commands have a colon before them: :s, :u, :c, :q. Personal data is masked before
anything is kept.
"""

from __future__ import annotations

import argparse
import getpass
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.feedback import model_name, store_url
from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem

if TYPE_CHECKING:
    from tunesmith.bundle.load import Bundle
    from tunesmith.data.feedback.rows import Answered
    from tunesmith.data.feedback.store import FeedbackStore
    from tunesmith.data.mask import Masker
    from tunesmith.types import Record

_MOST_ROWS = 2000
"""Rows of a file that are answered to choose from: some seconds with a small model. `tunesmith suggest` reads all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("file", nargs="?", default="", help="file of unlabelled rows (default: what was answered)")
    parser.add_argument("-n", type=int, default=50, help="how many rows (default: 50)")
    parser.add_argument("--model", default="", help="name it is served under (default: the run folder's name)")
    parser.add_argument("--store", default="", help="URL or file of the store (default: beside the run)")
    parser.add_argument("--by", default="", metavar="NAME", help="who labels (default: your user name)")
    parser.add_argument("--columns", default="", help="columns of the file, e.g. text=review")
    parser.add_argument("--seed", type=int, default=0, help="of the rows that are drawn by chance (default: 0)")
    parser.add_argument("--threads", type=int, help="CPU threads of the model")
    parser.add_argument("--no-mask", action="store_true", help="keep texts of the file as they are, not masked")


def run(options: argparse.Namespace, output: Output) -> int:
    """Show row after row."""
    if options.n < 1:
        raise PlanProblem(f"{options.n} rows cannot be labelled", where="-n", do="give 1 or more")
    from tunesmith.bundle.load import load
    from tunesmith.cli.label_session import Session, Tally
    from tunesmith.data.feedback import open_store
    from tunesmith.data.mask import Masker

    name = model_name(options)
    bundle = load(options.run, threads=options.threads)
    masker = Masker(kinds=()) if options.no_mask else Masker()
    with open_store(store_url(options)) as store:
        if options.file:
            rows = _rows_of_file(bundle, options, output, store=store, masker=masker, name=name)
        else:
            from tunesmith.data.feedback.worth import worth_labelling

            rows = worth_labelling(store.unlabelled(name), options.n, options.seed)
        session = Session(bundle.task, bundle.labels, store, masker=masker, model=name, by=_by(options))
        tally = session.go(rows, output) if rows else Tally()
        in_all = store.count(name)
    output.document({"model": name, "rows": len(rows), **vars(tally), "in_all": in_all})
    if not rows:
        where = "in the file" if options.file else f"among the answers kept of '{name}'"
        output.say(f"nothing to label {where}")
        return 0
    output.say(f"{tally.labelled} labelled, {tally.skipped} skipped; {in_all:,} labelled rows in all")
    output.say(f"next:  tunesmith update {options.run}")
    return 0


def _by(options: argparse.Namespace) -> str:
    if options.by:
        return str(options.by)
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, in a container
        return "terminal"


def _rows_of_file(
    bundle: Bundle,
    options: argparse.Namespace,
    output: Output,
    *,
    store: FeedbackStore,
    masker: Masker,
    name: str,
) -> list[Answered]:
    """Answer rows of the file and choose the ones that are worth a label, without those that have one in the store."""
    from tunesmith.data.feedback.worth import worth_labelling

    records, faults = _read(bundle, options.file, options.columns)
    for fault in faults[:3]:
        output.remark(fault)
    if len(faults) > 3:
        output.remark(f"{len(faults) - 3} more rows cannot be read")
    fields = [_shown_fields(record) for record in records]
    kept = [place for place, given in enumerate(fields) if not store.is_said(name, masker.mask_fields(given))]
    if len(kept) < len(records):
        output.remark(f"{len(records) - len(kept)} rows have a label in the store already")
    step = max(1, -(-len(kept) // _MOST_ROWS))
    if step > 1:
        output.remark(
            f"of {len(kept):,} rows every {step}th is looked at; for all: tunesmith suggest {options.run} FILE"
        )
    chosen = kept[::step]
    return worth_labelling(
        _answered(bundle, [records[place] for place in chosen], [fields[place] for place in chosen], name),
        options.n,
        options.seed,
    )


def _read(bundle: Bundle, path: str, columns: str) -> tuple[list[Record], list[str]]:
    """Give the rows of a file that can be read, and what is wrong with each other one."""
    from tunesmith import data
    from tunesmith.bundle.evaluate import columns_for
    from tunesmith.data.columns import read_roles
    from tunesmith.types import Origin, Record

    source = data.read(Path(path))
    found = columns_for(bundle, source, read_roles(columns), needs_targets=False)
    records, faults = [], []
    for row, cells in source.rows():
        if isinstance(cells, data.BadRow):
            faults.append(f"row {row}: {cells.reason}")
            continue
        try:
            fields = bundle.task.read_input(data.Cells(cells, found.roles))
        except data.Fault as fault:
            faults.append(f"row {row}: {fault.reason}")
            continue
        records.append(Record(str(row), fields, None, Origin(source.path, row)))
    return records, faults


def _shown_fields(record: Record) -> dict[str, Any]:
    """Give the fields as feedback keeps them: what a person reads, without the places of tokens."""
    return {name: value for name, value in record.fields.items() if name != "places"}


def _answered(
    bundle: Bundle, records: Sequence[Record], fields: Sequence[Mapping[str, Any]], name: str
) -> list[Answered]:
    from tunesmith.data.feedback.rows import Answered

    return [
        Answered("", name, bundle.id, given, prediction.value, prediction.confidence, time.time())
        for prediction, given in zip(bundle.predictions(records), fields, strict=True)
    ]

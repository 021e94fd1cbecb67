"""Answer a text, several texts, or every row of a file, with a finished run.

A file is streamed: it may be larger than memory. Its columns are copied and `label` and `score` are added; a row that
cannot be read keeps its place, with an empty label and the reason in the column `problem`.
"""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles
from tunesmith.errors import PlanProblem
from tunesmith.types import Prediction

UNSURE = "do not know"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("texts", nargs="*", help="texts to answer")
    parser.add_argument("--file", help="file of rows to answer, instead of texts")
    parser.add_argument("--text", default="", help="column of the file that holds the text (default: as in training)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. question=q,context=c")
    parser.add_argument("--out", help="file to write: .csv or .jsonl")
    parser.add_argument("--force", action="store_true", help="write over --out if it is there")
    parser.add_argument("--all-scores", action="store_true", help="every label with its score")


def run(options: argparse.Namespace, output: Output) -> int:
    """Answer and print, or answer a file."""
    if bool(options.texts) == bool(options.file):
        raise PlanProblem(
            "give either texts or --file", where="command line", do=f'tunesmith predict {options.run} "some text"'
        )
    if bool(options.file) != bool(options.out):
        raise PlanProblem("--file and --out go together", where="command line", do="--file rows.csv --out answers.csv")
    from tunesmith.bundle.load import load

    bundle = load(options.run)
    if options.file:
        from tunesmith.bundle.predict_file import predict_file

        summary = predict_file(
            bundle,
            options.file,
            options.out,
            columns=read_roles(options.columns, text=options.text),
            has_all_scores=options.all_scores,
            may_overwrite=options.force,
            on_rows=None if output.is_quiet else _count,
        )
        output.document({"run": bundle.path, **summary})
        unsure = f", {summary['abstained']} left to a person ({UNSURE})" if summary["abstained"] else ""
        unread = (
            f", {summary['unreadable']} could not be read (see the column problem)" if summary["unreadable"] else ""
        )
        output.say(f"\r{summary['rows']:,} rows answered{unsure}{unread}: {options.out}")
        return 0
    predictions = bundle.predict(options.texts)
    output.document({"run": bundle.path, "predictions": predictions})
    for text, prediction in zip(options.texts, predictions, strict=True):
        prefix = f"{text}\n  " if len(options.texts) > 1 else ""
        output.answer(prefix + _line(prediction, has_all_scores=options.all_scores))
    return 0


def _line(prediction: Prediction, *, has_all_scores: bool) -> str:
    best = next(iter(prediction.alternatives))
    answer = UNSURE if prediction.value is None else str(prediction.value)
    hint = f" (nearest: {best})" if prediction.value is None else ""
    line = f"{answer}  {prediction.confidence:.3f}{hint}"
    if has_all_scores:
        line += "".join(f"\n    {score:.3f}  {label}" for label, score in prediction.alternatives.items())
    return line


def _count(rows: int) -> None:
    import sys

    if sys.stderr.isatty():
        sys.stderr.write(f"\r{rows:,} rows")
        sys.stderr.flush()

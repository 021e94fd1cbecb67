"""Score a finished run on a labelled file: accuracy, precision, recall, F1, confusion, calibration, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from tunesmith.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("data", help="labelled file")
    parser.add_argument("--text", default="", help="column that holds the text (default: as in training)")
    parser.add_argument("--label", default="", help="column that holds the label (default: as in training)")
    parser.add_argument("--max-rejected", type=float, default=0.05, help="most unusable rows, as a share")
    parser.add_argument("--out", default="", help="report to write (default: RUN/evaluations/NAME/report.html)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Evaluate, print tables, write the report."""
    from tunesmith.bundle.atomic import explain_os_errors, write_file
    from tunesmith.bundle.evaluate import evaluate
    from tunesmith.bundle.report import render_report
    from tunesmith.cli.tables import confusion_table, per_label_table, scores_table

    found = evaluate(
        options.run, options.data, text=options.text, label=options.label, max_rejected=options.max_rejected
    )
    bundle, scores = found.bundle, found.scores
    name = Path(options.data).name.split(".")[0]
    report = Path(options.out) if options.out else bundle.path / "evaluations" / name / "report.html"
    with explain_os_errors(report, "making the report's folder"):
        report.parent.mkdir(parents=True, exist_ok=True)
    title = f"{bundle.name} on {Path(options.data).name}"
    write_file(report, render_report(name=title, scores=scores, plan=bundle.plan, inspection=found.inspection))
    output.document({"run": bundle.path, "data": options.data, "scores": scores, "report": report})
    for table in (scores_table(scores), per_label_table(scores), confusion_table(scores)):
        output.show(table)
        output.say()
    output.say(f"report   {report}")
    return 0

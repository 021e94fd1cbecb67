"""Score a finished run on a labelled file: accuracy, precision, recall, F1, confusion, calibration, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles
from tunesmith.errors import PlanProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument("data", help="labelled file")
    parser.add_argument("--text", default="", help="column that holds the text (default: as in training)")
    parser.add_argument("--label", default="", help="column that holds the label (default: as in training)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. question=q,context=c")
    parser.add_argument("--engine", default="auto", help="what answers: torch, onnx, openvino (default: as exported)")
    parser.add_argument("--max-rejected", type=float, default=0.05, help="most unusable rows, as a share")
    parser.add_argument("--robustness", action="store_true", help="score the same rows with mistakes in them, too")
    parser.add_argument("--strengths", default="0.05,0.1,0.2", help="shares of letters or words it changes")
    parser.add_argument("--out", default="", help="report to write (default: RUN/evaluations/NAME-HASH/report.html)")
    parser.add_argument("--force", action="store_true", help="write over --out if it is there")


def run(options: argparse.Namespace, output: Output) -> int:
    """Evaluate, print tables, write the report."""
    if options.out and Path(options.out).suffix != ".html":
        raise PlanProblem("the report is an HTML page", where="--out", do="choose a name that ends in .html")
    if options.out and Path(options.out).exists() and not options.force:
        raise PlanProblem(f"{options.out} is there already", where="--out", do="choose another name, or --force")
    from tunesmith.bundle.atomic import explain_os_errors, write_file
    from tunesmith.bundle.evaluate import evaluate
    from tunesmith.bundle.load import load
    from tunesmith.bundle.report import render_report
    from tunesmith.cli.tables import confusion_table, notice_lines, per_label_table, scores_table

    bundle = load(options.run, engine=options.engine)
    output.remark(bundle.remark)
    if bundle.exported is None:  # else torch is not even imported
        from tunesmith.training.free_cores import take_free_cores

        output.remark(take_free_cores(bundle))
    found = evaluate(
        bundle,
        options.data,
        columns=read_roles(options.columns, text=options.text, label=options.label),
        max_rejected=options.max_rejected,
        strengths=_shares(options.strengths) if options.robustness else (),
    )
    scores = found.scores
    name = f"{Path(options.data).name.split('.')[0]}-{found.inspection.sha256[:8]}"
    report = Path(options.out) if options.out else bundle.path / "evaluations" / name / "report.html"
    with explain_os_errors(report, "making the report's folder"):
        report.parent.mkdir(parents=True, exist_ok=True)
    title = f"{bundle.name} on {Path(options.data).name}"
    write_file(report, render_report(name=title, scores=scores, plan=bundle.plan, inspection=found.inspection))
    output.document(
        {
            "run": bundle.path,
            "data": options.data,
            "scores": scores,
            "robustness": found.robustness,
            "rejected": found.inspection.rejected,
            "problems": found.inspection.problems,
            "report": report,
        }
    )
    output.show(notice_lines(found.inspection))
    for table in (scores_table(scores), per_label_table(scores), confusion_table(scores)):
        output.show(table)
        output.say()
    if found.robustness is not None:
        from tunesmith.cli.robustness_table import robustness_table

        output.show(robustness_table(found.robustness))
        output.say()
    output.say(f"report   {report}")
    return 0


def _shares(text: str) -> tuple[float, ...]:
    """Read shares parted by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PlanProblem(
            f"'{text}' are no shares", where="--strengths", do="give shares such as 0.05,0.1,0.2"
        ) from None

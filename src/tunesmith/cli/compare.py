"""Put two or more runs side by side on the same labelled rows: who is better, on which label, where they differ."""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output
from tunesmith.data.columns import read_roles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", help="run folders")
    parser.add_argument("--data", required=True, help="labelled file")
    parser.add_argument("--text", default="", help="column that holds the text (default: as in the first run)")
    parser.add_argument("--label", default="", help="column that holds the label (default: as in the first run)")
    parser.add_argument("--columns", default="", help="columns of other roles, e.g. question=q,context=c")
    parser.add_argument("--engine", default="auto", help="what answers: torch, onnx, openvino (default: as exported)")
    parser.add_argument("--max-rejected", type=float, default=0.05, help="most unusable rows, as a share")


def run(options: argparse.Namespace, output: Output) -> int:
    """Compare and print."""
    from tunesmith.bundle.compare import compare
    from tunesmith.cli.tables import comparison_lines

    found = compare(
        options.runs,
        options.data,
        columns=read_roles(options.columns, text=options.text, label=options.label),
        max_rejected=options.max_rejected,
        engine=options.engine,
    )
    output.document(found)
    output.show(comparison_lines(found))
    return 0

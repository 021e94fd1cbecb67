"""Turn a finished run into one that answers fast, without torch, with the same answers.

Every engine that is installed is measured on this machine, and the fastest that answers like torch is kept in the run.
With --quantize int8 it computes in 8 bits, as far as that costs no more than --tolerance points of the run's metric.
"""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder")
    parser.add_argument(
        "--engine", default="auto", help="onnx or openvino; auto: the fastest here; torch: forget an earlier export"
    )
    parser.add_argument(
        "--quantize",
        default="none",
        help="none; int8: 8 bits, or refuse; auto: 8 bits where it is faster and loses little",
    )
    parser.add_argument(
        "--prefer",
        default="balanced",
        help="what is to be fast: latency (one text at a time), throughput (many at once), or balanced",
    )
    parser.add_argument("--tolerance", type=float, default=0.5, help="points of the metric that 8 bits may cost")
    parser.add_argument("--data", default="", help="labelled rows to measure on (default: the run's validation rows)")
    parser.add_argument("--threads", type=int, help="CPU threads while measuring (default: what each engine takes)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Export, and print what was measured."""
    from tunesmith.bundle.export import export

    made = export(
        options.run,
        engine=options.engine,
        quantize=options.quantize,
        tolerance=options.tolerance,
        prefer=options.prefer,
        data=options.data,
        threads=options.threads,
        on_step=lambda text: output.say(f"{text} ..."),
    )
    output.document(made)
    if not made.table:
        output.say(f"{made.run} answers with torch")
        return 0
    from tunesmith.cli.export_table import export_lines

    output.say()
    output.show(export_lines(made))
    output.say()
    output.say(f"chosen   {made.chosen}" + (f"   {made.folder}" if made.folder else ""))
    output.say(f'next     tunesmith predict {made.run} "some text"')
    return 0

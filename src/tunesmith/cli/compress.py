"""Make a finished run smaller and faster, and measure what each step cost and brought.

Steps are made in this order: distil, prune, quantise and export. What is trained learns from the run as well as from
its labels. The result is a run folder of its own, kept only if it lost no more than --tolerance points.
"""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", help="run folder; it stays as it is")
    parser.add_argument(
        "--distill",
        default="",
        metavar="STUDENT",
        help="teach a smaller model: layers:3 (so many of its own blocks), or a base model (folder, name or hub id)",
    )
    parser.add_argument(
        "--prune", type=float, default=0.0, metavar="SHARE", help="share of the blocks' weights to take out, e.g. 0.3"
    )
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which they go, with training after each (2)")
    parser.add_argument("--quantize", default="none", help="none; int8: 8 bits, or refuse; auto: 8 bits where it pays")
    parser.add_argument("--export", default="", metavar="ENGINE", help="onnx or openvino; auto: the fastest here")
    parser.add_argument("--tolerance", type=float, default=1.0, help="points of the metric that all of it may cost (1)")
    parser.add_argument("--unlabelled", default="", metavar="FILE", help="rows without labels to learn from, too")
    parser.add_argument("--data", default="", help="labelled rows to measure on (default: the run's test rows)")
    parser.add_argument("--out", default="", help="folder of the result (default: RUN-compressed)")
    parser.add_argument("--threads", type=int, help="CPU threads while measuring (default: what each engine takes)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a recipe key of what is trained, e.g. epochs=5"
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Compress, print the table, and refuse what lost too much."""
    from tunesmith.errors import Stopped
    from tunesmith.training.recipe import read_sets

    settings = read_sets(options.set)
    from tunesmith.cli.compress_table import compression_lines
    from tunesmith.cli.progress import show_events, stop_signals
    from tunesmith.compression.compress import Wishes, compress, too_lossy

    names = ("distill", "prune", "rounds", "quantize", "export", "tolerance", "unlabelled", "data", "out", "threads")
    wishes = Wishes(**{name: getattr(options, name) for name in names}, settings=settings)
    with stop_signals() as stop_signal:
        try:
            made = compress(
                options.run,
                wishes,
                show=lambda job, events: show_events(job, events, output),
                say=lambda text: output.say(f"{text} ..."),
                stop_signal=stop_signal,
            )
        except Stopped as stopped:
            stopped.where, stopped.do = options.run, "run the command again: nothing was left behind"
            raise
    output.say()
    output.show(compression_lines(made))
    output.say()
    if not made.is_kept:
        raise too_lossy(made)
    output.document(made)
    output.say(f"run      {made.folder}")
    output.say(f"report   {made.folder / 'report.html'}")
    output.say(f'next     tunesmith predict {made.folder} "some text"')
    return 0

"""Let several runs of one task answer together, and measure what that gained over the best of them.

The result is a run folder that predict, evaluate, compare and serve read. It refers to its members: they stay where
they are, and one that changes is an error. With --distil one model learns from the ensemble, in a run of its own.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem, Stopped, TunesmithError

if TYPE_CHECKING:
    from tunesmith.bundle.ensemble import Made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", help="run folders of one task and the same labels; they stay as they are")
    parser.add_argument(
        "--by",
        default="soft",
        metavar="WAY",
        help="soft: the mean of their probabilities; stacked: a regression on them, fitted on validation rows (soft)",
    )
    parser.add_argument(
        "--weights",
        default="equal",
        metavar="WAY",
        help="of a soft vote: equal; validation: under which the validation rows are likeliest (equal)",
    )
    parser.add_argument("--data", default="", help="labelled rows to measure on (default: test rows that all share)")
    parser.add_argument("--out", default="", help="folder of the result (default: the first run's, with -ensemble)")
    parser.add_argument("--copy", action="store_true", help="keep copies of the members in the folder")
    parser.add_argument(
        "--distil", action="store_true", help="let one model learn from the ensemble, in a run beside it"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with --distil: a recipe key of that model, e.g. model=FOLDER, method=lora, unlabelled=FILE, epochs=5",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    """Make, measure, print; then distil if asked."""
    from tunesmith.training.recipe import read_sets

    settings = read_sets(options.set)
    if settings and not options.distil:
        raise PlanProblem("--set is for --distil: nothing is trained", where="command line", do="add --distil")
    from tunesmith.bundle.ensemble import Wishes, folder_of, make_ensemble
    from tunesmith.cli.ensemble_table import document_of, ensemble_lines

    wishes = Wishes(options.by, options.weights, options.data, options.out, options.copy)
    if options.distil:
        from tunesmith.compression.from_ensemble import student_folder

        student_folder(folder_of(options.runs, wishes), settings)  # told before anything is measured
    made = make_ensemble(options.runs, wishes, say=lambda text: output.say(f"{text} ..."))
    output.say()
    output.show(ensemble_lines(made))
    output.say()
    if options.distil:
        return _distil(made, settings, output)
    output.document({"run": made.bundle.path, "ensemble": document_of(made)})
    _say_where(output, made.bundle.path)
    return 0


def _distil(made: Made, settings: Mapping[str, Any], output: Output) -> int:
    """Train one model on what the ensemble says, and show it beside the ensemble and its members."""
    from tunesmith.cli.compress_table import compression_lines
    from tunesmith.cli.ensemble_table import document_of
    from tunesmith.cli.progress import show_events, stop_signals
    from tunesmith.compression.from_ensemble import Lessons, distil_ensemble

    ensemble = made.bundle.path
    words = ["tunesmith", "ensemble", *made.scores, "--distil"]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    with stop_signals() as stop_signal:
        lessons = Lessons(
            settings,
            shlex.join(words),
            show=lambda job, events: show_events(job, events, output),
            say=lambda text: output.say(f"{text} ..."),
            stop_signal=stop_signal,
        )
        try:
            distilled = distil_ensemble(made, lessons)
        except Stopped as stopped:
            stopped.do = f"go on with: tunesmith train --resume {stopped.where}"
            raise
        except TunesmithError:
            output.remark(f"the ensemble itself is done: {ensemble}")
            raise
    output.say()
    output.show(compression_lines(distilled))
    output.say()
    output.document({"run": distilled.folder, "ensemble": document_of(made), "distilled": distilled})
    output.say(f"ensemble {ensemble}")
    _say_where(output, distilled.folder)
    return 0


def _say_where(output: Output, folder: Path) -> None:
    output.say(f"run      {folder}")
    output.say(f"report   {folder / 'report.html'}")
    output.say(f'next     tunesmith predict {shlex.quote(str(folder))} "some text"')

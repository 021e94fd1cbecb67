"""Train one run with each method on the same rows, and see what each gains and costs.

Each run has a process of its own, so that its peak memory is its own. Finished runs in the same --out are taken as
they are: a comparison that was stopped goes on with the same command, and methods can be added to it.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from tunesmith.cli.output import Output
from tunesmith.cli.train import add_recipe_arguments, recipe_values
from tunesmith.errors import Stopped
from tunesmith.types import Event

_METHODS = "full,lora,adalora,adapter,prefix,prompt,top-layers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_recipe_arguments(parser, leave_out=("method", "budget"))
    parser.add_argument("--methods", default=_METHODS, metavar="A,B", help=f"which to compare (default: {_METHODS})")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each method, with other seeds")


def run(options: argparse.Namespace, output: Output) -> int:
    """Train, compare, print the table."""
    from tunesmith.cli.progress import stop_signals
    from tunesmith.cli.search_tables import methods_lines
    from tunesmith.search.compare import compare_methods

    values = recipe_values(options)
    data = str(values.pop("data", ""))
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    progress = _Progress(is_quiet=output.is_quiet)
    with stop_signals() as stop_signal:
        try:
            found = compare_methods(
                data,
                methods=methods,
                seeds=options.seeds,
                on_event=progress.take,
                stop_signal=stop_signal,
                **values,
            )
        except Stopped as stopped:
            stopped.do = f"go on with the same command and --out {shlex.quote(stopped.where)}"
            raise
        finally:
            progress.close()
    output.document(found)
    output.show(methods_lines(found))
    output.say()
    output.say(f"report   {found.folder / 'report.html'}")
    if found.best is not None:
        output.say(f"run      {found.best.runs[0].path}")
        output.say(f"next     tunesmith sweep {shlex.quote(data)} --method {found.best.method}")
    return 0


class _Progress:
    """A line when a method begins and when it is done; in between a live one on a terminal."""

    def __init__(self, *, is_quiet: bool) -> None:
        self.is_quiet, self.name = is_quiet, ""
        self.is_live = sys.stderr.isatty() and not is_quiet

    def take(self, event: Event) -> None:
        """Show one event."""
        if self.is_quiet:
            return
        if event.kind == "note":
            self._write("")
            self.name = event.text.partition(" (")[0] if ": " not in event.text else ""
            if not self.name or not self.is_live:
                sys.stderr.write(event.text[:300] + "\n")
        elif self.is_live and event.kind == "stage":
            self._write(f"{self.name}: {event.text} ...")
        elif self.is_live and event.kind == "step":
            self._write(f"{self.name}: step {event.step}  loss {event.values.get('loss', 0.0):.3f}")
        sys.stderr.flush()

    def close(self) -> None:
        """Wipe the live line."""
        self._write("")

    def _write(self, text: str) -> None:
        if self.is_live:
            sys.stderr.write(f"\r\x1b[2K{text[:79]}")

"""Several runs over one base model: what they take in memory together, or one run merged from their adapters.

Without --merge it loads the runs over one base model, as a service does, and says what each adds. With --merge it makes
a new run whose adapter is the weighted sum of theirs, and measures it beside them on the same rows.
"""

from __future__ import annotations

import argparse

from tunesmith.cli.output import Output
from tunesmith.errors import PlanProblem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("runs", nargs="+", help="run folders of one base model")
    parser.add_argument("--merge", default="", metavar="WEIGHTS", help="one weight for each run, e.g. 0.7,0.3")
    parser.add_argument("--how", default="cat", help="cat (exact, ranks add up), svd (of the largest rank) or linear")
    parser.add_argument("--data", default="", help="labelled rows to measure on (default: each run's own test rows)")
    parser.add_argument("--out", default="", help="folder of the new run (default: runs/NAME-OF-THE-DATA)")


def run(options: argparse.Namespace, output: Output) -> int:
    """Merge, or tell what the runs share."""
    if options.merge:
        return _merge(options, output)
    if given := [name for name in ("data", "out") if getattr(options, name)]:
        raise PlanProblem(
            f"--{given[0]} is for a merged run, and no weights are given",
            where="--merge",
            do="add e.g. --merge 0.7,0.3",
        )
    return _tell(options, output)


def _merge(options: argparse.Namespace, output: Output) -> int:
    weights = _weights(options.merge)
    output.say("merging and measuring ...")
    from rich.text import Text

    from tunesmith.cli.tables import comparison_lines, gain_table
    from tunesmith.training.merged import merge_runs

    made = merge_runs(options.runs, weights, how=options.how, data=options.data, out=options.out)
    output.document(
        {
            "run": made.bundle.path,
            "weights": made.weights,
            "how": made.how,
            "rank": made.rank,
            "gain": made.bundle.gain,
            "comparisons": made.comparisons,
            "remarks": made.remarks,
        }
    )
    for remark in made.remarks:
        output.say(f"note: {remark}")
    output.say()
    output.show(gain_table(made.bundle.gain))
    output.say()
    output.show(made.bundle.gain.verdict)
    for name, found in made.comparisons.items():
        output.say()
        output.show(Text(f"on {options.data}" if options.data else f"on the test rows of {name}", style="bold"))
        output.show(comparison_lines(found))
    output.say()
    output.say(f"run      {made.bundle.path} (rank {made.rank})")
    output.say(f"report   {made.bundle.path / 'report.html'}")
    return 0


def _tell(options: argparse.Namespace, output: Output) -> int:
    from tunesmith.bundle.adapters import AdapterSet
    from tunesmith.bundle.compare import names_of
    from tunesmith.bundle.load import load
    from tunesmith.cli.tables import cut, plain_table
    from tunesmith.engines import TORCH

    bundles = [load(run, engine=TORCH) for run in options.runs]
    adapters = AdapterSet(dict(zip(names_of(bundles), bundles, strict=True)))
    own = {name: adapters.own_bytes(name) for name in adapters.names}
    facts = {
        name: {"task": adapters[name].task.name, "method": adapters[name].plan.method, "own_bytes": size}
        for name, size in own.items()
    }
    output.document({"runs": facts, "base_sha256": adapters.base_sha256, "held_bytes": adapters.held_bytes})
    table = plain_table("run", "task", "method", "of its own", numbers_from=3)
    for name, fact in facts.items():
        table.add_row(cut(name, 40), str(fact["task"]), str(fact["method"]), f"{own[name] / 2**20:.2f} MiB")
    output.show(table)
    output.say(f"all together hold {adapters.held_bytes / 2**20:.1f} MiB of weights")
    return 0


def _weights(text: str) -> tuple[float, ...]:
    """Read weights parted by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise PlanProblem(f"--merge is '{text}'", where="--merge", do="give numbers such as 0.7,0.3") from None

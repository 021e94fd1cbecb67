"""What `tunesmith ensemble` prints: the members and the ensemble side by side, on the same rows."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.bundle.ensemble import Made
from tunesmith.bundle.report import amount, amount_span, metric_name, points
from tunesmith.bundle.voting import SOFT
from tunesmith.cli.tables import plain_table


def ensemble_lines(made: Made) -> RenderableType:
    """Give the table, with what the person should know below it."""
    table = plain_table("", metric_name(made.metric), "95% interval", "ensemble over it", "weight")
    for name, scores in made.scores.items():
        difference, weight = points(made.differences[name]), f"{made.weights[name]:.3f}"
        shown = (amount(made.metric, scores.value), amount_span(made.metric, scores.interval))
        table.add_row(name, *shown, difference, weight)
    vote = made.bundle.ensemble.vote if made.bundle.ensemble else None
    called = "ensemble, stacked" if vote and vote.by != SOFT else "ensemble"
    shown = (amount(made.metric, made.after.value), amount_span(made.metric, made.after.interval))
    table.add_row(called, *shown, "", "", style="bold")
    rows = made.rows
    lines: list[RenderableType] = [table, Text(f"{len(rows.test):,} rows that no member has learnt from", style="dim")]
    if rows.left_out:
        listed = ", ".join(f"{count:,} ({reason})" for reason, count in rows.left_out.items())
        lines.append(Text(f"left out: {listed}"))
    lines += [Text(remark) for remark in made.remarks]
    return Group(*lines, Text(), Text(made.bundle.gain.verdict))


def document_of(made: Made) -> dict[str, Any]:
    """Give what `--json` prints of an ensemble."""
    rows = {"test": len(made.rows.test), "valid": len(made.rows.valid), "left_out": made.rows.left_out}
    names = ("metric", "scores", "after", "differences", "best", "weights", "remarks")
    return {"folder": made.bundle.path, **{name: getattr(made, name) for name in names}, "rows": rows}

"""What `tunesmith export` prints: the contenders side by side, and the ways of quantising that were tried."""

from __future__ import annotations

import math

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.bundle.export import Export
from tunesmith.bundle.report import metric_name
from tunesmith.metrics import NO_SHARE


def export_lines(made: Export) -> RenderableType:
    """Give the table of engines, and below it what was tried and declined."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    unit = "points" if made.metric not in NO_SHARE else "percent"
    table.add_column("")
    for title in ("one row", "in bulk", "same answers", unit, "difference", "size"):
        table.add_column(title, justify="right")
    for row in made.table:
        is_torch = row.name == "torch"
        table.add_row(
            Text(row.name, style="bold" if row.is_chosen else ""),
            f"{row.milliseconds:.1f} ms",
            f"{row.rows_per_second:,.0f}/s",
            "" if is_torch else f"{100 * row.agreement:.1f}%",
            "" if is_torch else f"{-row.loss:+.2f}",
            "" if is_torch or math.isnan(row.difference) else f"{row.difference:.0e}",
            f"{row.file_mib:.0f} MiB" if row.file_mib else "",
        )
    lines: list[RenderableType] = [table]
    lines.append(Text(f"{metric_name(made.metric)} and answers on {made.rows:,} labelled rows, beside torch's"))
    for one in made.tries:
        verdict = "kept" if one.is_within else f"more than {made.tolerance:g} lost"
        lines.append(Text(f"int8, {one.what}: {-one.loss:+.2f} {unit}, {verdict}"))
    lines += [Text(f"{name}: {reason}") for name, reason in made.declined.items()]
    return Group(*lines)

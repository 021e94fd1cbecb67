"""What `tunesmith compress` prints: the steps side by side, the run itself first."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.bundle.report import amount, metric_name, points
from tunesmith.compression.compress import Compression


def compression_lines(made: Compression) -> RenderableType:
    """Give the table of steps, with what the person should know below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for title in (metric_name(made.metric), "difference (95%)", "size", "one row", "in bulk"):
        table.add_column(title, justify="right", no_wrap=True)
    for place, step in enumerate(made.steps):
        table.add_row(
            Text(step.name, style="bold" if place == len(made.steps) - 1 else ""),
            amount(made.metric, step.scores.value),
            points(step.difference) if step.difference else "",
            f"{step.file_mib:,.0f} MiB" if step.file_mib >= 10 else f"{step.file_mib:.1f} MiB",
            f"{step.milliseconds:.1f} ms",
            f"{step.rows_per_second:,.0f}/s",
        )
    first, last = made.steps[0], made.steps[-1]
    low, high = (amount(made.metric, value) for value in last.scores.interval)
    lines: list[RenderableType] = [table]
    lines.append(Text(f"{last.scores.n:,} rows; 95% interval of the last line {low} to {high}; median of one row"))
    lines.append(
        Text(
            f"{first.milliseconds / last.milliseconds:.1f} times as fast alone, "
            f"{last.rows_per_second / first.rows_per_second:.1f} times in bulk, "
            f"{first.file_mib / max(last.file_mib, 1e-9):.1f} times smaller"
        )
    )
    lines += [Text(remark) for remark in made.remarks]
    return Group(*lines)

"""The table of `tunesmith evaluate --robustness`: the score when the texts have mistakes in them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.bundle.report import amount, amount_span, metric_name, points
from tunesmith.bundle.robustness import Robustness
from tunesmith.cli.tables import cut, plain_table


def robustness_table(found: Robustness) -> RenderableType:
    """Give the score of every kind and strength of mistakes, with what they cost, and one example of each kind."""
    table = plain_table("mistakes", "share", metric_name(found.metric), "95% interval", "against clean")
    table.add_row("none", "", amount(found.metric, found.clean), "", "")
    for row in found.rows:
        table.add_row(
            row.noise,
            f"{row.strength:.0%}",
            amount(found.metric, row.value),
            amount_span(found.metric, row.interval),
            points(row.difference),
        )
    table.add_row("mean", "", amount(found.metric, found.mean), "", "", style="bold")
    strongest = {row.noise: row for row in found.rows}
    examples = [Text(f"{name}: {cut(row.sample[1], 60)}", style="dim") for name, row in strongest.items()]
    rows = Text(f"{found.n:,} rows, the same for every line; targets stay as they are", style="dim")
    return Group(Text("Robustness", style="bold"), table, rows, *examples)

"""What `suggest` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.bundle.report import duration, metric_name
from tunesmith.cli.tables import and_more, cut, plain_table
from tunesmith.metrics import NO_SHARE

if TYPE_CHECKING:
    from tunesmith.bundle.suggest import Suggestions
    from tunesmith.search.label_curve import LabelCurve

_MOST_ROWS, _MOST_WRITTEN = 50, 5  # lines that are shown; fewer where a file holds all of them
_WHY, _TEXT = 32, 30  # cells


def suggestion_lines(found: Suggestions, *, is_written: bool) -> RenderableType:
    """The rows to label next, and what became of the others."""
    table = plain_table("", "row", "score", "why", "text", numbers_from=0)
    for column in (3, 4):
        table.columns[column].justify = "left"
    most = _MOST_WRITTEN if is_written else _MOST_ROWS
    for each in found.rows[:most]:
        table.add_row(str(each.rank), str(each.row), f"{each.score:.3f}", cut(each.why, _WHY), cut(each.text, _TEXT))
    left = {name: rows for name, rows in found.counts.items() if name not in {"rows", "used"}}
    listed = "".join(f", {rows:,} {name}" for name, rows in left.items())
    counts = f"{found.counts['rows']:,} rows: {found.counts['used']:,} new{listed}"
    return Group(table, *and_more(len(found.rows) - most, "rows"), Text(), Text(counts, style="dim"))


def curve_lines(found: LabelCurve) -> RenderableType:
    """The learning curve as a table, and what it says."""
    from tunesmith.search.label_report import cells, verdict

    unit = "" if found.metric in NO_SHARE else " (points)"
    table = plain_table("labels", found.by, "chance", f"difference{unit}", numbers_from=0)
    for row in cells(found):
        table.add_row(*row)
    rows = ", ".join(f"{part} {count:,}" for part, count in found.rows.items())
    seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "1 seed"
    what = f"{metric_name(found.metric)} on the test rows; method {found.method}, {seeds}; {rows}"
    lines: list[RenderableType] = [Text(), Text(what, style="dim"), table, Text()]
    if found.everything is not None:
        every = f"With all {found.rows['pool']:,} labels: {found.everything.value:.3f}. "
        lines.append(Text(every + f"It took {duration(found.seconds)}."))
    return Group(*lines, Text(verdict(found)))

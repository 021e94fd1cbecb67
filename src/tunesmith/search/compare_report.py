"""One HTML page that says what each method gained and cost, in the look of the run's own report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.bundle import charts
from tunesmith.bundle.report import LINES, amount, amount_span, duration, metric_name, page_engine, points
from tunesmith.metrics import NO_SHARE, goodness
from tunesmith.search.charts import Priced, cost_chart
from tunesmith.search.compare import MethodComparison, MethodLine

_HERE = Path(__file__).parent
_READING = (
    "Training is the time of the steps alone, by the clock and over all cores; peak memory is of the whole process, "
    "each method in one of its own, with libraries, baselines and measuring. The learnt part is what has to be kept "
    "beside a base model that is there already."
)


def render_methods(found: MethodComparison) -> str:
    """Give one self-contained page; the same input gives the same bytes."""
    done = [line for line in found.lines if line.value is not None]
    is_one = len(found.seeds) == 1
    page = page_engine(_HERE).get_template("methods.html.jinja")
    text = page.render(
        **_header(found, done),
        metric=metric_name(found.metric) if found.metric else "",
        bars=charts.bar_rows(_bars(found, done), has_axis=found.metric not in NO_SHARE) if done else "",
        chart=cost_chart([_priced(line, place == 0) for place, line in enumerate(done)], found.metric) if done else "",
        interval=f"Whiskers: {'95% interval' if is_one else 'lowest and highest of the seeds'}.",
        interval_short="95% interval" if is_one else "Lowest to highest",
        unit="" if found.metric in NO_SHARE else ", points",
        rows=[cells(line, found.metric) for line in done],
        reading=_READING,
        declined=[(line.method, line.runs[0].state, line.runs[0].reason) for line in found.lines if not line.is_done],
        made=_made(found),
    )
    return text.lstrip() + "\n"


def cells(line: MethodLine, metric: str) -> list[str]:
    """Give a method's line of the table, as the page has it."""
    learnt = [run.learnt_bytes for run in line.runs if run.learnt_bytes is not None]
    share = line.mean("trainable") / max(1.0, line.mean("parameters"))
    return [
        line.method,
        amount(metric, line.value),
        amount_span(metric, line.interval),
        "best" if line.difference is None else points(line.difference),
        f"{line.mean('trainable'):,.0f}",
        charts.percent(share, 2),
        duration(line.mean("training_seconds")),
        duration(line.mean("training_cpu_seconds")),
        f"{line.mean('memory_mib'):,.0f}",
        megabytes(line.mean("bundle_bytes")),
        megabytes(sum(learnt) / len(learnt)) if learnt else charts.MISSING,
    ]


def megabytes(size: float) -> str:
    """Give bytes in millions, with as many digits as tell something."""
    return f"{size / 1e6:,.0f}" if size >= 99.5e6 else f"{size / 1e6:.1f}" if size >= 1e5 else f"{size / 1e6:.2f}"


def verdict(found: MethodComparison) -> str:
    """Say in a sentence or two which method is best, and which is as good for less."""
    best = found.best
    if best is None:
        return "No method could be trained on these rows."
    text = f"{best.method} reached the best {metric_name(found.metric)}, {amount(found.metric, best.value)}."
    level = [line for line in found.lines[1:] if line.difference is not None and not line.difference.is_clear]
    cheaper = [line for line in level if line.mean("training_cpu_seconds") < best.mean("training_cpu_seconds")]
    if cheaper:
        least = min(cheaper, key=lambda line: line.mean("training_cpu_seconds"))
        share = least.mean("training_cpu_seconds") / max(best.mean("training_cpu_seconds"), 1e-9)
        text += f" {least.method} cannot be told from it and took {share:.0%} of its CPU time."
    elif level:
        text += f" It cannot be told from {', '.join(line.method for line in level)}."
    naive = max(found.baselines, key=lambda name: goodness(found.metric, found.baselines[name].value), default="")
    if naive:
        text += f" {LINES.get(naive, naive)}: {amount(found.metric, found.baselines[naive].value)}."
    return text


def _bars(found: MethodComparison, done: list[MethodLine]) -> list[charts.Bar]:
    tops = [line.interval[1] if line.interval else line.value or 0.0 for line in done]
    full = max(tops) or 1.0 if found.metric in NO_SHARE else 1.0
    return [
        charts.Bar(
            line.method,
            (line.value or 0.0) / full,
            amount(found.metric, line.value),
            (line.interval[0] / full, line.interval[1] / full) if line.interval else None,
            place == 0,
        )
        for place, line in enumerate(done)
    ]


def _priced(line: MethodLine, is_best: bool) -> Priced:
    assert line.value is not None
    return Priced(line.method, line.mean("training_seconds"), line.value, line.interval, is_best)


def _header(found: MethodComparison, done: list[MethodLine]) -> dict[str, Any]:
    best = found.best
    headline = None
    if best is not None:
        tested = best.runs[0].scores.n if best.runs[0].scores else 0
        words = f"{metric_name(found.metric)} of {best.method} on {tested:,} test rows"
        is_one = len(found.seeds) == 1
        headline = {
            "value": amount(found.metric, best.value),
            "words": words if is_one else f"{words}, mean of {len(found.seeds)} seeds",
            "interval": amount_span(found.metric, best.interval) if is_one else "",
        }
    tiles = []
    if done:
        least = min(done, key=lambda line: line.mean("memory_mib"))
        quick = min(done, key=lambda line: line.mean("training_seconds"))
        tiles = [
            ("Quickest", duration(quick.mean("training_seconds")), f"of training: {quick.method}"),
            ("Least memory", f"{least.mean('memory_mib'):,.0f} MiB", least.method),
        ]
    tiles.append(
        ("Methods", str(len(found.lines)), f"{len(done)} trained, {len(found.lines) - len(done)} declined or failed")
    )
    page = {"name": found.folder.name, "kind": "Comparison of methods", "task": found.task, "verdict": verdict(found)}
    return {**page, "headline": headline, "tiles": tiles}


def _made(found: MethodComparison) -> list[tuple[str, Any]]:
    rows = " · ".join(f"{part} {count:,}" for part, count in found.rows.items())
    return [
        ("Base model", found.base),
        ("Rows", rows),
        ("Seeds", ", ".join(map(str, found.seeds))),
        ("Measured by", metric_name(found.metric) if found.metric else charts.MISSING),
        ("This call", duration(found.seconds)),
        ("Folder", found.folder),
    ]

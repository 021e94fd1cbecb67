"""One HTML page that says what a sweep found, in the look of the run's own report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.bundle import charts
from tunesmith.bundle.report import amount, amount_span, duration, metric_name, page_engine
from tunesmith.search.charts import trials_chart
from tunesmith.search.found import Found
from tunesmith.search.study import Trial

_HERE = Path(__file__).parent


def render_sweep(found: Found) -> str:
    """Give one self-contained page; the same input gives the same bytes."""
    best, metric = found.best, found.metric
    columns = list(dict.fromkeys(key for trial in found.trials for key in trial.settings))
    columns = [key for key in columns if key != "method" or len(found.methods) > 1]
    share = charts.percent
    bars = [
        charts.Bar(name, part, share(part), None, not place) for place, (name, part) in enumerate(_important(found))
    ]
    page = page_engine(_HERE).get_template("sweep.html.jinja")
    text = page.render(
        **_header(found),
        curve=trials_chart(found.curve, metric, best=best.number if best else None) if found.curve else "",
        bars=charts.bar_rows(bars) if bars else "",
        most=bars[0].name if bars else "",
        complete=sum(trial.state == "complete" for trial in found.trials),
        best=best,
        folder=found.folder,
        settings=[(key, value, _usual(found, key)) for key, value in best.settings.items()] if best else [],
        recipe=found.recipe,
        metric=metric_name(metric),
        columns=columns,
        rows=[_row(trial, columns, found) for trial in found.trials],
        made=_made(found),
        space=found.space,
        remarks=found.remarks,
    )
    return text.lstrip() + "\n"


def _important(found: Found) -> list[tuple[str, float]]:
    return list(found.importance.items())


def _usual(found: Found, key: str) -> Any:
    return found.usual.settings.get(key) if found.usual else None


def number(value: Any) -> str:
    """Give a setting as people write it."""
    return f"{value:.3g}" if isinstance(value, float) else charts.MISSING if value is None else str(value)


def _row(trial: Trial, columns: list[str], found: Found) -> dict[str, Any]:
    reason = f": {trial.reason}" if trial.reason else ""
    return {
        "number": trial.number,
        "value": amount(found.metric, trial.value),
        "state": ("as without the search, " if trial.is_usual else "") + trial.state + reason,
        "settings": [number(trial.settings.get(key)) for key in columns],
        "share": charts.percent(trial.share, 0),
        "time": duration(trial.seconds),
        "is_best": found.best is not None and trial.number == found.best.number,
    }


def verdict(found: Found) -> str:
    """Say in one sentence what the search brought, on the rows that chose."""
    best, usual, metric = found.best, found.usual, found.metric
    if best is None or best.value is None:
        return "No trial got as far as an evaluation."
    reached = f"{metric_name(metric)} {amount(metric, best.value)} on the validation rows"
    if usual is None or usual.value is None:
        return f"The best of {len(found.trials)} trials reached {reached}."
    if usual.number == best.number or usual.value == best.value:
        return f"No trial was better than the recipe as it was: {reached}."
    was = amount(metric, usual.value)
    return f"The best of {len(found.trials)} trials reached {reached}; the recipe as it was, {was}."


def _header(found: Found) -> Mapping[str, Any]:
    headline, tiles = None, []
    if found.bundle is not None:
        after = found.bundle.gain.after
        headline = {
            "value": amount(after.main, after.value),
            "words": f"{metric_name(after.main)} of the best on {after.n:,} test rows that no trial saw",
            "interval": amount_span(after.main, after.interval),
        }
    states = {state: sum(trial.state == state for trial in found.trials) for state in ("complete", "pruned", "failed")}
    words = f"{states['complete']} to the end, {states['pruned']} given up, {states['failed']} failed"
    tiles.append(("Trials", str(sum(states.values())), words))
    if found.best is not None and found.best.value is not None:
        place = f"trial {found.best.number}, validation rows"
        tiles.append((metric_name(found.metric), amount(found.metric, found.best.value), place))
    seconds = sum(trial.seconds for trial in found.trials)
    tiles.append(("Training", duration(seconds), f"over all trials; {found.ended}"))
    task = found.bundle.plan.task if found.bundle else "settings of a recipe"
    base = {"name": found.folder.name, "kind": "Search report", "task": task, "verdict": verdict(found)}
    return {**base, "headline": headline, "tiles": tiles}


def _made(found: Found) -> list[tuple[str, Any]]:
    return [
        ("Methods", ", ".join(found.methods)),
        ("Chosen by", metric_name(found.metric)),
        ("Drawn by", "TPE (Bergstra et al. 2011)"),
        ("Given up by", "successive halving (ASHA, Li et al. 2020)"),
        ("Study", found.study),
        ("Database", found.database),
        ("Ended", found.ended),
        ("Last call", duration(found.seconds)),
    ]

"""What a shared training came to: each task by its own metric, against its baselines and against itself alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.bundle import charts
from tunesmith.bundle.load import Bundle
from tunesmith.bundle.report import amount, amount_span, duration, metric_name, page_engine, points
from tunesmith.metrics import LOWER_IS_BETTER, NO_SHARE, goodness
from tunesmith.types import Difference, Plan, Record, Scores

SUMMARY = "summary.json"
LINEAGE = "together.json"  # in the folder of each task

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """How one task did."""

    name: str
    bundle: Bundle
    alone: Scores | None = None  # of the same task trained by itself
    difference: Difference | None = None  # together minus alone, paired over the same test rows

    @property
    def scores(self) -> Scores:
        """Of the task's test rows."""
        return self.bundle.gain.after

    @property
    def rival(self) -> tuple[str, Scores, Difference] | None:
        """The best naive baseline or the model before, and the difference to it."""
        gain, metric = self.bundle.gain, self.scores.main
        others = {**gain.baselines, **({"before": gain.before} if gain.before else {})}
        if not others:
            return None
        best = max(others, key=lambda name: goodness(metric, others[name].value))
        return best, others[best], gain.differences[best]

    @property
    def document(self) -> dict[str, Any]:
        """Plain content for JSON."""
        found = {"name": self.name, "run": self.bundle.path.name, "task": self.bundle.plan.task, "scores": self.scores}
        return {**found, "alone": self.alone, "difference": self.difference, "verdict": self.bundle.gain.verdict}


def summary_of(name: str, bundle: Bundle, alone: Bundle | None, records: Sequence[Record]) -> Outcome:
    """Compare a task with itself trained alone, where that was done."""
    if alone is None:
        return Outcome(name, bundle)
    task, metric = bundle.task, bundle.gain.after.main
    values = [[value for value, _, _ in task.decode(one.answer(records), labels=one.labels)] for one in (bundle, alone)]
    difference = task.difference(records, values[0], values[1], metric=metric, seed=bundle.plan.seed)
    return Outcome(name, bundle, alone.gain.after, difference)


def verdict_of(outcomes: Sequence[Outcome]) -> str:
    """Say in one sentence what sharing the body did to the tasks."""
    compared = [outcome for outcome in outcomes if outcome.difference is not None]
    if not compared:
        listed = ", ".join(f"{each.name} {_amount(each.scores)}" for each in outcomes)
        return f"Trained together: {listed}."
    better = [each.name for each in compared if each.difference and _sign(each.difference) > 0]
    worse = [each.name for each in compared if each.difference and _sign(each.difference) < 0]
    open_ = [each.name for each in compared if each.name not in {*better, *worse}]
    said = {"sharing the body helps": better, "sharing it costs": worse, "it cannot be told for": open_}
    text = "; ".join(f"{words} {', '.join(names)}" for words, names in said.items() if names)
    return f"{text[0].upper()}{text[1:]}."


def _sign(difference: Difference) -> int:
    low, high = difference.interval
    sign = int(low > 0) - int(high < 0)
    return -sign if difference.metric in LOWER_IS_BETTER else sign


def _amount(scores: Scores) -> str:
    return f"{amount(scores.main, scores.value)} ({metric_name(scores.main)})"


def render_summary(
    name: str, outcomes: Sequence[Outcome], plan: Plan, *, shares: Mapping[str, float], seconds: float
) -> str:
    """Give one self-contained page; the same input gives the same bytes."""
    bars = [
        charts.Bar(each.name, each.scores.value, _amount(each.scores), each.scores.interval, True)
        for each in outcomes
        if each.scores.main not in NO_SHARE
    ]
    rows = [
        (
            each.name,
            each.bundle.plan.task,
            metric_name(each.scores.main),
            amount(each.scores.main, each.scores.value),
            amount_span(each.scores.main, each.scores.interval),
            points(each.rival[2]) if each.rival else charts.MISSING,
            amount(each.scores.main, each.alone.value) if each.alone else charts.MISSING,
            points(each.difference),
            f"{each.scores.n:,}",
            charts.percent(shares[each.name]),
        )
        for each in outcomes
    ]
    made = [
        ("Plan", plan.id),
        ("Base model", plan.base),
        ("Method", plan.method),
        ("Steps", f"{plan.steps:,}"),
        ("Sampling", str(plan.options["sampling"])),
        ("Learning rate", f"{plan.options['learning_rate']:g}"),
        ("Seed", str(plan.seed)),
        ("Time", duration(seconds)),
    ]
    page = page_engine(_HERE).get_template("summary.html.jinja")
    text = page.render(
        name=name,
        verdict=verdict_of(outcomes),
        rows=rows,
        bars=charts.bar_rows(bars) if bars else "",
        links=[(each.name, f"{each.bundle.path.name}/report.html") for each in outcomes],
        made=made,
        has_alone=any(each.alone for each in outcomes),
    )
    return text.lstrip() + "\n"

"""One HTML file that says what an adaptation (or an evaluation) showed, in the order in which a person asks.

The page is made of sections. A section is one function here that gives its data, or nothing where there is nothing to
show, and one macro of the same name in `report.html.jinja` that lays it out. A task that knows something new about its
scores adds one of each.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tunesmith.bundle import charts, compressed, updated
from tunesmith.bundle.highlight import Sample, read_samples
from tunesmith.metrics import LOWER_IS_BETTER, NO_SHARE, goodness
from tunesmith.types import Augmentation, Difference, Event, Gain, Inspection, Plan, Rejected, Scores

LINES = {
    "majority": "Majority class",
    "tfidf": "TF-IDF + logistic regression",
    "copy": "The source as it is",
    "nearest": "Answer of the most similar training row",
    "lead": "Beginning of the document",
    "before": "Before adaptation (zero-shot)",
    "after": "Adapted model",
    "dictionary": "Dictionary of training entities",
    "majority-pair": "Most common relation of the two types",
    "cosine": "Cosine of TF-IDF weights",
    "mean": "Mean training score",
    "random": "A guess",
    "tfidf-overlap": "Choice most like the question by its words",
    "ngram": "Counts of characters (6-grams)",
    "best-overlap": "Sentence that shares most words",
}
UNTRAINED = "The base model, asked (nothing trained)"  # instead of "after", for methods that only ask
METRICS = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "weighted_precision": "Weighted precision",
    "weighted_recall": "Weighted recall",
    "ece": "Calibration error (ECE)",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "f1": "F1",
    "spearman": "Spearman's correlation",
    "pearson": "Pearson's correlation",
    "mse": "Mean squared error",
    "has_answer_f1": "F1 of answerable questions",
    "no_answer_accuracy": "Accuracy on unanswerable questions",
    "precision": "Precision",
    "recall": "Recall",
    "micro_f1": "Micro F1",
    "bits_per_character": "Bits per character",
    "perplexity": "Perplexity",
    "pass_at_1": "pass@1",
    "pass_at_5": "pass@5",
    "pass_at_10": "pass@10",
    "exact_match": "Exact match",
    "distinct_1": "Distinct words",
    "distinct_2": "Distinct word pairs",
}
SHOWN_TEXT = 10_000  # characters of a mistaken text that are kept; a row may be a whole book


@dataclass(frozen=True)
class Facts:
    """All that a section may draw on."""

    scores: Scores
    gain: Gain | None
    plan: Plan | None
    events: Sequence[Event]
    inspection: Inspection | None
    recipe: str
    speed: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """One line of the gain table."""

    key: str
    name: str
    scores: Scores
    difference: Difference | None  # adapted minus this line


def render_report(
    *,
    name: str,
    scores: Scores,
    gain: Gain | None = None,
    plan: Plan | None = None,
    events: Sequence[Event] = (),
    inspection: Inspection | None = None,
    recipe: str = "",
    created: str = "",
    speed: Mapping[str, Any] | None = None,
    attempts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Give one self-contained HTML page; the same input gives the same bytes.

    Args:
        name: What the run or the evaluated bundle is called.
        scores: Of the test rows; with `gain`, those of the adapted model.
        gain: Left out for an evaluation; then only the sections that need no comparison are shown.
        plan: What was decided before the run.
        events: Of the run; steps and evaluations become learning curves.
        inspection: Of the data file.
        recipe: The recipe as text.
        created: When, as it is to be printed. The clock is never read here.
        speed: Seconds by stage, tokens per second and the share of the machine's peak.
        attempts: What a run with a budget tried.
    """
    facts = Facts(scores, gain, plan, events, inspection, recipe, speed or {}, attempts)
    drawn = [(key, title, data) for key, title, build in SECTIONS if (data := build(facts))]
    page = page_engine().get_template("report.html.jinja")
    text = page.render(name=name, created=created, facts=facts, headline=_headline(facts), sections=drawn)
    return text.lstrip() + "\n"


def gain_lines(gain: Gain) -> list[Line]:
    """Give the lines of the gain table: naive baselines, before, after."""
    found = {**gain.baselines, **({"before": gain.before} if gain.before else {}), "after": gain.after}
    order = sorted(
        found, key=lambda key: (key == "after", key == "before", list(LINES).index(key) if key in LINES else 9)
    )
    names = LINES if gain.trainable_share else {**LINES, "after": UNTRAINED}
    return [Line(key, _line_name(key, names, found[key]), found[key], gain.differences.get(key)) for key in order]


def _line_name(key: str, names: Mapping[str, str], scores: Scores) -> str:
    """Give what the line is called; a baseline that learnt from a sample of the rows says so."""
    rows = scores.details.get("learnt_from")
    return str(scores.details.get("called") or names.get(key, key)) + (f" (of {rows:,} rows)" if rows else "")


def gain_table_html(name: str, gain: Gain) -> str:
    """Give the gain table alone as an HTML fragment, for notebooks."""
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            line.name,
            amount(gain.after.main, line.scores.value),
            amount_span(gain.after.main, line.scores.interval),
            duration(line.scores.seconds),
        )
        for line in gain_lines(gain)
    )
    head = Markup("<tr><th>{}</th><th>{}</th><th>95% interval</th><th>cost</th></tr>")
    table = Markup("<table>{}{}</table><p>{}</p>")
    return str(table.format(head.format(name, metric_name(gain.after.main)), rows, gain.verdict))


def metric_name(metric: str) -> str:
    """Give a metric's name for people."""
    return METRICS.get(metric) or metric.replace("_", " ").capitalize()


def duration(seconds: float) -> str:
    """Give a time the way that people say it."""
    if not math.isfinite(seconds):
        return charts.MISSING
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 0.05 or seconds <= 0 else "< 0.1 s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def span(interval: tuple[float, float] | None) -> str:
    """Give an interval of shares in percent."""
    if interval is None or not all(map(math.isfinite, interval)):
        return charts.MISSING
    return f"{100 * interval[0]:.1f} to {charts.percent(interval[1])}"


def amount(metric: str, value: float | None) -> str:
    """Give a metric's value: shares in percent, others (perplexity, bits) as they are."""
    if metric not in NO_SHARE or value is None or not math.isfinite(value):
        return charts.percent(value)
    return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"


def amount_span(metric: str, interval: tuple[float, float] | None) -> str:
    """Give the interval of a metric in its own unit."""
    if metric not in NO_SHARE or interval is None or not all(map(math.isfinite, interval)):
        return span(interval)
    return f"{amount(metric, interval[0])} to {amount(metric, interval[1])}"


def second_metric(scores: Scores) -> str:
    """Give the metric that stands beside the main one: macro F1 where it is measured, else the next; or nothing."""
    others = [name for name in scores.values if name != scores.main and name in scores.intervals]
    return "macro_f1" if "macro_f1" in others else next(iter(others), "")


def points(difference: Difference | None) -> str:
    """Give a difference with its interval: in percentage points, or in the metric's own unit."""
    if difference is None or not math.isfinite(difference.value):
        return charts.MISSING
    low, high = difference.interval
    show = functools.partial(_signed, 1.0 if difference.metric in NO_SHARE else 100.0)
    inside = f" ({show(low)} to {show(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{show(difference.value)}{inside}"


def _signed(scale: float, value: float) -> str:
    text = f"{scale * value:+.1f}" if scale > 1 or abs(value) >= 10 else f"{value:+.2f}"
    return text.replace("-", "−")


def _headline(facts: Facts) -> dict[str, Any]:
    """Give the first thing that a person reads: one number, and the few that put it in place."""
    scores, gain = facts.scores, facts.gain
    tiles = [
        (metric_name(key), amount(key, scores.values[key]), amount_span(key, scores.intervals.get(key)))
        for key in dict.fromkeys(("accuracy", second_metric(scores)))
        if key in scores.values and key != scores.main
    ]
    if gain:
        others = gain_lines(gain)[:-1]
        best = max(others, key=lambda line: _goodness(line.scores, scores.main), default=None)
        if best and best.difference:
            value, _, interval = points(best.difference).partition(" ")
            title = "Difference" if scores.main in NO_SHARE else "Points gained"
            tiles.insert(0, (title, value, f"over {best.name} {interval}"))
        share = f"{charts.percent(gain.trainable_share, 2)} of parameters trained"
        tiles.append(("Whole run", duration(gain.seconds), share if gain.trainable_share else "nothing was trained"))
    else:
        tiles.append(("Time to answer", duration(scores.seconds), f"{scores.n:,} rows"))
    return {
        "metric": metric_name(scores.main),
        "value": amount(scores.main, scores.values.get(scores.main)),
        "interval": amount_span(scores.main, scores.intervals.get(scores.main)),
        "tiles": tiles,
    }


def _goodness(scores: Scores, metric: str) -> float:
    value = scores.values.get(metric, math.nan)
    return goodness(metric, value) if math.isfinite(value) else -math.inf


# --- sections: each gives what its macro shows, or nothing ------------------------------------------------------------


def _comparison(facts: Facts) -> dict[str, Any] | None:
    if facts.gain is None:
        return None
    lines, main = gain_lines(facts.gain), facts.scores.main
    highs = [line.scores.intervals.get(main, (0.0, 0.0))[1] for line in lines]
    full = max([high for high in highs if math.isfinite(high)] or [1.0]) if main in NO_SHARE else 1.0
    rows = [
        charts.Bar(
            line.name,
            line.scores.values.get(main, math.nan) / full,
            amount(main, line.scores.values.get(main)),
            _scaled(line.scores.intervals.get(main), full),
            line.key == "after",
        )
        for line in lines
    ]
    bars = charts.bar_rows(rows, has_axis=main not in NO_SHARE)
    return {"lines": lines, "bars": bars, "main": main, "second": second_metric(facts.scores)}


def _scaled(interval: tuple[float, float] | None, full: float) -> tuple[float, float] | None:
    return None if interval is None else (interval[0] / full, interval[1] / full)


def _advice(facts: Facts) -> tuple[str, ...]:
    return facts.gain.advice if facts.gain else ()


def _curves(facts: Facts) -> list[Markup]:
    found: list[Markup] = []
    if loss := _series(facts.events, "step", "loss"):
        found.append(charts.loss_chart(loss))
    for metric in (facts.scores.main, "loss"):
        if measured := _series(facts.events, "evaluation", metric):
            title = "loss" if metric == "loss" else metric_name(metric).lower().replace("f1", "F1")
            return [*found, charts.validation_chart(measured, title, is_lower_better=metric in LOWER_IS_BETTER)]
    return found


def _series(events: Iterable[Event], kind: str, metric: str) -> list[tuple[int, float]]:
    """Give (step, value) in order; where a resumed run repeated a step, the later one counts."""
    found = {event.step: event.values[metric] for event in events if event.kind == kind and metric in event.values}
    return sorted((step, value) for step, value in found.items() if math.isfinite(value))


def _confusion(facts: Facts) -> dict[str, Any] | None:
    labels, counts = facts.scores.details.get("labels"), facts.scores.details.get("confusion")
    if not labels or not counts:
        return None
    is_full = len(labels) <= charts.FULL_MATRIX
    picture = charts.confusion_matrix(labels, counts) if is_full else charts.heat_map(counts)
    return {"picture": picture, "is_full": is_full, "pairs": charts.confused_pairs(labels, counts), "labels": labels}


def _classes(facts: Facts) -> list[tuple[str, Mapping[str, float]]]:
    """Give the labels with the lowest F1 first; those without a test row have no F1 and stand last."""
    found = facts.scores.per_label.items()
    return sorted(found, key=lambda item: (not item[1].get("support"), item[1].get("f1", 0.0)))


def _calibration(facts: Facts) -> dict[str, Any] | None:
    bins, abstain = facts.scores.details.get("reliability"), facts.scores.details.get("abstain")
    if not any(item["n"] for item in bins or ()):
        bins = None
    if not bins and not abstain:
        return None
    ece = facts.scores.details.get("ece", math.nan)
    return {"picture": charts.reliability_chart(bins, ece) if bins else "", "abstain": abstain}


def _samples(facts: Facts) -> list[Sample]:
    return read_samples(facts.scores.details.get("samples") or ())


def _worst(facts: Facts) -> tuple[Mapping[str, Any], ...]:
    return facts.scores.worst


def _data(facts: Facts) -> dict[str, Any] | None:
    inspection = facts.inspection
    parts = part_rows(facts.plan) if facts.plan else {}
    if inspection is None:
        return {"parts": parts} if parts else None
    groups: dict[str, list[Rejected]] = {}
    for rejected in inspection.rejected:
        groups.setdefault(rejected.kind, []).append(rejected)
    ranked = sorted(groups.values(), key=lambda group: -len(group))
    return {
        "parts": parts,
        "inspection": inspection,
        "rejected": ranked,
        "severities": Counter(problem.severity for problem in inspection.problems),
        "labels": charts.label_rows(inspection.label_counts),
        "lengths": charts.length_chart(inspection.length_histogram) if inspection.length_histogram else "",
    }


def part_rows(plan: Plan) -> dict[str, int]:
    """Give the rows in train, valid and test, wherever the plan's account of its data keeps them."""
    for value in (plan.data, *plan.data.values()):
        if isinstance(value, Mapping) and isinstance(value.get("train"), int):
            return {part: value[part] for part in ("train", "valid", "test") if isinstance(value.get(part), int)}
    return {}


def _making(facts: Facts) -> dict[str, Any] | None:
    plan = facts.plan
    if plan is None:
        return {"recipe": facts.recipe} if facts.recipe else None
    known = [
        ("Run", plan.id),
        ("Updates", plan.parent),
        ("Task", plan.task),
        ("Method", plan.method),
        ("Base model", plan.base),
        ("Base SHA-256", plan.base_sha256),
        ("Seed", plan.seed),
        ("Device", plan.device),
        ("Threads", plan.threads),
        ("Precision", "full (32 bit)" if plan.precision == "no" else plan.precision),
        ("Planned steps", f"{plan.steps:,}"),
    ]
    lists = [("Options", plan.options), ("Versions", plan.versions), ("Data", plan.data)]
    return {
        "recipe": facts.recipe,
        "known": [(key, value) for key, value in known if value != ""],
        "lists": [(title, flat(mapping)) for title, mapping in lists if mapping],
    }


def _augmentation(facts: Facts) -> Sequence[Augmentation]:
    return facts.inspection.augmented if facts.inspection else ()


def _attempts(facts: Facts) -> dict[str, Any] | None:
    if not facts.attempts or facts.plan is None:
        return None
    metric = str(facts.plan.options.get("select_by", facts.scores.main))
    lines = [
        {
            **attempt,
            "score": attempt["problem"] or amount(metric, attempt["valid_score"]),
            "began": duration(attempt["began"]),
            "took": duration(attempt["seconds"]),
        }
        for attempt in facts.attempts
    ]
    return {"metric": metric_name(metric), "lines": lines}


def _speed(facts: Facts) -> dict[str, Any] | None:
    stages = facts.speed.get("stages")
    if not stages:
        return None
    whole = sum(stages.values()) or 1.0
    ordered = sorted(stages.items(), key=lambda stage: -stage[1])
    known = []
    if "tokens_per_second" in facts.speed:
        known = [
            ("Tokens trained on", f"{facts.speed['tokens']:,}"),
            ("Tokens per second of training", f"{facts.speed['tokens_per_second']:,.0f}"),
        ]
    if "share_of_peak" in facts.speed:
        known.append(("Share of this machine's matrix peak", f"{100 * facts.speed['share_of_peak']:.0f}%"))
        known.append(("Matrix peak, measured", f"{facts.speed['peak_gflops']:,.0f} GFLOP/s"))
    return {"known": known, "stages": [(name, duration(took), 100 * took / whole) for name, took in ordered]}


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Give nested settings as lines of dotted name and value."""
    lines: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        else:
            is_list = isinstance(value, (list, tuple))
            lines.append((f"{prefix}{key}", ", ".join(map(str, value)) if is_list else str(value)))
    return lines


def _intervals(facts: Facts) -> bool:
    return bool(facts.scores.intervals)


SECTIONS: tuple[tuple[str, str, Callable[[Facts], Any]], ...] = (
    ("comparison", "Before and after", _comparison),
    ("compression", "What compression cost and brought", lambda facts: compressed.section(facts.scores.details)),
    ("lineage", "What it learnt, and what it kept", lambda facts: updated.section(facts.scores.details.get("lineage"))),
    ("unlabelled", "What unlabelled rows added", lambda facts: facts.scores.details.get("self_training")),
    ("advice", "What would help", _advice),
    ("curves", "How it learned", _curves),
    ("confusion", "What it confuses", _confusion),
    ("classes", "Each class", _classes),
    ("calibration", "How far to trust its confidence", _calibration),
    ("samples", "Some of its answers", _samples),
    ("worst", "Most confident mistakes", _worst),
    ("data", "The data", _data),
    ("augmentation", "Copies of training rows", _augmentation),
    ("attempts", "What was tried in the time", _attempts),
    ("speed", "Where the time went", _speed),
    ("making", "How it was made", _making),
    ("intervals", "How the intervals were made", _intervals),
)


def _shown(value: Any) -> Any:
    """Give what the template prints: markup as it is, missing numbers as a dash, text without control characters."""
    if isinstance(value, Markup):
        return value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return charts.MISSING
    return charts.clean(value)


@functools.cache
def page_engine(folder: Path | None = None) -> jinja2.Environment:
    """Give the template engine; escaping is on for every value, and a name that is not there is an error.

    Args:
        folder: Where templates are looked for before this room's own, which hold the look of all pages.
    """
    own = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder or own, own]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=charts.percent, duration=duration, points=points, clip=charts.clip)
    environment.globals.update(amount=amount, amount_span=amount_span, no_share=NO_SHARE)
    environment.globals.update(bar=charts.bar, bar_rows=charts.bar_rows, metric_name=metric_name, most_text=SHOWN_TEXT)
    return environment

"""One HTML page that says what choosing rows to label brings, in the look of the run's own report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tunesmith.bundle.charts import MISSING, Frame, figure, rounded, tag, text_at
from tunesmith.bundle.report import amount, duration, metric_name, page_engine, points
from tunesmith.metrics import LOWER_IS_BETTER, NO_SHARE
from tunesmith.search.label_curve import CHANCE, LabelCurve, Point, labels_saved

_HERE = Path(__file__).parent
_READING = (
    "Both begin with the same labels and are measured on the same test rows; after each round a model is trained anew "
    "on all labels that were revealed. Differences are paired over the test rows; of several seeds, the mean of value "
    "and interval. Intervals say how much other test rows would change, not other seeds."
)


def render_curve(found: LabelCurve) -> str:
    """Give one self-contained page; the same input gives the same bytes."""
    last = found.curve(found.by)[-1]
    page = page_engine(_HERE).get_template("labels.html.jinja")
    text = page.render(
        name=found.folder.name,
        kind="Learning curve of labels",
        task=found.task,
        verdict=verdict(found),
        headline={
            "value": amount(found.metric, last.value),
            "words": f"{metric_name(found.metric)} with {last.labelled:,} labels chosen by {found.by}",
            "interval": "",
        },
        tiles=_tiles(found),
        chart=curves_chart(found),
        by=found.by,
        unit="" if found.metric in NO_SHARE else ", points",
        rows=cells(found),
        reading=_READING,
        made=[
            ("Data", found.data),
            ("Base model", found.base),
            ("Method", found.method),
            ("Rows", " · ".join(f"{part} {rows:,}" for part, rows in found.rows.items())),
            ("Seeds", ", ".join(map(str, found.seeds))),
            ("Time", duration(found.seconds)),
        ],
    )
    return text.lstrip() + "\n"


def _tiles(found: LabelCurve) -> list[tuple[str, str, str]]:
    chance = found.curve(CHANCE)[-1]
    tiles = [("By chance", amount(found.metric, chance.value), f"with {chance.labelled:,} labels")]
    if found.everything is not None:
        every = amount(found.metric, found.everything.value)
        tiles.append(("All labels", every, f"{found.rows['pool']:,} training rows, first seed"))
    saved = labels_saved(found)
    tiles.append(("Labels saved", MISSING if saved is None else f"{saved:,}", "for what chance reaches at the end"))
    return tiles


def verdict(found: LabelCurve) -> str:
    """Say in a sentence or two what choosing brought."""
    last, words = found.differences[-1], metric_name(found.metric)
    chosen, chance = found.curve(found.by)[-1], found.curve(CHANCE)[-1]
    low, high = last.interval
    better, worse = (low > 0, high < 0) if found.metric not in LOWER_IS_BETTER else (high < 0, low > 0)
    judged = "Choosing paid" if better else "Choosing cost" if worse else "It cannot be told whether choosing pays"
    unit = "" if found.metric in NO_SHARE else " points"
    text = (
        f"{judged}: with {chosen.labelled:,} labels {words} is {amount(found.metric, chosen.value)} by {found.by} and "
        f"{amount(found.metric, chance.value)} by chance, {points(last)}{unit}."
    )
    saved = labels_saved(found)
    if saved and better:
        text += f" What chance reaches with {chance.labelled:,} labels, {found.by} reaches with {saved:,} fewer."
    return text


def cells(found: LabelCurve) -> list[tuple[str, ...]]:
    """Give the lines of the table: labels, score by choice, score by chance, their difference."""
    pairs = zip(found.curve(found.by), found.curve(CHANCE), [None, *found.differences], strict=True)
    return [
        (
            f"{one.labelled:,}",
            _spread(found.metric, one),
            _spread(found.metric, other),
            MISSING if difference is None else points(difference),
        )
        for one, other, difference in pairs
    ]


def _spread(metric: str, point: Point) -> str:
    """Give the mean, and of several seeds the lowest and the highest."""
    mean = amount(metric, point.value)
    if len(point.values) == 1:
        return mean
    low, high = (amount(metric, end).removesuffix("%") for end in (min(point.values), max(point.values)))
    return f"{mean} ({low} to {high})"


def curves_chart(found: LabelCurve) -> Markup:
    """Give the score against the number of labels: chosen rows in the accent, rows by chance in grey."""
    every = [(point.labelled, value) for point in found.points for value in point.values]
    every.sort()
    values = [value for _, value in every]
    show = "{:g}".format if found.metric in NO_SHARE else _as_percent
    around = Frame.around(every, floor=min(values), show=show)
    first = every[0][0]
    frame = Frame((first, max(every[-1][0], first + 1)), around.up, around.ticks_y, show)
    parts = frame.grid()
    marks = _apart([point.labelled for point in found.curve(found.by)])
    parts += [text_at(frame.x(mark), frame.bottom + 18, f"{mark:,}", "middle") for mark in marks]
    for by, kind in ((CHANCE, "grey"), (found.by, "fill")):
        curve = found.curve(by)
        line = [(point.labelled, point.value) for point in curve]
        style = {"class_": "line"} if by == found.by else {"class_": "line", "stroke_dasharray": "3 3"}
        parts.append(tag("path", d=frame.path(line), **style))
        for point in curve:
            title = tag("title", f"{by}, {point.labelled:,} labels: {_spread(found.metric, point)}")
            place = {"cx": rounded(frame.x(point.labelled)), "cy": rounded(frame.y(point.value))}
            parts.append(tag("circle", title, **place, r=3, class_=kind))
    chosen, chance = found.curve(found.by)[-1], found.curve(CHANCE)[-1]
    shift = -8 if frame.y(chosen.value) <= frame.y(chance.value) else 14
    parts.append(text_at(frame.right, frame.y(chosen.value) + shift, found.by, "strong end"))
    parts.append(text_at(frame.right, frame.y(chance.value) + (14 if shift < 0 else -8), CHANCE, "end"))
    caption = f"{metric_name(found.metric)} on the test rows by the number of labels"
    note = "Full line: chosen rows; dashed: rows by chance. Dots are means over the seeds."
    return figure(caption, 200, *parts, note=note)


def _as_percent(value: float) -> str:
    return f"{100 * value:g}%"


def _apart(marks: Sequence[int], most: int = 7) -> list[int]:
    """Give at most so many of the marks, evenly spaced, the last among them."""
    stride = max(1, -(-len(marks) // most))
    return list(marks[::-1][::stride])[::-1]

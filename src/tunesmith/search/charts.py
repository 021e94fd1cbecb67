"""The two pictures of a search: the best score so far over the trials, and what a score costs. See `bundle.charts`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.bundle.charts import Frame, clip, figure, line_between, rounded, tag, text_at, ticks
from tunesmith.bundle.report import amount, duration, metric_name
from tunesmith.metrics import NO_SHARE, goodness

_GAP = 13.0  # between two lines of words, in units of the figure
_LETTER = 6.6  # width of a letter
_MARKS = (1, 2, 5)  # of each power of ten
_APART = 44.0  # between two marks with their time
_LEAST_SECONDS, _MOST_TIMES = 0.1, 1000.0  # the shortest time that is drawn, and how many times it the longest may be


@dataclass(frozen=True)
class Priced:
    """One thing that was tried: what it reached and what that took."""

    name: str
    seconds: float
    value: float
    interval: tuple[float, float] | None = None
    is_accent: bool = False


def trials_chart(points: Sequence[tuple[int, float, float]], metric: str, *, best: int | None = None) -> Markup:
    """Give each complete trial's score as a dot, and the best so far as a line.

    Args:
        points: (number, value, best so far), by number; at least one.
        metric: What the values are.
        best: The trial that was chosen, where several share the best value; default: the first of them.
    """
    frame = Frame.around([(number, value) for number, value, _ in points], show=_axis(metric))
    last = max(1, points[-1][0])
    stairs: list[tuple[float, float]] = []
    for (number, _, so_far), following in zip(points, [*points[1:], (last, 0.0, 0.0)], strict=True):
        stairs += [(frame.x(number), frame.y(so_far)), (frame.x(following[0]), frame.y(so_far))]
    path = "M" + "L".join(f"{rounded(x)} {rounded(y)}" for x, y in stairs)
    level = [point for point in points if point[1] == points[-1][2]]
    number, value, _ = next((point for point in level if point[0] == best), level[0])
    x, y = frame.x(number), frame.y(value)
    is_right = x > 240
    said = amount(metric, value)
    dots = [
        tag(
            "circle",
            tag("title", f"trial {each}: {amount(metric, found)}"),
            **_place(frame, each, found),
            class_="grey",
        )
        for each, found, _ in points
    ]
    parts = [
        *dots,
        tag("path", d=path, class_="line"),
        tag("circle", cx=rounded(x), cy=rounded(y), r=5, class_="ring"),
        text_at(x + (-4 if is_right else 4), y - 11, f"best {said}", "strong end" if is_right else "strong"),
    ]
    caption = f"Validation {metric_name(metric).lower().replace('f1', 'F1')} was best in trial {number}: {said}"
    note = "A dot for each trial that was trained to its end, by number; the line is the best so far."
    return figure(caption, 200, frame.axes(), *parts, note=note)


def _place(frame: Frame, across: float, up: float) -> dict[str, object]:
    return {"cx": rounded(frame.x(across)), "cy": rounded(frame.y(up)), "r": 3.5}


def cost_chart(found: Sequence[Priced], metric: str, *, cost: str = "training") -> Markup:
    """Give scores with their intervals against what they cost, on a logarithmic scale.

    Args:
        found: What was tried; at least one.
        metric: What the values are.
        cost: What the seconds were spent on, for the caption.
    """
    least = max(_LEAST_SECONDS, max(each.seconds for each in found) / _MOST_TIMES)  # a method may train nothing at all
    seconds = [max(each.seconds, least) for each in found]
    ends = [end for each in found for end in (each.value, *(each.interval or ()))]
    marks = ticks(min(ends), max(ends))
    low, high = _whole_marks(min(seconds), max(seconds))
    across = (math.log10(low), math.log10(high))
    frame = Frame(across, (marks[0], marks[-1]), tuple(marks), _axis(metric), bottom=202)
    parts = frame.grid()
    places = {mark: frame.x(math.log10(mark)) for mark in _marks_between(low, high)}
    parts += [line_between(x, 202, x, 206) for x in places.values()]
    parts += [text_at(places[mark], 220, f"{mark:,g} s", "middle") for mark in _written(places)]
    taken: list[tuple[float, float, float]] = []  # left, right and height of the words so far
    order = sorted(zip(seconds, found, strict=True), key=lambda pair: -pair[1].value)
    for cost_seconds, each in order:
        x, y = frame.x(math.log10(cost_seconds)), frame.y(each.value)
        if each.interval:
            parts.append(line_between(x, frame.y(each.interval[0]), x, frame.y(each.interval[1]), kind="whisker"))
        title = tag("title", f"{each.name}: {amount(metric, each.value)}, {duration(each.seconds)}")
        kind = "fill" if each.is_accent else "grey"
        parts.append(tag("circle", title, cx=rounded(x), cy=rounded(y), r=4.5, class_=kind))
        parts.append(_name(each, x, y, taken))
    best = max(found, key=lambda each: goodness(metric, each.value))
    caption = f"{best.name} reached {amount(metric, best.value)} with {duration(best.seconds)} of {cost}"
    note = f"Up: {metric_name(metric)} on the test rows, with 95% interval. Across: time of {cost}, on a log scale."
    return figure(caption, 226, *parts, note=note)


def _name(each: Priced, x: float, y: float, taken: list[tuple[float, float, float]]) -> Markup:
    """Give the words beside a dot, moved down until they are on no others."""
    words = clip(each.name, 18)
    width = _LETTER * len(words)
    is_left = x + 8 + width > 350
    left = x - 8 - width if is_left else x + 8
    height = y + 4
    while any(left < right and start < left + width and abs(height - other) < _GAP for start, right, other in taken):
        height += _GAP
    taken.append((left, left + width, height))
    kind = "strong" if each.is_accent else ""
    return text_at(x - 8 if is_left else x + 8, height, words, f"{kind} end".strip() if is_left else kind)


def _axis(metric: str) -> Callable[[float], str]:
    return (lambda value: f"{value:g}") if metric in NO_SHARE else (lambda value: f"{100 * value:g}%")


def _marks_between(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [step * 10.0**power for power in powers for step in _MARKS]
    return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]


def _written(places: Mapping[float, float]) -> list[float]:
    """Give the marks that have room for words: all, else powers of ten, else as many of these as fit."""
    every = list(places)
    powers = [mark for mark in every if math.log10(mark).is_integer()] or every[:1]
    for marks in (every, powers, powers[::2], powers[::3]):
        if all(places[later] - places[earlier] >= _APART for earlier, later in itertools.pairwise(marks)):
            return marks
    return powers[:1]


def _whole_marks(low: float, high: float) -> tuple[float, float]:
    """Give the marks at or below `low` and at or above `high`."""
    start, end = _marks_between(low / 100, low)[-1], _marks_between(high, high * 100)[0]
    return (start, end) if end > start else (start, _marks_between(end * 1.01, end * 100)[0])

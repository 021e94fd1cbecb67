"""Charts as inline SVG: pure functions from numbers to markup, with nothing to fetch and nothing to run.

Each chart says in its caption what is seen, draws one accent on greys, and takes its colours from the CSS in
`report.html.jinja`, so that light, dark and paper work from the same markup. Plots are drawn 360 units wide, because
text in a wider picture is unreadable once a phone has scaled it down; bars keep their words in HTML, where they do not
scale at all.

Everything written passes `tag`, which escapes: labels, texts and file names are hostile until proven otherwise.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

MISSING = "–"  # what stands where there is no number: nothing was measured, or it is not finite
FULL_MATRIX = 30  # above this many labels a matrix with counts is a wall of digits


def clean(value: object) -> str:
    """Give `value` as text that any file and any parser can hold: no control characters, no lone surrogates."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", str(value))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Give one element; children and attributes are escaped unless they are `Markup` already."""
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items())
    opening = Markup("").join(Markup(' %s="%s"') % (key, clean(value)) for key, value in pairs)
    inside = Markup("").join(child if isinstance(child, Markup) else escape(clean(child)) for child in children)
    return Markup("<%s%s>%s</%s>") % (name, opening, inside, name)


def percent(share: float | None, digits: int = 1) -> str:
    """Give a share as percent, or a dash where there is none."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.{digits}f}%"


def cells(text: str) -> int:
    """Give the width of `text` in half-width columns: a Chinese character takes two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def clip(text: str, width: int) -> str:
    """Give `text` in at most `width` half-width columns, with an ellipsis where something was cut."""
    if cells(text) <= width:
        return text
    kept = 0
    for position, letter in enumerate(text):
        kept += cells(letter)
        if kept > width - 1:
            return text[:position] + "…"
    return text


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Give round numbers from at or below `low` to at or above `high`, about `count` steps apart."""
    raw = ((high - low) or abs(high) or 1.0) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


# --- bars: words in HTML, lengths in SVG ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart."""

    name: str
    share: float  # 0..1 of the full width
    text: str  # the direct label
    interval: tuple[float, float] | None = None  # 0..1
    is_accent: bool = False


def bar(share: float, title: str, *, interval: tuple[float, float] | None = None, is_accent: bool = True) -> Markup:
    """Give one bar as wide as its box; `interval` adds a whisker."""
    width = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    parts = [tag("title", title), line_between(0, 0, 0, 16)]
    if interval:
        parts += [line_between(mark, 0, mark, 16) for mark in (25, 50, 75, 100)]
    parts.append(tag("rect", x=0, y=3, width=rounded(width), height=10, class_="fill" if is_accent else "grey"))
    if interval and all(map(math.isfinite, interval)):
        low, high = (100 * min(max(end, 0.0), 1.0) for end in interval)
        parts += [
            line_between(*ends, kind="whisker") for ends in ((low, 8, high, 8), (low, 5, low, 11), (high, 5, high, 11))
        ]
    return tag("svg", *parts, viewBox="0 0 100 16", preserveAspectRatio="none", class_="bar", role="img")


def bar_rows(rows: Iterable[Bar], *, has_axis: bool = False) -> Markup:
    """Give labelled bars, one below the other; `has_axis` adds 0% to 100% below."""
    parts: list[Markup] = []
    for row in rows:
        kind = " accent" if row.is_accent else ""
        parts += [
            tag("bdi", clip(row.name, 60), class_="name" + kind, title=row.name),
            bar(row.share, f"{row.name}: {row.text}", interval=row.interval, is_accent=row.is_accent),
            tag("span", row.text, class_="value" + kind),
        ]
    if has_axis:
        parts.append(tag("div", *(tag("span", f"{mark}%") for mark in (0, 25, 50, 75, 100)), class_="axis"))
    return tag("div", *parts, class_="bars")


def label_rows(counts: Mapping[str, int]) -> list[Bar]:
    """Give one bar for each label, the most frequent first; the longest bar fills its box."""
    most, total = max([*counts.values(), 1]), sum(counts.values()) or 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    return [Bar(label, count / most, f"{count:,} · {percent(count / total)}") for label, count in ranked]


# --- plots ------------------------------------------------------------------------------------------------------------


def loss_chart(points: Sequence[tuple[int, float]]) -> Markup:
    """Give the training loss: raw values faint, their running mean strong."""
    smooth = smoothed(points)
    frame = Frame.around(points, floor=0.0)
    last_step, last = smooth[-1]
    caption = f"Training loss went from {smooth[0][1]:.2f} to {last:.2f} in {last_step:,} steps"
    body = [
        tag("path", d=frame.path(thinned(points)), class_="faint"),
        tag("path", d=frame.path(thinned(smooth)), class_="line"),
        text_at(frame.x(last_step) + 5, frame.y(last) + 4, f"{last:.2f}", "strong"),
    ]
    return figure(caption, 200, frame.axes(), *body, note="Thin: every logged step. Thick: running mean.")


def validation_chart(points: Sequence[tuple[int, float]], metric: str, *, is_lower_better: bool = False) -> Markup:
    """Give a validation metric over the steps, with the best step marked."""
    show: Callable[[float], str] = (lambda value: f"{value:.3g}") if is_lower_better else percent
    axis: Callable[[float], str] = (
        (lambda value: f"{value:g}") if is_lower_better else (lambda value: f"{100 * value:g}%")
    )
    best = (min if is_lower_better else max)(points, key=lambda point: point[1])
    frame = Frame.around(points, show=axis)
    x, y = frame.x(best[0]), frame.y(best[1])
    is_right = x > 240
    caption = f"Validation {metric} was best at step {best[0]:,}: {show(best[1])}"
    dots = [
        tag("circle", cx=rounded(frame.x(step)), cy=rounded(frame.y(value)), r=2.5, class_="fill")
        for step, value in points
    ]
    body = [
        tag("path", d=frame.path(points), class_="line"),
        *(dots if len(dots) <= 60 else []),
        tag("circle", cx=rounded(x), cy=rounded(y), r=5, class_="ring"),
        text_at(x + (-4 if is_right else 4), y - 11, f"best {show(best[1])}", "strong end" if is_right else "strong"),
    ]
    return figure(
        caption, 200, frame.axes(), *body, note="Measured on rows that were not trained on; the ring is the step kept."
    )


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Give an exponential running mean over about a twentieth of the run, without a slow start."""
    keep = 1 - 1 / max(1.0, len(points) / 20)
    mean, weight, result = 0.0, 0.0, []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append((step, mean / weight))
    return result


def thinned(points: Sequence[tuple[int, float]], most: int = 300) -> list[tuple[int, float]]:
    """Give at most about `most` of the points, always with the last: a file should not grow with the run."""
    stride = max(1, math.ceil(len(points) / most))
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def reliability_chart(bins: Sequence[Mapping[str, Any]], ece: float) -> Markup:
    """Give how often the model is right against how sure it says it is, with the rows in each bin below."""
    held = [item for item in bins if item["n"]]
    frame = Frame(
        (0, 1), (0, 1), ticks_y=(0, 0.25, 0.5, 0.75, 1), show=lambda v: f"{100 * v:g}%", right=344, bottom=236
    )
    parts = [*frame.grid(), line_between(frame.x(0), frame.y(0), frame.x(1), frame.y(1), kind="ideal")]
    parts += [text_at(50, 24, "more often right than sure"), text_at(340, 228, "more sure than right", "end")]
    most = max([item["n"] for item in held] or [1])
    for item in held:
        x, low_high = frame.x(item["confidence"]), wilson(item["accuracy"], item["n"])
        parts.append(line_between(x, frame.y(low_high[0]), x, frame.y(low_high[1]), kind="whisker"))
        parts.append(tag("circle", cx=rounded(x), cy=rounded(frame.y(item["accuracy"])), r=4.5, class_="fill"))
        left, height = frame.x(item["from"]), 40 * item["n"] / most
        width = frame.x(item["to"]) - left - 2
        parts.append(
            tag(
                "rect",
                x=rounded(left + 1),
                y=rounded(296 - height),
                width=rounded(width),
                height=rounded(height),
                class_="grey",
            )
        )
        parts.append(text_at(left + 1 + width / 2, 292 - height, short(item["n"]), "middle"))
    parts += [text_at(frame.x(mark), 312, f"{100 * mark:g}%", "middle") for mark in (0, 0.25, 0.5, 0.75, 1)]
    gap = f"{100 * ece:.1f} points" if math.isfinite(ece) else "an unknown amount"
    caption = f"Confidence and the share of right answers differ by {gap} on average (ECE)"
    note = "Across: how sure. Up: how often right, with 95% interval. On the dashed line both agree. Grey: rows."
    return figure(caption, 318, *parts, note=note)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Give the 95% Wilson interval of a share of `n` rows. Source: Wilson 1927."""
    z = 1.96
    centre, spread = share + z * z / (2 * n), z * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def length_chart(histogram: Sequence[tuple[int, int, int]]) -> Markup:
    """Give how many rows there are of each text length."""
    total, most = sum(rows for _, _, rows in histogram), max([rows for _, _, rows in histogram] or [1]) or 1
    width, parts, seen, middle = 336 / len(histogram), [line_between(12, 130, 348, 130)], 0, ""
    every = math.ceil(len(histogram) / 6)
    for position, (start, end, rows) in enumerate(histogram):
        x, height = 12 + position * width, 104 * rows / most
        parts.append(
            tag(
                "rect",
                x=rounded(x + 0.75),
                y=rounded(130 - height),
                width=rounded(width - 1.5),
                height=rounded(height),
                class_="grey",
            )
        )
        if rows and width >= 26:
            parts.append(text_at(x + width / 2, 125 - height, short(rows), "middle"))
        if position % every == 0:
            parts.append(text_at(x, 146, short(start), "middle"))
        seen += rows
        middle = middle or (f"{start:,} to {end - 1:,}" if 2 * seen >= total else "")
    parts.append(text_at(348, 146, short(histogram[-1][1]), "middle"))
    return figure(f"The middle text has {middle} characters", 152, *parts, note="Rows by length in characters.")


def short(count: float) -> str:
    """Give a count in at most about four characters."""
    return f"{count:g}" if count < 10_000 else f"{count / 1000:.0f}k"


# --- confusion --------------------------------------------------------------------------------------------------------


def confused_pairs(
    labels: Sequence[str], counts: Sequence[Sequence[int]], most: int = 20
) -> list[tuple[str, str, int, float]]:
    """Give the pairs (true, answered, rows, share of the true label's rows) that are mixed up most, worst first."""
    pairs = [
        (labels[i], labels[j], count, count / sum(row))
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:most]


def confusion_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Give the full matrix with counts: true labels down, answers across, shade by share of the row."""
    names = [clip(clean(label), 20) for label in labels]
    longest, n = max(map(cells, names)), len(names)
    side = 64 if n <= 4 else 40 if n <= 15 else 28
    gutter, is_flat = 7 * longest + 14, 7 * longest <= side
    top = 24 if is_flat else 7 * longest + 12
    parts: list[Markup] = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        middle = top + i * side + side / 2 + 4
        parts.append(text_at(gutter - 8, middle, name, "end"))
        x = gutter + i * side + side / 2
        turned = {} if is_flat else {"transform": f"rotate(-90 {rounded(x + 4)} {top - 8})"}
        parts.append(
            tag(
                "text",
                name,
                x=rounded(x if is_flat else x + 4),
                y=top - 8,
                class_="middle" if is_flat else "",
                **turned,
            )
        )
        for j, count in enumerate(row):
            share, left = count / (sum(row) or 1), gutter + j * side
            said = f"{labels[i]} answered as {labels[j]}: {count} ({percent(share)})"
            square = {"x": left + 1, "y": top + i * side + 1, "width": side - 2, "height": side - 2}
            parts.append(
                tag("rect", tag("title", said), **square, class_="fill", fill_opacity=rounded(0.04 + 0.96 * share, 3))
            )
            if count:
                kind = "on" if share > 0.7 else "strong"
                parts.append(text_at(left + side / 2, middle, short(count), f"middle {kind}"))
    width, height = gutter + n * side, top + n * side
    return tag(
        "svg",
        tag("title", _right(counts)),
        *parts,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        class_="natural",
        role="img",
    )


def heat_map(counts: Sequence[Sequence[int]]) -> Markup:
    """Give the matrix of many labels as a picture: one dot for each pair that happened, darker for a larger share."""
    n = len(counts)
    shades: dict[int, list[str]] = {}
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count:
                # A single mistake must still be seen, so shades start at a quarter and rise with the root of the share.
                shade = math.ceil(4 * math.sqrt(count / sum(row)))
                shades.setdefault(shade, []).append(f"M{j} {i}h1v1h-1z")
    paths = [
        tag("path", d="".join(dots), class_="fill", fill_opacity=shade / 4) for shade, dots in sorted(shades.items())
    ]
    edge = tag("rect", x=0, y=0, width=n, height=n, fill="none", class_="grid")
    return tag("svg", tag("title", _right(counts)), edge, *paths, viewBox=f"0 0 {n} {n}", class_="plot", role="img")


def _right(counts: Sequence[Sequence[int]]) -> str:
    """Give what a confusion matrix shows, in words."""
    right, total = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
    return f"{right:,} of {total:,} rows answered right"


# --- the parts that plots are made of ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """Where numbers land in a plot."""

    across: tuple[float, float]
    up: tuple[float, float]
    ticks_y: tuple[float, ...]
    show: Callable[[float], str]
    left: float = 44
    right: float = 318
    top: float = 14
    bottom: float = 172

    @classmethod
    def around(
        cls,
        points: Sequence[tuple[int, float]],
        *,
        floor: float | None = None,
        show: Callable[[float], str] = "{:g}".format,
    ) -> Frame:
        """Give the frame that holds `points`, with round numbers at its edges."""
        values = [value for _, value in points]
        low, high = min(values) if floor is None else floor, max(values)
        if low == high:
            low, high = min(0.0, high), max(0.0, high) or 1.0
        marks = ticks(low, high)
        return cls((0, max(1, points[-1][0])), (marks[0], marks[-1]), tuple(marks), show)

    def x(self, value: float) -> float:
        """Give where a number lands across."""
        start, end = self.across
        return self.left + (value - start) / (end - start) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Give where a number lands up."""
        start, end = self.up
        return self.bottom - (value - start) / (end - start) * (self.bottom - self.top)

    def path(self, points: Sequence[tuple[int, float]]) -> str:
        """Give a line through points, as an SVG path."""
        return "M" + "L".join(f"{rounded(self.x(step))} {rounded(self.y(value))}" for step, value in points)

    def grid(self) -> list[Markup]:
        """Give the horizontal lines with their numbers."""
        marks = [(self.y(mark), self.show(mark)) for mark in self.ticks_y]
        return [
            part
            for y, words in marks
            for part in (line_between(self.left, y, self.right, y), text_at(self.left - 6, y + 4, words, "end"))
        ]

    def axes(self) -> list[Markup]:
        """Give the grid, with steps below."""
        end = self.across[1]
        steps = [mark for mark in ticks(0, end) if mark <= end]
        return [*self.grid(), *(text_at(self.x(mark), self.bottom + 18, f"{mark:,.0f}", "middle") for mark in steps)]


def figure(caption: str, height: int, *parts: Markup | list[Markup], note: str) -> Markup:
    """Give a figure of 360 by `height` units; the caption says what is seen, the note how to read it."""
    body = [tag("title", caption), *(piece for part in parts for piece in (part if isinstance(part, list) else [part]))]
    svg = tag("svg", *body, viewBox=f"0 0 360 {height}", class_="plot", role="img")
    return tag("figure", tag("figcaption", caption, tag("small", note)), svg)


def text_at(x: float, y: float, words: str, kind: str = "") -> Markup:
    """Give words at a place of a figure; `kind` is a class of the page's CSS."""
    return tag("text", words, x=rounded(x), y=rounded(y), **({"class_": kind} if kind else {}))


def line_between(x1: float, y1: float, x2: float, y2: float, *, kind: str = "grid") -> Markup:
    """Give a straight line."""
    return tag("line", x1=rounded(x1), y1=rounded(y1), x2=rounded(x2), y2=rounded(y2), class_=kind)


def rounded(value: float, digits: int = 1) -> str:
    """Give a coordinate in as few characters as its picture needs."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")

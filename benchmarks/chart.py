"""A chart of ratios as SVG: one bar each, a whisker from the least to the most, a tick at the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _ROW, _LEFT, _RIGHT, _TOP = 1000, 26, 570, 60, 30
_INK, _BAR, _GOAL, _GRID = "#1f2933", "#4878a8", "#c0392b", "#d5dbe1"


def draw(ratios: Sequence[Mapping[str, Any]]) -> str:
    """Give the SVG. 1 is as fast as what it is held against; a reached goal's tick stands inside the bar."""
    goals = [float(each["goal"]) for each in ratios if _is_number(each["goal"])]
    most = 1.05 * max([each["high"] for each in ratios] + goals + [1.0])
    height = _TOP + _ROW * len(ratios) + 24

    def across(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / most

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12" fill="{_INK}" role="img">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="16">times; whisker: least to most; red: goal</text>',
    ]
    bottom = _TOP + _ROW * len(ratios)
    for tick in _ticks(most):
        x = across(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for row, each in enumerate(ratios):
        parts += _bar(each, _TOP + _ROW * row, across)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(each: Mapping[str, Any], y: float, across: Any) -> list[str]:
    middle = y + _ROW / 2
    name = f"{each['case']}: {each['name']}" if each["case"] else each["name"]
    name = name if len(name) <= 88 else name[:87] + "…"
    width = across(each["value"]) - across(0)
    parts = [
        f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>',
        f'<rect x="{across(0):.1f}" y="{y + 5:.1f}" width="{width:.1f}" height="{_ROW - 10}" fill="{_BAR}"/>',
        f'<line x1="{across(each["low"]):.1f}" y1="{middle:.1f}" x2="{across(each["high"]):.1f}" y2="{middle:.1f}" '
        f'stroke="{_INK}" stroke-width="1.5"/>',
        f'<text x="{across(each["high"]) + 6:.1f}" y="{middle + 4:.1f}">{each["value"]:.2f}</text>',
    ]
    if _is_number(each["goal"]):
        x = across(float(each["goal"]))
        parts.append(
            f'<line x1="{x:.1f}" y1="{y + 2:.1f}" x2="{x:.1f}" y2="{y + _ROW - 2:.1f}" '
            f'stroke="{_GOAL}" stroke-width="2"/>'
        )
    return parts


def _is_number(text: str) -> bool:
    return bool(text) and text.replace(".", "", 1).isdigit()


def _ticks(most: float) -> list[float]:
    step = next(step for step in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e9) if most / step <= 8)
    return [step * count for count in range(int(most / step) + 1)]

"""Tables and charts come from the JSON; what stands outside of the markers stays."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any


def _figure(**more: Any) -> dict[str, Any]:
    return {
        "name": "a < b",
        "value": 2.0,
        "low": 1.5,
        "high": 2.5,
        "rounds": 3,
        "unit": "times",
        "goal": "2.5",
        "limit": "3.1",
        "case": "toy",
        **more,
    }


def test_blocks_with_a_result_are_filled(benchmark_modules: Any, tmp_path: Path) -> None:
    report = benchmark_modules("report")
    document = tmp_path / "performance.md"
    document.write_text(
        "# Before\n<!-- bench:speed -->\nold\n<!-- end -->\nbetween\n"
        "<!-- bench:absent -->\nkept\n<!-- end -->\nafter\n",
        encoding="utf-8",
    )
    machine = {"processor": "P", "cores": 2, "threads": 1, "load_before": 0.1, "versions": {"torch": "2"}}
    result = {
        "benchmark": "speed",
        "made": "2026-01-02T03:04:05+00:00",
        "machine": machine,
        "options": {"rows": 2000, "rounds": 3, "set": {"epochs": "2"}},
        "figures": [_figure(), _figure(name="c", unit="tokens/CPU s", value=1234.5)],
        "runs": [{"contestant": "peer", "not_run": "no package"}, {"contestant": "ours", "not_run": ""}],
    }
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "speed.json").write_text(json.dumps(result), encoding="utf-8")
    assert report.write(document, tmp_path / "results") == ["speed"]
    content = document.read_text(encoding="utf-8")
    assert "old" not in content
    assert content.startswith(
        "# Before\n<!-- bench:speed -->\n![speed: times faster, median and range](performance/speed.svg)"
    )
    assert "| toy | a < b | 2 times | 1.5 to 2.5 | 3 | 2.5 | 3.1 |" in content
    assert "| toy | c | 1,234 tokens/CPU s |" in content
    assert "- not run: peer: no package" in content
    assert "Measured 2026-01-02 on P, 2 cores, load before 0.1: 2,000 training rows, 3 rounds" in content
    assert content.endswith("<!-- end -->\nbetween\n<!-- bench:absent -->\nkept\n<!-- end -->\nafter\n")
    assert report.write(document, tmp_path / "results") == ["speed"]  # filling again changes nothing
    assert document.read_text(encoding="utf-8") == content


def test_a_chart_is_well_formed_and_in_proportion(benchmark_modules: Any) -> None:
    chart = benchmark_modules("chart")
    drawn = ElementTree.fromstring(
        chart.draw([_figure(), _figure(value=4.0, low=4.0, high=4.0, goal="within 0.5 of 0")])
    )
    space = "{http://www.w3.org/2000/svg}"
    bars = [float(each.get("width", "0")) for each in drawn.findall(f"{space}rect")][1:]
    assert abs(bars[1] / bars[0] - 2) < 0.01
    assert len([each for each in drawn.findall(f"{space}line") if each.get("stroke") == "#c0392b"]) == 1

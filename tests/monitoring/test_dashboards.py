"""The files for Prometheus and Grafana ask for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

import tunesmith
from tunesmith.monitoring.alerts import read_rules
from tunesmith.monitoring.catalogue import METRICS, SHARES, TESTS
from tunesmith.service.answering import Load
from tunesmith.service.meters import Meters

RULES = Path(tunesmith.__file__).parent / "monitoring" / "rules"
DOCUMENT = Path(__file__).parents[2] / "docs" / "monitoring.md"


class Idle:
    """An answering that serves nothing."""

    def models(self):
        return {}

    def load_now(self):
        return Load(0, 0, 0, 100, 1, 1, 0, {1: 1})


def served_names() -> set[str]:
    """Give the names of the series that a service shows, and of the two that it makes of monitors."""
    found = {"up", "tunesmith_monitor", "tunesmith_alert"}
    for family in Meters(Idle()).registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + ending for ending in endings}
    return found


def check(expression: str) -> None:
    series = set(re.findall(r"\b(tunesmith_[a-z0-9_]+|up)\b(?=[{\[) ]|$)", expression))
    assert series, expression
    assert series <= served_names(), expression
    for wanted in re.findall(r'tunesmith_monitor\{name="([^"]+)"', expression):
        assert wanted in METRICS, expression
    for pattern in re.findall(r'tunesmith_monitor\{name=~"([^"]+)"', expression):
        names = [*METRICS, *(f"{start}x" for start in SHARES)]
        assert any(re.fullmatch(pattern, name) for name in names), expression
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_prometheus_rules_ask_for_metrics_that_exist():
    groups = yaml.safe_load((RULES / "prometheus.yaml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"note", "warning", "error"}
        assert rule["annotations"].keys() == {"summary", "do"}
        check(rule["expr"])


def test_the_grafana_dashboard_asks_for_metrics_that_exist():
    board = json.loads((RULES / "grafana.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) >= 15
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            check(target["expr"].replace("$__rate_interval", "5m"))
    asked = json.dumps(board)
    assert {name for name in TESTS if name not in asked} == set()
    check(board["templating"]["list"][1]["query"]["query"].replace(", model", ""))


def test_the_document_names_every_metric_rule_and_test():
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in METRICS:
        tested = re.fullmatch(r"drift_(\w+?)_(score|p_value)", name)
        is_shown = f"`{name}`" in text or (tested is not None and f"`{tested[1]}`" in text)
        assert is_shown, name
    for start in SHARES:
        assert f"`{start}" in text
    for rule in read_rules(None).rules:
        assert f"`{rule.name}`" in text, rule.name


def test_the_rules_of_the_document_can_be_read(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    read = 0
    for block in blocks:
        if "rules:" in block and "rule_files" not in block:
            path = tmp_path / "rules.yaml"
            path.write_text(block, encoding="utf-8")
            assert read_rules(path, metrics=list(METRICS)).rules
            read += 1
    assert read

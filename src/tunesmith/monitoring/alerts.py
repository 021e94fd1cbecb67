"""When somebody should be told: rules in YAML over the monitor's numbers, with hysteresis.

    sinks:
      ops: {kind: webhook, url: "https://chat.example.org/hook"}
    rules:
      - name: input-drift
        raise: drift_p_value < 0.001      # the alert stands from here on ...
        clear: drift_p_value > 0.05       # ... until this holds
        for: 2m                           # `raise` must have held this long
        needs: window_rows >= 200
        severity: warning                 # note, warning or error
        sinks: [log, ops]
        summary: What is asked or answered has changed.

A number that is not there, because too little was seen, neither raises nor clears.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tunesmith.errors import MachineProblem, PlanProblem, nearest_first
from tunesmith.types import Severity

DEFAULT_RULES = Path(__file__).parent / "rules" / "alerts.yaml"
LOG = "log"  # the sink that is always there
_LARGEST_FILE = 256 * 1024  # bytes
_CONDITION = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_KEYS = {"name", "raise", "clear", "for", "needs", "severity", "sinks", "summary"}
_SEVERITIES = ("note", "warning", "error")


@dataclass(frozen=True)
class Window:
    """What a check looks at: the monitor's numbers at one moment."""

    model: str
    at: float  # seconds since 1970
    values: Mapping[str, float]  # by metric name, see `monitoring.exposition.METRICS`


@dataclass(frozen=True)
class Alert:
    """Something that somebody should know, as long as it stands."""

    rule: str
    model: str
    severity: Severity
    summary: str  # in words, without anything that a request contained
    metric: str
    value: float  # when it was raised
    level: float  # that was crossed
    since: float  # seconds since 1970
    cleared_at: float = 0.0  # seconds since 1970; 0 while it stands


class Check(Protocol):
    """The seam: something that looks at windows of one model, one after the other."""

    @property
    def name(self) -> str:
        """What it is called; the `rule` of its alerts."""

    def check(self, window: Window) -> Alert | None:
        """Give the alert while it stands, None while all is quiet."""


@dataclass(frozen=True)
class Condition:
    """A metric, compared with a number."""

    metric: str
    sign: str  # < <= > >=
    level: float

    def holds(self, values: Mapping[str, float]) -> bool | None:
        """Whether it holds; None where the metric is not there."""
        value = values.get(self.metric)
        if value is None or math.isnan(value):
            return None
        if self.sign.startswith("<"):
            return value < self.level or (self.sign == "<=" and value == self.level)
        return value > self.level or (self.sign == ">=" and value == self.level)


@dataclass(frozen=True)
class Rule:
    """One rule of the file."""

    name: str
    raise_when: Condition
    clear_when: Condition
    for_seconds: float
    severity: Severity
    summary: str
    needs: Condition | None = None
    sinks: tuple[str, ...] = (LOG,)

    def start(self, standing: Alert | None = None) -> RuleCheck:
        """Begin to check one model.

        Args:
            standing: The alert that stood before a restart.
        """
        return RuleCheck(self, standing)


@dataclass
class RuleCheck:
    """A rule at work on one model; remembers whether its alert stands."""

    rule: Rule
    standing: Alert | None = None
    _held_since: float | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    def check(self, window: Window) -> Alert | None:
        """Give the alert while it stands.

        It is raised when `raise` has held for `for`, seen by every check in between, and stays until `clear` holds:
        a number that trembles about one level makes one alert and not twenty.
        """
        rule, values = self.rule, window.values
        if self.standing is not None:
            if rule.clear_when.holds(values):
                self.standing, self._held_since = None, None
            return self.standing
        has_needs = rule.needs is None or rule.needs.holds(values)
        if not (has_needs and rule.raise_when.holds(values)):
            self._held_since = None
            return None
        if self._held_since is None or self._held_since > window.at:  # the clock may jump back
            self._held_since = window.at
        if window.at - self._held_since >= rule.for_seconds:
            metric, level = rule.raise_when.metric, rule.raise_when.level
            value = float(values[metric])
            self.standing = Alert(rule.name, window.model, rule.severity, rule.summary, metric, value, level, window.at)
        return self.standing


@dataclass(frozen=True)
class Rules:
    """What a rules file says."""

    rules: tuple[Rule, ...]
    sinks: Mapping[str, Mapping[str, Any]]  # name -> options, checked by `sinks.open_sinks`
    path: str = ""


def read_rules(path: str | Path | None, *, metrics: Sequence[str] = ()) -> Rules:
    """Read a rules file; the shipped one where none is named.

    Args:
        path: YAML.
        metrics: Names that a rule may use; none: they are not checked.

    Raises:
        PlanProblem: The file is not what it should be.
        MachineProblem: It cannot be read.
    """
    file = DEFAULT_RULES if path is None else Path(path)
    content = _load_yaml(file)
    if not isinstance(content, dict) or set(content) - {"rules", "sinks"}:
        raise _problem(file, "a rules file has two keys, 'rules' and perhaps 'sinks'")
    sinks = content.get("sinks") or {}
    if not isinstance(sinks, dict) or not all(isinstance(each, dict) for each in sinks.values()):
        raise _problem(file, "'sinks' is not a mapping of names to options")
    listed = content.get("rules") or []
    if not isinstance(listed, list):
        raise _problem(file, "'rules' is not a list")
    rules = tuple(_rule(one, number, file, set(sinks) | {LOG}, metrics) for number, one in enumerate(listed, 1))
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _problem(file, f"two rules have the same name: {', '.join(twice)}")
    return Rules(rules, {str(name): options for name, options in sinks.items()}, str(file))


def _rule(content: Any, number: int, file: Path, sinks: set[str], metrics: Sequence[str]) -> Rule:
    where = f"{file}, rule {number}"
    if not isinstance(content, dict) or not isinstance(content.get("name"), str) or "raise" not in content:
        raise _problem(where, "a rule needs at least 'name' and 'raise'")
    where = f"{file}, rule '{content['name']}'"
    if unknown := sorted(set(map(str, content)) - _KEYS):
        raise _problem(where, f"unknown key '{unknown[0]}'", do="use one of: " + nearest_first(unknown[0], _KEYS))
    raised = _condition(content["raise"], "raise", where, metrics)
    cleared = _condition(content["clear"], "clear", where, metrics) if "clear" in content else _opposite(raised)
    if cleared.metric != raised.metric or cleared.sign[0] == raised.sign[0]:
        raise _problem(where, "'clear' has to ask for the same metric as 'raise', on the other side")
    is_beyond = cleared.level < raised.level if cleared.sign[0] == ">" else cleared.level > raised.level
    if is_beyond:
        raise _problem(
            where, "the level of 'clear' lies beyond the one of 'raise': the alert would be raised and cleared at once"
        )
    severity = content.get("severity", "warning")
    if severity not in _SEVERITIES:
        raise _problem(where, f"unknown severity '{severity}'", do="use one of: " + ", ".join(_SEVERITIES))
    named = content.get("sinks", [LOG])
    if not isinstance(named, list) or not set(map(str, named)) <= sinks:
        raise _problem(where, f"'sinks' names one that is not there: {named}", do="use: " + ", ".join(sorted(sinks)))
    return Rule(
        name=content["name"],
        raise_when=raised,
        clear_when=cleared,
        for_seconds=_seconds(content.get("for", 0), where),
        severity=severity,
        summary=str(content.get("summary") or f"{raised.metric} {raised.sign} {raised.level:g}"),
        needs=_condition(content["needs"], "needs", where, metrics) if "needs" in content else None,
        sinks=tuple(map(str, named)),
    )


def _condition(text: Any, key: str, where: str, metrics: Sequence[str]) -> Condition:
    found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise _problem(where, f"'{key}: {text}' is no condition", do=f"write, e.g., {key}: drift_p_value < 0.001")
    name, sign, level = found.groups()
    if metrics and name not in metrics:
        raise _problem(where, f"there is no metric '{name}'", do="use one of: " + nearest_first(name, metrics))
    try:
        return Condition(name, sign, float(level))
    except ValueError as error:
        raise _problem(where, f"'{level}' is no number") from error


def _opposite(raised: Condition) -> Condition:
    sign = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}[raised.sign]
    return Condition(raised.metric, sign, raised.level)


def _seconds(text: Any, where: str) -> float:
    found = _DURATION.fullmatch(str(text).strip())
    if found is None:
        raise _problem(where, f"'for: {text}' is no duration", do="write, e.g., for: 30s, for: 5m or for: 1h")
    return float(found[1]) * _SECONDS[found[2]]


def _problem(where: Path | str, what: str, do: str = "see docs/monitoring.md, 'Alerts'") -> PlanProblem:
    return PlanProblem(what, where=str(where), do=do)


def _load_yaml(path: Path) -> Any:
    """Parse YAML without tags and without aliases: a few lines of them can stand for gigabytes."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it repeats parts of itself by aliases (*name)")
            return super().compose_node(parent, index)

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        do = "name a file that is there with --alerts"
        raise MachineProblem(f"the alert rules cannot be read: {error.strerror}", where=str(path), do=do) from error
    if len(content) > _LARGEST_FILE:
        raise _problem(path, f"this file is too large for alert rules: more than {_LARGEST_FILE // 1024} KiB")
    try:
        return yaml.load(content.decode("utf-8-sig"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise _problem(path, f"these alert rules are not YAML: {' '.join(str(error).split())[:200]}") from error

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import MachineProblem, PlanProblem
from tunesmith.monitoring.alarm import Alarm
from tunesmith.monitoring.alerts import Alert, Rules, Window, read_rules
from tunesmith.monitoring.catalogue import METRICS
from tunesmith.monitoring.sinks import Outbox

RULE = """
rules:
  - name: late
    raise: answer_seconds_p99 > 2
    clear: answer_seconds_p99 < 1
    for: 1m
    needs: window_rows >= 100
    severity: error
    summary: Answers are late.
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def walk(rules: Rules, steps: list[tuple[float, float | None]], rows: float = 200) -> list[bool]:
    """Show values at moments; give whether the alert stood after each."""
    check = rules.rules[0].start()
    stood = []
    for at, value in steps:
        values = {"window_rows": rows} | ({} if value is None else {"answer_seconds_p99": value})
        stood.append(check.check(Window("m", at, values)) is not None)
    return stood


def test_the_shipped_rules_use_metrics_that_exist():
    rules = read_rules(None, metrics=list(METRICS))
    assert {"input-drift", "output-drift", "accuracy-drop"} <= {rule.name for rule in rules.rules}


def test_an_alert_is_raised_after_for_and_stays_until_clear_holds(tmp_path):
    rules = read_rules(write(tmp_path, RULE), metrics=list(METRICS))
    steps = [(0, 3.0), (59, 3.0), (60, 3.0), (61, 1.5), (90, 2.5), (120, None), (130, 1.0), (131, 0.9), (132, 3.0)]
    assert walk(rules, steps) == [False, False, True, True, True, True, True, False, False]


def test_a_number_that_trembles_about_the_level_raises_nothing(tmp_path):
    rules = read_rules(write(tmp_path, RULE))
    assert not any(walk(rules, [(second, 3.0 if second % 20 else 1.9) for second in range(200)]))


def test_a_number_that_is_not_there_or_needs_more_rows_raises_nothing(tmp_path):
    rules = read_rules(write(tmp_path, RULE))
    assert walk(rules, [(0, None), (100, None)]) == [False, False]
    assert walk(rules, [(0, float("nan")), (100, float("nan"))]) == [False, False]
    assert walk(rules, [(0, 3.0), (100, 3.0)], rows=99) == [False, False]


def test_a_clock_that_jumps_back_only_delays(tmp_path):
    assert walk(read_rules(write(tmp_path, RULE)), [(1000, 3), (10, 3), (71, 3)]) == [False, False, True]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("answer_seconds_p99 > 2", "answer_seconds_p9 > 2"), "there is no metric 'answer_seconds_p9'"),
        (
            ("answer_seconds_p99 > 2", "answer_seconds_p99 is high"),
            "'raise: answer_seconds_p99 is high' is no condition",
        ),
        (("p99 < 1", "p99 < 3"), "the level of 'clear' lies beyond the one of 'raise'"),
        (("clear: answer_seconds_p99 < 1", "clear: window_rows < 1"), "'clear' has to ask for the same metric"),
        (("for: 1m", "for: soon"), "'for: soon' is no duration"),
        (("severity: error", "severity: dire"), "unknown severity 'dire'"),
        (("severity: error", "sinks: [pager]"), "'sinks' names one that is not there: ['pager']"),
        (("summary:", "sumary:"), "unknown key 'sumary'"),
        (("    raise:", "    # raise:"), "a rule needs at least 'name' and 'raise'"),
        (("rules:", "rule:"), "a rules file has two keys"),
        (("rules:", "rules: &a\n  - *a\nrules2:"), "aliases"),
        (("name: late", "name: !!python/object/apply:os.getcwd []"), "not YAML"),
    ],
)
def test_faults_of_a_rules_file_are_told(tmp_path, change, what):
    with pytest.raises(PlanProblem) as caught:
        read_rules(write(tmp_path, RULE.replace(*change)), metrics=list(METRICS))
    assert what in caught.value.what
    assert caught.value.do
    assert "rules.yaml" in caught.value.where


def test_a_wrong_metric_is_told_in_full(tmp_path):
    path = write(tmp_path, "rules:\n  - {name: a, raise: drift_pvalue < 1}\n")
    with pytest.raises(PlanProblem) as caught:
        read_rules(path, metrics=["drift_p_value", "window_rows"])
    assert str(caught.value) == (
        f"PlanProblem: there is no metric 'drift_pvalue'\n  where: {path}, rule 'a'\n"
        "  do:    use one of: drift_p_value, window_rows"
    )


def test_a_file_that_is_missing_or_too_large_is_told(tmp_path):
    with pytest.raises(MachineProblem, match="cannot be read"):
        read_rules(tmp_path / "none.yaml")
    with pytest.raises(PlanProblem, match="too large"):
        read_rules(write(tmp_path, "# " + "x" * 300_000))


class Remembers:
    def __init__(self) -> None:
        self.seen: list[Alert] = []

    def send(self, alert: Alert) -> None:
        self.seen.append(alert)


class Unusual:
    """A check of one's own: the seam in Python."""

    name = "unusual"

    def check(self, window: Window) -> Alert | None:
        value = window.values["rows_total"]
        return Alert("unusual", window.model, "note", "odd", "rows_total", value, 3, 5.0) if value % 2 else None


def test_what_is_raised_and_what_is_over_is_told_once(tmp_path):
    rules = read_rules(write(tmp_path, RULE.replace("for: 1m", "for: 0s")))
    sink = Remembers()
    outbox = Outbox("log", sink)
    alarm = Alarm(rules, {"log": outbox}, checks=[Unusual()])
    for at, seconds, rows in ((1, 3.0, 2), (2, 3.0, 3), (3, 3.0, 5), (4, 0.5, 4)):
        alarm.look(Window("m", at, {"answer_seconds_p99": seconds, "window_rows": 500, "rows_total": rows}))
        if at == 3:
            assert [alert.rule for alert in alarm.standing()] == ["late", "unusual"]
    outbox.close()
    told = [(alert.rule, alert.since, alert.cleared_at) for alert in sink.seen]
    assert told == [("late", 1, 0.0), ("unusual", 5.0, 0.0), ("late", 1, 4), ("unusual", 5.0, 4)]
    assert alarm.raised == 2
    assert not alarm.standing()


def test_an_alert_that_stood_before_a_restart_is_not_told_again(tmp_path):
    rules = read_rules(write(tmp_path, RULE.replace("for: 1m", "for: 0s")))
    before = Alarm(rules)
    before.look(Window("m", 7, {"answer_seconds_p99": 3, "window_rows": 500}))
    sink = Remembers()
    outbox = Outbox("log", sink)
    after = Alarm(rules, {"log": outbox})
    after.restore(before.state())
    after.look(Window("m", 9, {"answer_seconds_p99": 3, "window_rows": 500}))
    assert [(alert.rule, alert.since) for alert in after.standing()] == [("late", 7)]
    outbox.close()
    assert sink.seen == []

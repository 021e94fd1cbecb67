"""The alerts of one model: asks every check, tells the sinks what was raised and what is over, remembers both."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.monitoring.alerts import LOG, Alert, Check, RuleCheck, Rules, Window
from tunesmith.monitoring.sinks import Outbox
from tunesmith.types import from_json, to_json

_REMEMBERED = 50  # alerts that are over


class Alarm:
    """Alerts that stand, and that stood.

    Args:
        rules: Of the rules file.
        outboxes: By the names that the rules use; what is not there is told to nobody.
        checks: More checks, made in Python; they are told to the log.
    """

    def __init__(
        self, rules: Rules | None = None, outboxes: Mapping[str, Outbox] | None = None, *, checks: Sequence[Check] = ()
    ) -> None:
        own: list[Check] = [] if rules is None else [rule.start() for rule in rules.rules]
        self._checks: list[Check] = [*own, *checks]
        self._routes = {} if rules is None else {rule.name: rule.sinks for rule in rules.rules}
        self._outboxes = outboxes or {}
        self._standing: dict[str, Alert] = {}
        self._over: deque[Alert] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self.raised = 0

    def look(self, window: Window) -> None:
        """Ask every check about the window, and tell what has changed."""
        for check in self._checks:
            found = check.check(window)
            with self._lock:
                before = self._standing.pop(check.name, None)
                if found is not None:
                    self._standing[check.name] = found
                elif before is not None:
                    before = dataclasses.replace(before, cleared_at=window.at)
                    self._over.append(before)
                self.raised += found is not None and before is None
            if found is not None and before is None:
                self._tell(found)
            elif found is None and before is not None:
                self._tell(before)

    def _tell(self, alert: Alert) -> None:
        for name in self._routes.get(alert.rule, (LOG,)):
            if name in self._outboxes:
                self._outboxes[name].put(alert)

    def standing(self) -> tuple[Alert, ...]:
        """Give the alerts that stand, the oldest first."""
        with self._lock:
            return tuple(sorted(self._standing.values(), key=lambda alert: (alert.since, alert.rule)))

    def over(self) -> tuple[Alert, ...]:
        """Give the last alerts that are over, the latest first."""
        with self._lock:
            return tuple(reversed(self._over))

    def state(self) -> dict[str, Any]:
        """Give what has to survive a restart, as JSON."""
        with self._lock:
            both = {"standing": list(self._standing.values()), "over": list(self._over), "raised": self.raised}
        content: dict[str, Any] = to_json(both)
        return content

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up what `state` gave: an alert that stood is not raised and told again."""
        standing = {alert.rule: alert for alert in (from_json(Alert, each) for each in content["standing"])}
        with self._lock:
            names = {check.name for check in self._checks}
            self._standing = {name: alert for name, alert in standing.items() if name in names}
            self._over.extend(from_json(Alert, each) for each in content["over"])
            self.raised = int(content["raised"])
            for check in self._checks:
                if isinstance(check, RuleCheck):
                    check.standing = self._standing.get(check.name)

"""Show each model's monitor what was asked and answered, off the request path; give its numbers to /metrics."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from tunesmith.bundle.registry import Registry
from tunesmith.errors import TunesmithError
from tunesmith.monitoring.monitor import Monitor
from tunesmith.monitoring.monitors import Monitors
from tunesmith.monitoring.observed import Observed
from tunesmith.service.answering import Answering
from tunesmith.service.background import Background
from tunesmith.service.limits import characters
from tunesmith.service.logs import Log
from tunesmith.service.settings import Settings
from tunesmith.types import Prediction

_FOLDER = "monitoring"  # in the registry's folder


@dataclass(frozen=True)
class Seen:
    """One input and its answer."""

    model: str
    bundle: str  # id of the one that answered
    version: int  # in the registry; 0 where the run was named by its folder
    given: Any  # as it came; never kept
    prediction: Prediction
    observed: Mapping[str, Any]  # see `Answer.observed`


@dataclass(frozen=True)
class Heard:
    """What was said of an answer, or why there was none."""

    model: str
    bundle: str
    is_correct: bool | None = None
    confidence: float | None = None  # of that answer
    code: str = ""


def _load_libraries() -> None:
    """Import what a monitor needs while models load: later it would keep the first requests waiting for seconds."""
    for name in ("scipy.stats", "sklearn.linear_model", "river.drift"):
        importlib.import_module(name)


class Watcher:
    """The monitors of the served models.

    Args:
        settings: Where states lie, and which rules hold.
        answering: Says which runs answer.
        registry: Says where the run of a version lies.
        log: Told of what goes wrong.
        on_dropped: Told how many rows nobody looked at, because there were too many.

    Raises:
        PlanProblem: The file of alert rules is not what it should be.
    """

    def __init__(
        self,
        settings: Settings,
        answering: Answering,
        registry: Registry,
        log: Log,
        *,
        on_dropped: Callable[[int], None],
    ) -> None:
        self._monitors = Monitors(settings.registry / _FOLDER, rules=settings.alerts)
        self._answering, self._registry, self._log, self._on_dropped = answering, registry, log, on_dropped
        self._known: dict[tuple[str, str], Monitor] = {}  # by model and bundle
        self._queue: Background[Seen | Heard] = Background(self._work)
        threading.Thread(target=_load_libraries, name="tunesmith-warm-up", daemon=True).start()

    def show(self, rows: Sequence[Seen]) -> None:
        """Show answers; returns at once."""
        if dropped := self._queue.put(rows, [float(characters(row.given)) for row in rows]):
            self._on_dropped(dropped)

    def hear(self, heard: Heard) -> None:
        """Tell what was said of an answer, or that a request got none; returns at once."""
        self._queue.put([heard])

    def collect(self) -> Iterable[Metric]:
        """Give each monitor's numbers and alerts as metrics."""
        values = GaugeMetricFamily("tunesmith_monitor", "What the monitor sees.", labels=("model", "bundle", "name"))
        alerts = GaugeMetricFamily("tunesmith_alert", "1 while an alert stands.", labels=("model", "bundle", "rule"))
        for (model, bundle), monitor in list(self._known.items()):
            for name, value in monitor.snapshot().items():
                values.add_metric((model, bundle, name), float(value))
            for alert in monitor.alerts():
                alerts.add_metric((model, bundle, alert.rule), 1.0)
        yield values
        yield alerts

    def report(self, model: str) -> Mapping[str, Any] | None:
        """Give all that is known of the live version of a model; None where nothing was asked of it yet."""
        served = self._answering.models().get(model)
        monitor = self._known.get((model, served.bundle)) if served is not None else None
        return monitor.report() if monitor is not None else None

    def standing(self, model: str, bundle: str) -> Sequence[str]:
        """Give the alerts that a bundle has and the live one has not: a canary with one is taken back.

        What both see, e.g. that people ask something else, is no fault of the newer one.
        """
        served = self._answering.models().get(model)
        own, live = (
            {alert.rule for alert in monitor.alerts()} if (monitor := self._known.get((model, each))) else set()
            for each in (bundle, served.bundle if served is not None else "")
        )
        return sorted(own if served is not None and served.bundle == bundle else own - live)

    def flush(self, seconds: float) -> bool:
        """Wait until every row was shown; whether that came about in time."""
        return self._queue.flush(seconds)

    def close(self) -> None:
        """Look at what waits, keep every state, and end."""
        self._queue.close(2.0)
        self._monitors.close()

    def _work(self, items: Sequence[Seen | Heard]) -> None:
        by_bundle: dict[tuple[str, str], list[Seen | Heard]] = {}
        for item in items:
            by_bundle.setdefault((item.model, item.bundle), []).append(item)
        for (model, bundle), part in by_bundle.items():
            try:
                self._tell(model, bundle, part)
            except Exception as error:  # whatever is wrong with a monitor, the service goes on
                self._log.fault(error, part="monitor", model=model)

    def _tell(self, model: str, bundle: str, part: Sequence[Seen | Heard]) -> None:
        seen = [item for item in part if isinstance(item, Seen)]
        monitor = self._monitor(model, bundle, seen[0].version if seen else 0)
        if monitor is None:
            return
        if seen:
            monitor.observe([Observed.of(item.prediction, item.given, item.observed) for item in seen])
        for item in part:
            if isinstance(item, Heard) and item.is_correct is not None:
                monitor.feedback(item.is_correct, confidence=item.confidence)
            elif isinstance(item, Heard):
                monitor.failed(item.code)

    def _monitor(self, model: str, bundle: str, version: int) -> Monitor | None:
        """Give the monitor of a bundle; None where its run cannot be found any more."""
        if (model, bundle) in self._known:
            return self._known[model, bundle]
        served = self._answering.models().get(model)
        if served is not None and served.bundle == bundle:
            run: Path = served.run
        else:  # a canary, or a version that was live a moment ago
            try:
                run = self._registry.version(model, version).run
            except TunesmithError:
                return None
        labels = served.labels if served is not None else ()
        self._known[model, bundle] = self._monitors.monitor(model, bundle, run, labels=labels)
        return self._known[model, bundle]

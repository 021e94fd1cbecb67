"""What /metrics shows, in Prometheus' text format. The registry is its own: two services in one process do not mix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tunesmith.service.answering import Answering, Load

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """Counts and times of one service.

    Args:
        answering: Says how busy it is when somebody looks.
    """

    def __init__(self, answering: Answering) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self.requests = Counter("tunesmith_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "tunesmith_request_seconds",
            "From the first byte of the headers to the last of the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter("tunesmith_refusals", "Requests refused, by code.", ("code",), registry=self.registry)
        self.in_flight = Gauge("tunesmith_http_in_flight", "Requests inside the service now.", registry=self.registry)
        self.predictions = Counter(
            "tunesmith_predictions", "Inputs answered.", ("model", "version"), registry=self.registry
        )
        self.waited = Histogram(
            "tunesmith_queue_seconds", "Wait for a batch.", ("model",), buckets=_SECONDS, registry=self.registry
        )
        self.feedback = Counter("tunesmith_feedback", "Rows of feedback kept.", ("model",), registry=self.registry)
        self.dropped = Counter(
            "tunesmith_dropped",
            "Rows that were answered but not kept or not watched.",
            ("what",),
            registry=self.registry,
        )
        self.started = Gauge(
            "tunesmith_started_at_seconds", "When it began: seconds since 1970.", registry=self.registry
        )
        self.started.set(time.time())
        self.registry.register(_Busy(answering))

    def add_source(self, give: Callable[[], Iterable[Metric]]) -> None:
        """Show what another part gives whenever somebody looks."""
        self.registry.register(_Source(give))

    def text(self) -> bytes:
        """Give everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Source(Collector):
    def __init__(self, give: Callable[[], Iterable[Metric]]) -> None:
        self._give = give

    def collect(self) -> Iterable[Metric]:
        yield from self._give()

    def describe(self) -> Iterable[Metric]:
        return ()


class _Busy(Collector):
    """Turns `Answering.load_now` into metrics."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        load = self._answering.load_now()
        gauges = {
            "tunesmith_in_flight_requests": ("Requests that wait for a model or run in one.", load.in_flight_requests),
            "tunesmith_waiting_rows": ("Inputs in the queue.", load.waiting_rows),
            "tunesmith_running_rows": ("Inputs in the models.", load.running_rows),
            "tunesmith_capacity_rows": ("Inputs in the queue beyond which requests are refused.", load.capacity_rows),
            "tunesmith_workers": ("Worker processes wanted.", load.workers),
            "tunesmith_workers_ready": ("Worker processes that answer.", load.workers_ready),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=value)
        meaning = "Workers that died or hung and were replaced."
        yield CounterMetricFamily("tunesmith_worker_restarts", meaning, value=load.restarts)
        yield _batches(load)
        models = GaugeMetricFamily("tunesmith_model_ready", "1 where a model answers.", labels=("model", "version"))
        for name, model in self._answering.models().items():
            models.add_metric((name, str(model.version)), float(model.state == "ready"))
        yield models


def _batches(load: Load) -> Metric:
    """Give the sizes of batches as a histogram."""
    buckets = [(str(top), sum(count for rows, count in load.batches.items() if rows <= top)) for top in _ROWS]
    buckets.append(("+Inf", sum(load.batches.values())))
    total = sum(rows * count for rows, count in load.batches.items())
    return HistogramMetricFamily("tunesmith_batch_rows", "Inputs in a batch.", buckets=buckets, sum_value=total)


def gauges(name: str, meaning: str, values: Mapping[tuple[str, str], float], labels: tuple[str, str]) -> Metric:
    """Give values with two labels each as one metric."""
    family: Any = GaugeMetricFamily(name, meaning, labels=labels)
    for pair, value in values.items():
        family.add_metric(pair, value)
    found: Metric = family
    return found

"""The operator's own metrics, under the names of photon.telemetry.metric_names."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from photon.api.status import ConditionType
from photon.telemetry import metric_names as at
from photon.version import release
from photon_operator.cluster.cache import Cache, Key
from photon_operator.decide import conditions

NONE: Final = "None"


class OperatorMetrics:
    """Counts what it is told; jobs are counted in the cache when metrics are scraped."""

    def __init__(self, cache: Cache) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Gauge(at.OPERATOR_INFO, at.OPERATOR_INFO.help, ["version"], registry=self.registry).labels(
            version=release()
        ).set(1)
        self._reconciles = self._counter(at.OPERATOR_RECONCILES)
        self._errors = self._counter(at.OPERATOR_ERRORS)
        self._requests = self._counter(at.OPERATOR_API_REQUESTS)
        self._seconds = Histogram(
            at.OPERATOR_RECONCILE_SECONDS,
            at.OPERATOR_RECONCILE_SECONDS.help,
            buckets=at.RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self._last = Gauge(at.OPERATOR_LAST_RECONCILE, at.OPERATOR_LAST_RECONCILE.help, registry=self.registry)
        self._refused = Gauge(
            at.OPERATOR_REFUSED, at.OPERATOR_REFUSED.help, at.OPERATOR_REFUSED.labels, registry=self.registry
        )
        self._leads = Gauge(
            at.OPERATOR_LEADER, at.OPERATOR_LEADER.help, at.OPERATOR_LEADER.labels, registry=self.registry
        )
        self.registry.register(_Jobs(cache))
        for result in ("ok", "error"):
            self._reconciles.labels(result=result)

    def _counter(self, metric: at.Metric) -> Counter:
        return Counter(metric.removesuffix("_total"), metric.help, metric.labels, registry=self.registry)

    def requested(self, verb: str) -> None:
        """A request to the API server."""
        self._requests.labels(verb=verb).inc()

    def refused(self, namespace: str | None, *, yes: bool) -> None:
        """A watched namespace (None: all of them) may not be read, or may."""
        self._refused.labels(watched_namespace=namespace or "").set(yes)

    def leads(self, namespace: str | None, *, yes: bool) -> None:
        """This operator, and no other, looks after a watched namespace (None: the cluster), or does not."""
        self._leads.labels(watched_namespace=namespace or "").set(yes)

    def stands_by(self) -> None:
        """Another operator looks after a job: that is as good as reconciling it."""
        self._last.set_to_current_time()

    def failed(self, error: str) -> None:
        """Something failed that is no reconcile."""
        self._errors.labels(error=error).inc()

    def reconciled(self, seconds: float, error: str | None) -> None:
        """A reconcile ended; ``error`` is the kind of what went wrong."""
        self._seconds.observe(seconds)
        self._reconciles.labels(result="ok" if error is None else "error").inc()
        if error is None:
            self._last.set_to_current_time()
        else:
            self.failed(error)


class _Jobs(Collector):
    """Counted when they are asked for."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = Tally(map(self._condition, self._cache.jobs()))
        family = GaugeMetricFamily(at.OPERATOR_JOBS, at.OPERATOR_JOBS.help, labels=["condition"])
        for condition in (*(kind.value for kind in ConditionType), NONE):
            family.add_metric([condition], counts.get(condition, 0))
        yield family

    def _condition(self, key: Key) -> str:
        held = conditions.holding(conditions.stored_status(self._cache.job(key) or {}))
        return held.type if held is not None else NONE

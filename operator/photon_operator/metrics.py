"""The operator's own metrics, and when it was last known to work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from photon.telemetry import metric_names as names


class _Jobs(Collector):
    def __init__(self, conditions: Callable[[], Iterable[str]]) -> None:
        self._conditions = conditions

    def collect(self) -> Iterator[Metric]:
        counts: dict[str, int] = {}
        for condition in self._conditions():
            counts[condition] = counts.get(condition, 0) + 1
        family = GaugeMetricFamily(names.OPERATOR_JOBS, names.OPERATOR_JOBS.help, labels=["condition"])
        for condition, count in sorted(counts.items()):
            family.add_metric([condition], count)
        yield family


class OperatorMetrics:
    """Counted in a registry of its own. ``conditions`` gives one word for each job that there is."""

    def __init__(self, conditions: Callable[[], Iterable[str]]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Jobs(conditions))

        def counter(name: names.Metric) -> Counter:
            return Counter(name, name.help, list(name.labels), registry=self.registry)

        self._reconciles = counter(names.OPERATOR_RECONCILES)
        self._errors = counter(names.OPERATOR_ERRORS)
        self._requests = counter(names.OPERATOR_API_REQUESTS)
        self._seconds = Histogram(
            names.OPERATOR_RECONCILE_SECONDS,
            names.OPERATOR_RECONCILE_SECONDS.help,
            buckets=names.RECONCILE_BUCKETS,
            registry=self.registry,
        )
        last = names.OPERATOR_LAST_RECONCILE
        self._last = Gauge(last, last.help, registry=self.registry)
        info = Gauge(
            names.OPERATOR_INFO, names.OPERATOR_INFO.help, list(names.OPERATOR_INFO.labels), registry=self.registry
        )
        info.labels(version("photon")).set(1)

    def reconciled(self, seconds: float, *, error: str | None = None) -> None:
        """One reconcile took ``seconds``; ``error``: the kind of what it failed with."""
        self._seconds.observe(seconds)
        self._reconciles.labels("ok" if error is None else "error").inc()
        if error is None:
            self._last.set_to_current_time()
        else:
            self._errors.labels(error).inc()

    def requested(self, verb: str) -> None:
        """One request to the API server."""
        self._requests.labels(verb).inc()

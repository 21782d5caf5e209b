"""The one file of names: what it declares is well formed, served by somebody, and all that the docs speak of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from photon.telemetry import metric_names as names
from photon_operator.cluster.cache import Cache
from photon_operator.metrics import OperatorMetrics

ROOT = Path(__file__).parents[2]
BOUNDED = {
    "job",
    "participant",
    "layer",
    "stage",
    "reason",
    "phase",
    "outcome",
    "state",
    "direction",
    "kind",
    "version",
    "model",
    "route",
}
BOUNDED |= {"outer", "codec", "result", "error", "condition", "verb", "watched_namespace"}


@pytest.mark.parametrize("metric", list(names.all_metrics()))
def test_a_name_follows_the_conventions(metric: names.Metric) -> None:
    assert re.fullmatch(r"photon_[a-z0-9_]+[a-z0-9]", metric)
    assert metric.endswith("_total") == (metric.kind == "counter")
    assert metric.help.endswith(".")
    assert set(metric.labels) <= BOUNDED, "every label is from a bounded set"
    assert ("job" in metric.labels) != metric.startswith("photon_operator_")
    for word in ("_ms", "_millis", "_minutes", "_hours", "_kb", "_mb", "_percent"):
        assert word not in metric, "base units only"


def test_every_name_is_there_once() -> None:
    found = [str(metric) for metric in names.all_metrics()]
    assert len(found) == len(set(found))


def test_the_operator_serves_what_is_declared_for_it() -> None:
    metrics = OperatorMetrics(Cache())
    metrics.requested("patch")
    metrics.refused("team-b", yes=True)
    metrics.leads("team-b", yes=True)
    metrics.reconciled(0.01, "ApiException")
    found = {
        sample.name: set(sample.labels) - {"le"} for family in metrics.registry.collect() for sample in family.samples
    }
    served = {name: labels for name, labels in found.items() if name.startswith("photon_") and "_created" not in name}
    assert served == {name: set(metric.labels) for metric in names.operator_metrics() for name in metric.series()}


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_metrics_that_the_docs_name_exist(path: Path) -> None:
    declared = {name for metric in names.all_metrics() for name in metric.series()}
    modules = {"photon_aggregator", "photon_gate", "photon_worker", "photon_operator", "photon_commit"}
    assert set(re.findall(r"\bphoton_[a-z_]+\b", path.read_text())) - modules <= declared

"""What the chart brings for Prometheus and Grafana is what manifests/ holds."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.chart.rendering import CHART, ROOT, Chart, named, of_kind

MONITORING = CHART / "ci" / "monitoring-values.yaml"


def test_dashboards_are_the_files_byte_for_byte(chart: Chart) -> None:
    maps = [m for m in of_kind(chart.render(values=MONITORING), "ConfigMap") if "-dashboard-" in m["metadata"]["name"]]
    found = {}
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert item["metadata"]["namespace"] == "monitoring"
        ((name, text),) = item["data"].items()
        found[name.removeprefix("photon-")] = text
        json.loads(text)
    assert found == {path.name: path.read_text() for path in (ROOT / "manifests" / "dashboards").glob("*.json")}


def test_every_alert_is_a_prometheus_rule_that_leads_to_the_sites_runbooks(chart: Chart) -> None:
    objects = chart.render(values=MONITORING)
    for path in (ROOT / "manifests" / "alerts").glob("*.yaml"):
        rule = named(objects, "PrometheusRule", f"photon-{path.stem}")
        assert rule["metadata"]["labels"]["release"] == "prometheus"
        expected = path.read_text().replace("docs/runbooks/", "https://wiki.example.org/photon/runbooks/")
        assert rule["spec"] == yaml.safe_load(expected)


def test_jobs_are_scraped_at_the_port_that_needs_no_token(chart: Chart) -> None:
    spec = named(chart.render(values=MONITORING), "PodMonitor", "photon-jobs")["spec"]
    (endpoint,) = spec["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")


def test_without_being_asked_for_there_is_neither(chart: Chart) -> None:
    objects = chart.render()
    assert not of_kind(objects, "PrometheusRule", "PodMonitor", "ServiceMonitor")
    assert not [item for item in objects if "dashboard" in item["metadata"]["name"]]


@pytest.mark.parametrize("folder", ["dashboards", "alerts"])
def test_the_charts_copies_are_current(folder: str) -> None:
    def files(root: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (ROOT / root / folder).iterdir()}

    assert files("charts/photon/files") == files("manifests"), "run make generate"

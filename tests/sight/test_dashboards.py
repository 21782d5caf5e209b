"""Grafana's dashboards: every rule of ours for them, and data for every panel from a real Prometheus."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, MetricsHandler

from photon.telemetry import metric_names as names
from tests.sight.prometheus import Prometheus, Target
from tests.sight.running import LiveRun

FOLDER = Path(__file__).parents[2] / "manifests" / "dashboards"
FILES = ["job.json", "institution.json", "operator.json"]
# What a dashboard's variables stand for in the run of these tests.
VARIABLES = {"namespace": ".*", "job": "tiny", "participant": "east", "operator": ".*", "__rate_interval": "60s"}
# How far back Prometheus is asked: all of what it has seen.
SECONDS = 600


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return document


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in load(name)["panels"] if panel["type"] != "row"]


def queries(*files: str) -> list[tuple[str, str, str]]:
    return [
        (name, panel["title"], target["expr"])
        for name in files
        for panel in panels(name)
        for target in panel["targets"]
    ]


def filled(expr: str) -> str:
    return re.sub(r"\$(\w+)", lambda match: VARIABLES[match[1]], expr)


def test_the_files_are_what_the_code_says() -> None:
    command = [sys.executable, "-m", "photon.telemetry.dashboards", "--check", str(FOLDER)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("name", FILES)
def test_every_panel_says_what_it_shows(name: str) -> None:
    found = panels(name)
    for panel in found:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert not re.search(r"\[\d", target["expr"]), f"{panel['title']}: a fixed range"
    titles = [panel["title"] for panel in found]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", FILES)
def test_panels_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in load(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_uids_titles_and_variables() -> None:
    documents = {name: load(name) for name in FILES}
    uids = {document["uid"] for document in documents.values()}
    assert uids == {"photon-job", "photon-institution", "photon-operator"}, "links hold them: they never change"
    for document in documents.values():
        variables = [variable["name"] for variable in document["templating"]["list"]]
        assert variables[:3] == ["datasource", "namespace", "job"]
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
                assert used <= set(variables), panel["title"]


@pytest.mark.parametrize(("name", "title", "expr"), queries(*FILES))
def test_every_metric_of_a_panel_is_in_the_code(name: str, title: str, expr: str) -> None:
    known = {series for metric in names.all_metrics() for series in metric.series()}
    used = set(re.findall(r"photon_\w+", expr))
    assert used
    assert used <= known
    for metric, selector in re.findall(r"(photon_\w+)\{([^}]*)\}", expr):
        declared = next(m for m in names.all_metrics() if metric in m.series())
        labels = set(re.findall(r"(\w+)=", selector)) - {"namespace", "instance"}
        assert labels <= set(declared.labels), f"{metric} has no such label"


def test_together_they_show_every_metric() -> None:
    shown = {series for _, _, expr in queries(*FILES) for series in re.findall(r"photon_\w+", expr)}
    missing = {str(metric) for metric in names.all_metrics() if not shown & set(metric.series())}
    assert missing == set()


@pytest.fixture(scope="module")
def disturbed(live: LiveRun, prometheus: Prometheus) -> Prometheus:
    """Prometheus, after the run was disturbed: an update was accepted, one refused, and their sender went away."""
    live.disturb()
    committed = names.COMMITTED_ROUNDS
    at = live.get("/v1/status").json()["committedRounds"]
    # Counters of rounds step when a round is committed: two steps make a rate.
    prometheus.until(lambda: any(float(row["value"][1]) >= at + 2 for row in prometheus.query(committed)), "no rounds")
    return prometheus


@pytest.mark.sight
@pytest.mark.parametrize(("name", "title", "expr"), queries("job.json", "institution.json"))
def test_every_panels_query_returns_data_of_a_real_run(disturbed: Prometheus, name: str, title: str, expr: str) -> None:
    assert values(disturbed, filled(expr)), filled(expr)


def values(prometheus: Prometheus, expr: str) -> list[float]:
    """All finite values of ``expr`` in the time of the test."""
    found = [float(value) for series in prometheus.query_range(expr, seconds=SECONDS) for _, value in series["values"]]
    return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def operator_prometheus(live: LiveRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the run and an exporter with the operator's metrics as metric_names declares them.

    The operator's own tests compare its metrics with the same declarations.
    """
    registry = CollectorRegistry()
    samples = {"result": "ok", "error": "ApiException", "condition": "Running", "verb": "patch", "version": "0.1.0"}
    counters = []
    for metric in names.operator_metrics():
        labels = [samples[label] for label in metric.labels]
        kind = {"gauge": Gauge, "counter": Counter, "histogram": Histogram}[metric.kind]
        made = kind(metric, metric.help, metric.labels, registry=registry)
        child = made.labels(*labels) if labels else made
        if isinstance(child, Gauge):
            child.set(1)
        elif isinstance(child, Counter):
            counters.append(child.inc)
        elif isinstance(child, Histogram):
            counters.append(lambda child=child: child.observe(0.01))

    class Handler(MetricsHandler):
        def do_GET(self) -> None:
            for count in counters:
                count()
            super().do_GET()

    Handler.registry = registry
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder = tmp_path_factory.mktemp("operator-prometheus")
    targets = [
        Target(name="aggregators", url=live.url),
        Target(name="operator", url=f"http://127.0.0.1:{server.server_port}"),
    ]
    try:
        with Prometheus(folder, targets=targets) as running:
            running.until(lambda: len(running.query("up == 1")) == 2, "a target is down")
            running.until(lambda: bool(running.query(f"rate({names.OPERATOR_RECONCILES}[60s])")), "no second scrape")
            yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.sight
@pytest.mark.parametrize(("name", "title", "expr"), queries("operator.json"))
def test_every_panels_query_returns_data_of_an_operator(
    operator_prometheus: Prometheus, name: str, title: str, expr: str
) -> None:
    assert values(operator_prometheus, filled(expr)), filled(expr)

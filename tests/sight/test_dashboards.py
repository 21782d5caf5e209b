"""Grafana's dashboards: every rule of ours for them, and data for every panel from a real Prometheus."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from photon.api.placement import StorageSpec
from photon.store.objects import ObjectStore
from photon.telemetry import metric_names as names
from photon_gate.hub.errors import HubUnreachable
from tests.aggregator.border.hub import Hub
from tests.aggregator.border.site import Site
from tests.aggregator.fake_worker import job_document, write_round_zero
from tests.gate.hub import ScriptedHub, institution_of
from tests.gate.site import HEADERS
from tests.operator.running import JOB, Lab, Operator, until
from tests.sight.prometheus import Prometheus, Target, scraping
from tests.sight.running import LiveRun
from tools.cluster.kube import Kube

FOLDER = Path(__file__).parents[2] / "manifests" / "dashboards"
FILES = ["job.json", "institution.json", "gate.json", "operator.json"]
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
    command = [sys.executable, "-m", "tools.dashboards", "--check", str(FOLDER)]
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
    # Links hold them: they never change.
    assert uids == {"photon-job", "photon-institution", "photon-gate", "photon-operator"}
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


OF_THE_DOOR = [query for query in queries("job.json") if "photon_door_" in query[2]]
OF_THE_RUN = [query for query in queries("job.json", "institution.json") if query not in OF_THE_DOOR]


@pytest.mark.sight
@pytest.mark.parametrize(("name", "title", "expr"), OF_THE_RUN)
def test_every_panels_query_returns_data_of_a_real_run(disturbed: Prometheus, name: str, title: str, expr: str) -> None:
    assert values(disturbed, filled(expr)), filled(expr)


@pytest.mark.sight
def test_panels_of_the_door_return_data_of_a_job_with_a_door(
    store: ObjectStore, storage: StorageSpec, tmp_path: Path
) -> None:
    job = job_document(storage, ["home", "north"])
    write_round_zero(job, store)
    hub = Hub(tmp_path, job, store, ["north"])
    north = Site("north", [hub.url], hub=hub.identity.key, invitation=hub.invite("north"))
    with closing(hub), hub.running() as running:
        door = [Target(name="aggregators", url=running.url)]
        with Prometheus(tmp_path, scraping(door)) as prometheus:
            north.join()
            north.session(audience="f" * 32)
            expected = {title: filled(expr).replace('"tiny"', '"test"') for _, title, expr in OF_THE_DOOR}
            assert len(expected) == 4
            for title, expr in expected.items():
                prometheus.until(lambda expr=expr: any(values(prometheus, expr)), title)


@pytest.mark.sight
def test_panels_of_a_gate_return_data_of_a_gate(tmp_path: Path) -> None:
    """One whose hub went away after it had offered a task that the policy refuses, and a model was relayed."""
    with ScriptedHub() as hub:
        site = institution_of(hub, tmp_path / "north")
        with site.gate() as gate:
            gate.membership.step()
            with Prometheus(tmp_path, scraping([Target(name="gates", url=site.address)])) as prometheus:
                prometheus.until(lambda: bool(prometheus.query(names.GATE_HUB_UP)), "the gate is not scraped")
                httpx.get(f"{site.address}/v1/task?wait_seconds=0", headers=HEADERS, trust_env=False)
                gate.standing.crossed("in", "model", 10_000)
                gate.standing.refusal("PolicyRefused")
                gate.standing.away(HubUnreachable("Timeout", "no answer"))
                expected = [(title, expr) for _, title, expr in queries("gate.json")]
                assert len(expected) == 11
                for title, expr in expected:
                    asked = filled(expr).replace('"tiny"', '"radiology"')
                    prometheus.until(lambda asked=asked: bool(values(prometheus, asked)), title)


def values(prometheus: Prometheus, expr: str) -> list[float]:
    """All finite values of ``expr`` in the time of the test."""
    found = [float(value) for series in prometheus.query_range(expr, seconds=SECONDS) for _, value in series["values"]]
    return [value for value in found if math.isfinite(value)]


@pytest.fixture(scope="module")
def operator_prometheus(
    live: LiveRun, with_crd: Kube, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the run and a real operator, which got a job and then met a fault.

    The fault is one that clusters know: an admission webhook that nobody answers, so the API server takes no more Jobs.
    """
    operator = Operator(with_crd, tmp_path_factory.mktemp("operator") / "operator.log")
    folder = tmp_path_factory.mktemp("operator-prometheus")
    targets = [
        Target(name="aggregators", url=live.url),
        Target(name="operator", url=f"http://127.0.0.1:{operator.port}"),
    ]
    try:
        operator.start()
        with with_crd.fresh_namespace(prefix="sight") as kube, Prometheus(folder, scraping(targets)) as running:
            running.until(lambda: len(running.query("up == 1")) == 2, "a target is down")
            lab = Lab(kube)
            lab.apply()
            until(lambda: "first-job-init" in lab.names(), "the operator does what it is there for")
            with unanswered_webhook(kube):
                lab.apply(JOB.replace("name: first-job", "name: second"))
                running.until(
                    lambda: bool(running.query(f"increase({names.OPERATOR_ERRORS}[60s]) > 0")), "the fault is not seen"
                )
            yield running
    finally:
        operator.stop()


@contextmanager
def unanswered_webhook(kube: Kube) -> Iterator[None]:
    """Jobs of the namespace cannot be made meanwhile."""
    name = f"unanswered.{kube.namespace}.photon.dev"
    kube.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": name},
            "webhooks": [
                {
                    "name": name,
                    "clientConfig": {"url": "https://127.0.0.1:1/"},
                    "rules": [
                        {
                            "apiGroups": ["batch"],
                            "apiVersions": ["v1"],
                            "operations": ["CREATE"],
                            "resources": ["jobs"],
                        }
                    ],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kube.namespace}},
                    "sideEffects": "None",
                    "admissionReviewVersions": ["v1"],
                    "timeoutSeconds": 1,
                }
            ],
        }
    )
    try:
        yield
    finally:
        kube.run("delete", f"validatingwebhookconfiguration/{name}")


@pytest.mark.sight
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "title", "expr"), queries("operator.json"))
def test_every_panels_query_returns_data_of_a_real_operator(
    operator_prometheus: Prometheus, name: str, title: str, expr: str
) -> None:
    assert values(operator_prometheus, filled(expr)), filled(expr)

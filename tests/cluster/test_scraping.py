"""The operator's and a job's metrics are scraped through what the chart installs.

The Prometheus operator makes a configuration of the chart's ServiceMonitor, PodMonitor and PrometheusRules, and a real
Prometheus scrapes by it, from within the cluster's network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon.telemetry import metric_names as names
from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import NAME, Job, Release, installed
from tests.end_to_end.whole_runs import prepare_data, write_job
from tests.sight.prometheus import Prometheus
from tests.sight.test_alerts import ALERTS, rules
from tests.sight.test_dashboards import queries, values
from tools.cluster.monitoring import Monitoring, definitions
from tools.cluster.programs import PROMETHEUS, program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LABELS = {"scraped-by": "test"}
JOB = "watched"
# A fault, or a GPU, has to be there for these.
QUIET = {"Errors", "Refused updates", "Model FLOP/s utilization"}


@dataclass(frozen=True)
class Watched:
    """A job that runs for longer than it is looked at, and the Prometheus that looks."""

    release: Release
    prometheus: Prometheus

    def series(self, metric: str, **labels: str) -> list[dict[str, str]]:
        """Labels of the series of ``metric`` with these labels, by now."""
        return [row["metric"] for row in self.prometheus.query(self.selector(metric, **labels))]

    def selector(self, metric: str, **labels: str) -> str:
        """In the release's namespace: the PodMonitor looks into all of them."""
        wanted = {"namespace": str(self.release.kube.namespace), **labels}
        inside = ",".join(f'{label}="{value}"' for label, value in wanted.items())
        return f"{metric}{{{inside}}}"

    def highest(self, metric: str, **labels: str) -> float:
        """0 while there is none."""
        rows = self.prometheus.query(self.selector(metric, **labels))
        return max((float(row["value"][1]) for row in rows), default=0.0)


@pytest.fixture(scope="module")
def watched(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    if cluster.local is None:
        pytest.skip("this cluster's network cannot be entered from here")
    folder = tmp_path_factory.mktemp("scraping")
    # As its user would: by values of the chart only. Scrapes are more frequent, so that the test is short.
    monitors = ("monitoring.podMonitor", "monitoring.serviceMonitor")
    chosen = [f"{one}.enabled=true" for one in (*monitors, "alerts")]
    chosen += [f"{one}.labels.{label}={value}" for one in (*monitors, "alerts") for label, value in LABELS.items()]
    chosen += [f"{one}.interval=1s" for one in monitors]
    chosen += ["networkPolicy.metricsFrom[0].ipBlock.cidr=0.0.0.0/0"]
    with definitions(cluster.kube), installed(cluster, *chosen) as release:
        start_job(release, folder)
        monitoring = Monitoring(release.kube, folder)
        with monitoring.running(labels=LABELS):
            configuration = monitoring.configuration(
                kubeconfig=cluster.local.folder / "inside" / "admin.kubeconfig", scrapes=2, rules=len(ALERTS)
            )
        inside = cluster.local.gateway.pid
        with Prometheus(folder, configuration, executable=program(PROMETHEUS), network=inside) as prometheus:
            watched = Watched(release, prometheus)
            prometheus.until(
                lambda: watched.highest(names.COMMITTED_ROUNDS, job=JOB) >= 3,
                "no rounds of the job are seen",
                seconds=300,
            )
            yield watched


def start_job(release: Release, folder: Path, *, name: str = JOB) -> None:
    data = prepare_data(folder / "data")
    path = write_job(folder / "job.yaml", data, rounds=1000, evaluation={"everyRounds": 1, "batchSize": 16})
    release.upload(data)
    Job(release, release.for_cluster(yaml.safe_load(path.read_text()), name=name)).apply(folder)


def test_a_jobs_series_have_its_name_as_job_and_its_namespace(watched: Watched) -> None:
    (found,) = watched.series(names.ROUND, job=JOB)
    assert found["job"] == found["photon_dev_job"] == JOB
    assert found["pod"].startswith(f"{JOB}-aggregator-")
    assert "exported_job" not in found
    present = watched.series(names.PARTICIPANT_UP, job=JOB)
    assert {series["participant"] for series in present} == {"north", "south"}
    # Whatever the aggregator serves: nothing hides behind another name.
    served = watched.prometheus.query(f'{{pod="{found["pod"]}",__name__=~"photon_.+"}}')
    assert len(served) > 100
    assert {(row["metric"]["job"], row["metric"].get("exported_job")) for row in served} == {(JOB, None)}


def test_the_operators_series_have_its_instance_and_namespace(watched: Watched) -> None:
    (found,) = watched.series(names.OPERATOR_INFO)
    assert found["service"] == found["job"] == f"{NAME}-operator"
    assert found["pod"].startswith(f"{NAME}-operator-")
    assert re.fullmatch(r"10\.100\.\d+\.\d+:8080", found["instance"])
    assert watched.highest(names.OPERATOR_JOBS, condition="Running") >= 1


def test_dashboards_find_both_by_the_labels_that_these_scrapes_give(watched: Watched) -> None:
    variables: dict[str, Any] = {
        "namespace": watched.release.kube.namespace,
        "job": JOB,
        "participant": "north",
        "operator": watched.series(names.OPERATOR_INFO)[0]["instance"],
        "__rate_interval": "60s",
    }
    shown = queries("job.json", "institution.json", "operator.json")
    assert {title for _, title, _ in shown} >= QUIET, "a panel was renamed"
    for name, title, expr in shown:
        filled = re.sub(r"\$(\w+)", lambda match: str(variables[match[1]]), expr)
        # No institution joins this job: it has no door, and nothing to count at one.
        if title not in QUIET and "photon_door_" not in expr:
            watched.prometheus.until(lambda e=filled: bool(values(watched.prometheus, e)), f"{name}: {title}: {filled}")


def test_the_charts_alerts_are_loaded_and_evaluated(watched: Watched) -> None:
    watched.prometheus.until(
        lambda: all(rule["health"] == "ok" for rule in watched.prometheus.rules()), "not all rules evaluated"
    )
    loaded = watched.prometheus.rules()
    assert {rule["name"] for rule in loaded} == {rule["alert"] for path in ALERTS for rule in rules(path)}
    assert not [rule["name"] for rule in loaded if rule["state"] == "firing"], "all is well"


def test_a_jobs_series_end_when_the_job_is_gone(watched: Watched, tmp_path: Path) -> None:
    start_job(watched.release, tmp_path, name="leaving")
    seen = watched.prometheus.until
    seen(lambda: bool(watched.series(names.ROUND, job="leaving")), "the job is not scraped", seconds=300)
    watched.release.kube.kubectl("delete", "ftj/leaving", "--timeout=60s")
    seen(lambda: not watched.series(names.ROUND, job="leaving"), "its series are still there")
    assert watched.series(names.ROUND, job=JOB), "those of another job stay"

"""What the operator asks of a real API server: little while a job runs, nothing in a loop, and nothing of one namespace
for the sake of another. It runs with the rights of one namespace, and is told to watch another one as well."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from photon.api.status import JobReason
from photon_operator.children import names
from tests.operator.running import Aggregators, Lab, Operator, until
from tests.operator.test_api_server import train
from tests.operator.world import said
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("operator")]


def account_of(kube: Kube, folder: Path, *namespaces: str) -> Kube:
    """The cluster as seen by a service account that may do anything, but in these namespaces only."""
    owner = namespaces[0]
    kube.kubectl("create", "serviceaccount", "limited", "-n", owner)
    for namespace in namespaces:
        kube.kubectl("create", "role", "all", "--verb=*", "--resource=*.*", "-n", namespace)
        kube.kubectl(
            *("create", "rolebinding", "all", "--role=all", f"--serviceaccount={owner}:limited", "-n", namespace)
        )
    token = kube.kubectl("create", "token", "limited", "-n", owner).strip()
    config = folder / "limited.kubeconfig"
    shutil.copy(kube.kubeconfig, config)
    limited = dataclasses.replace(kube, kubeconfig=config)
    limited.kubectl("config", "set-credentials", "limited", f"--token={token}")
    limited.kubectl("config", "set-context", "--current", "--user=limited")
    return limited


@pytest.fixture(scope="module")
def aggregators() -> Iterator[Aggregators]:
    with Aggregators().serving() as running:
        yield running


@pytest.fixture(scope="module")
def lab(with_crd: Kube) -> Iterator[Lab]:
    with with_crd.fresh_namespace(prefix="load") as kube:
        yield Lab(kube)


@pytest.fixture(scope="module")
def operator(
    with_crd: Kube, lab: Lab, aggregators: Aggregators, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    folder = tmp_path_factory.mktemp("load")
    with with_crd.fresh_namespace(prefix="refuses") as other:
        running = Operator(
            account_of(with_crd, folder, lab.namespace),
            folder / "operator.log",
            PHOTON_NAMESPACES=f"{other.namespace},{lab.namespace}",
            PHOTON_AGGREGATOR_URL=aggregators.url,
            PHOTON_POLL_SECONDS="0.1",
            PHOTON_STATUS_SECONDS="3600",
        )
        with contextlib.closing(_Stopping(running)):
            running.start()
            yield running


@dataclasses.dataclass
class _Stopping:
    operator: Operator

    def close(self) -> None:
        self.operator.stop()


@pytest.fixture(scope="module")
def trains(lab: Lab, aggregators: Aggregators, operator: Operator) -> Operator:
    """The operator, beside a job that trains."""
    train(lab, aggregators)
    return operator


def quiet(operator: Operator) -> None:
    """Return when the operator has asked for nothing through ten answers of the aggregator."""
    seen: list[float] = []

    def holds() -> bool:
        seen.append(operator.requests())
        return len(seen) > 10 and len(set(seen[-10:])) == 1

    until(holds, f"the operator is quiet; it asked {seen[-20:]}\n{operator.tail()}")


def test_a_namespace_that_refuses_is_told_and_keeps_no_other_waiting(trains: Operator, lab: Lab) -> None:
    assert lab.state()[:2] == ("Running", "Training")
    assert 'photon_operator_namespace_refused{watched_namespace="refuses' in trains.metrics()
    refused = [line for line in trains.metrics().splitlines() if line.startswith("photon_operator_namespace_refused{")]
    assert sorted(line.partition('"')[2][:4] + line[-3:] for line in refused) == ["load0.0", "refu1.0"]
    assert "jobs and their children cannot be listed in refuses" in trains.log.read_text()


def test_figures_that_move_are_written_seldom_and_a_round_at_once(
    trains: Operator, lab: Lab, aggregators: Aggregators
) -> None:
    quiet(trains)
    requests, reconciles = trains.requests(), trains.reconciles()
    for step in range(8):
        aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1, train_loss=9.0 - step / 10))
        heard = aggregators.answered
        until(lambda heard=heard: aggregators.answered > heard + 1, "it is polled")  # type: ignore[misc]
    assert trains.requests() == requests
    assert trains.reconciles() <= reconciles + 1, "now and then one from memory, for other reasons"
    aggregators.says(said("Running", JobReason.TRAINING, round=3, committed=2, train_loss=6.5))
    until(lambda: lab.job()["status"]["committedRounds"] == 2, "the round is told")
    assert lab.job()["status"]["trainLoss"] == 6.5
    quiet(trains)
    assert trains.requests() <= requests + 2


def test_a_key_that_another_adds_to_a_config_map_or_secret_is_left_alone(trains: Operator, lab: Lab) -> None:
    lab.kube.kubectl("patch", "configmap", "first-job-job", "-p", json.dumps({"data": {"note": "ours too"}}))
    lab.kube.kubectl("patch", "secret", "first-job-tokens", "-p", json.dumps({"stringData": {"note": "ours too"}}))
    quiet(trains)
    assert lab.kube.get("configmap/first-job-job")["data"]["note"] == "ours too"
    (key,) = lab.kube.get("configmap/first-job-job")["data"].keys() - {"note"}
    lab.kube.kubectl("patch", "configmap", "first-job-job", "-p", json.dumps({"data": {key: "{}"}}))
    until(lambda: lab.kube.get("configmap/first-job-job")["data"][key] != "{}", "what is the operator's is kept")


def test_a_label_that_is_taken_off_and_put_back_starts_no_loop(trains: Operator, lab: Lab) -> None:
    worker = "job/first-job-worker-north"
    uid = lab.kube.get(worker)["metadata"]["uid"]
    lab.kube.kubectl("label", worker, f"{names.MANAGED_BY}-")
    lab.kube.kubectl("label", "--overwrite", worker, f"{names.MANAGED_BY}={names.MANAGER}")
    quiet(trains)
    assert lab.kube.get(worker)["metadata"]["uid"] == uid
    lab.until_state("Running", "Training")

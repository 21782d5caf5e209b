"""A job as real pods: it ends as the same job ends on this machine as processes, whatever is stopped meanwhile.

Photon is installed by helm in a namespace that enforces the restricted Pod Security Standard, with the chart's own
store; everything is applied by kubectl.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from benchmarks.demo_data import prepare_demo_data
from tests.cluster.fixtures import RunningCluster
from tests.cluster.kube import Object
from tests.cluster.release import OPERATOR, Job, Release
from tests.end_to_end.whole_runs import Run, prepare_data, write_job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
ROUNDS = 4


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, photon: Release) -> tuple[Object, str]:
    """A job of two participants, whose data is in the store, and its last commit as `photon run` makes it."""
    folder = tmp_path_factory.mktemp("small")
    data = prepare_data(folder)
    path = write_job(folder / "job.yaml", data, model={"preset": "llama-1m", "seed": 3}, rounds=ROUNDS)
    photon.upload(data)
    summary = Run(path, folder / "runs").finish()
    return yaml.safe_load(path.read_text()), summary["last_commit"]


def in_the_middle(status: Object) -> bool:
    """Of the second round: one commit is there and somebody trains."""
    training = any(p.get("step", 0) >= 5 for p in status.get("participants", ()))
    return status.get("round") == 2 and training


def test_a_job_as_pods_ends_as_it_does_as_processes(photon: Release, small: tuple[Object, str], tmp_path: Path) -> None:
    document, last_commit = small
    job = Job(photon, photon.for_cluster(document, name="small"))
    job.apply(tmp_path)
    status = job.complete()
    assert status["lastCommit"] == last_commit
    assert status["committedRounds"] == ROUNDS
    (line,) = photon.kube.kubectl("get", "ftj/small", "--no-headers").splitlines()
    assert line.split()[:3] == ["small", str(ROUNDS), str(ROUNDS)]
    assert "Complete" in line


def delete_the_worker(job: Job, cluster: RunningCluster) -> None:
    job.delete_pod("worker", "south")


def delete_the_aggregator(job: Job, cluster: RunningCluster) -> None:
    job.delete_pod("aggregator")


def delete_all_pods(job: Job, cluster: RunningCluster) -> None:
    job.kube.kubectl("delete", "pod", "--selector", f"photon.dev/job={job.name}", "--grace-period=0", "--force")


def restart_the_operator(job: Job, cluster: RunningCluster) -> None:
    job.kube.kubectl("delete", "pod", "--selector", "app.kubernetes.io/component=operator", "--wait=false")


def stop_the_operator_for_a_round(job: Job, cluster: RunningCluster) -> None:
    job.kube.kubectl("scale", OPERATOR, "--replicas=0")
    job.delete_pod("worker", "north")
    job.kube.kubectl(
        "wait", "--for=delete", "pod", "--selector", "app.kubernetes.io/component=operator", "--timeout=60s"
    )
    job.kube.kubectl("scale", OPERATOR, "--replicas=1")


def kill_the_api_server(job: Job, cluster: RunningCluster) -> None:
    cluster.restart("kube-apiserver")


def kill_kubelet(job: Job, cluster: RunningCluster) -> None:
    cluster.restart("kubelet")


@pytest.mark.parametrize(
    "disturb",
    [
        delete_the_worker,
        delete_the_aggregator,
        delete_all_pods,
        restart_the_operator,
        stop_the_operator_for_a_round,
        kill_the_api_server,
        kill_kubelet,
    ],
)
def test_what_is_stopped_in_mid_job_changes_nothing(
    disturb: Callable[[Job, RunningCluster], None],
    photon: Release,
    cluster: RunningCluster,
    small: tuple[Object, str],
    tmp_path: Path,
) -> None:
    document, last_commit = small
    name = disturb.__name__.replace("_", "-")
    job = Job(photon, photon.for_cluster(document, name=name))
    job.apply(tmp_path)
    job.wait(in_the_middle, "in the second round")
    disturb(job, cluster)
    assert job.complete()["lastCommit"] == last_commit
    photon.kube.kubectl("delete", f"ftj/{name}", "--wait=false")


def test_the_demos_job_as_pods_ends_as_the_demo_does(photon: Release, tmp_path: Path) -> None:
    """examples/demo.yaml, unchanged but for its data and storage addresses."""
    data = prepare_demo_data(tmp_path / "data", say=lambda _: None)
    document = yaml.safe_load((ROOT / "examples" / "demo.yaml").read_text())
    document["spec"]["local"]["learningRate"]["max"] = float(document["spec"]["local"]["learningRate"]["max"])
    photon.upload(data)
    job = Job(photon, photon.for_cluster(document, name="demo"))
    job.apply(tmp_path)
    for participant in document["spec"]["participants"]:
        participant["worker"]["data"] = {"uri": str(data[participant["name"]])}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    status = job.complete()
    summary = Run(path, tmp_path / "runs").finish(seconds=900)
    assert status["lastCommit"] == summary["last_commit"]
    assert status["committedRounds"] == document["spec"]["rounds"]

"""A job as real pods: it ends as the same job ends on this machine as processes, whatever is stopped meanwhile.

Photon is installed by helm in a namespace that enforces the restricted Pod Security Standard, with the chart's own
store; everything is applied by kubectl.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import OPERATOR, Job, Release
from tests.end_to_end.whole_runs import Run, prepare_data, write_job
from tools.cluster.kube import Object
from tools.demo_data import prepare_demo_data

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
# Twice as many as there are disturbances, each longer than the operator takes to look again: some go by unseen.
ROUNDS = 14
STEPS = 80


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, photon: Release) -> tuple[Object, dict[int, str]]:
    """A job of two participants, whose data is in the store; and its commits by round as `photon run` makes them."""
    folder = tmp_path_factory.mktemp("small")
    data = prepare_data(folder)
    path = write_job(folder / "job.yaml", data, model={"preset": "llama-1m", "seed": 3}, steps=STEPS, rounds=ROUNDS)
    photon.upload(data)
    run = Run(path, folder / "runs")
    run.finish()
    lines = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    commits = {line["record"]["round"]: line["digest"] for line in lines if line["kind"] == "commit"}
    return yaml.safe_load(path.read_text()), commits


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


DISTURBANCES = (
    delete_the_worker,
    delete_the_aggregator,
    delete_all_pods,
    restart_the_operator,
    stop_the_operator_for_a_round,
    kill_the_api_server,
    kill_kubelet,
)


def test_whatever_is_stopped_in_mid_job_changes_nothing(
    photon: Release, cluster: RunningCluster, small: tuple[Object, dict[int, str]], tmp_path: Path
) -> None:
    """One thing after the other, each in the middle of a later round."""
    document, commits = small
    job = Job(photon, photon.for_cluster(document, name="small"))
    job.apply(tmp_path)
    reached = 1
    for disturb in DISTURBANCES:

        def in_the_middle(status: Object, after: int = reached) -> bool:
            training = any(p.get("step", 0) >= 5 for p in status.get("participants", ()))
            return status.get("round", 0) > after and training

        status = job.wait(in_the_middle, f"in the middle of a round after {reached}, for {disturb.__name__}")
        assert status["lastCommit"] == commits[status["committedRounds"]], f"before {disturb.__name__}"
        reached = status["round"]
        disturb(job, cluster)
    assert job.complete()["lastCommit"] == commits[ROUNDS]
    assert reached <= ROUNDS


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
    (line,) = photon.kube.kubectl("get", "ftj/demo", "--no-headers").splitlines()
    assert line.split()[:3] == ["demo", "96", "96"]
    assert "Complete" in line

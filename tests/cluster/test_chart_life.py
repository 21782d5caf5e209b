"""A release's life beside a running job: tested, upgraded, uninstalled and installed again, by Helm 3 and Helm 4."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.chart.helms import NoHelm
from tests.chart.helms import helm as helm_of_major
from tests.cluster.fixtures import RunningCluster
from tests.cluster.release import NAME, STORE, Job, Release, helm, install, installed
from tests.end_to_end.whole_runs import prepare_data, write_job
from tools.cluster.kube import Kube, Object

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

ROUNDS: Final = 8
JOB: Final = "upgraded"
CRD: Final = "crd/federatedtrainingjobs.photon.dev"


@pytest.fixture(scope="module")
def helms() -> dict[int, Path]:
    """Programs by their major version; where Helm 3 cannot be had, Helm 4 does its part too."""
    try:
        return {3: helm_of_major(3), 4: helm_of_major(4)}
    except NoHelm:
        return {3: helm_of_major(4), 4: helm_of_major(4)}


@pytest.fixture(scope="module")
def photon(cluster: RunningCluster, helms: dict[int, Path]) -> Iterator[Release]:
    """Installed by Helm 3."""
    with installed(cluster, program=helms[3]) as release:
        yield release


@pytest.mark.parametrize("major", [3, 4])
def test_helm_test_passes(photon: Release, helms: dict[int, Path], major: int) -> None:
    assert re.search(r"Phase:\s+Succeeded", helm(photon.kube, "test", NAME, program=helms[major]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgraded:
    """What there was before two upgrades during a job, and at that job's end. ``during``: rounds done meanwhile."""

    before: Object
    after: Object
    during: list[int]
    status: Object


@pytest.fixture(scope="module")
def upgraded(
    photon: Release, cluster: RunningCluster, helms: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Upgraded:
    """A job runs while Helm 3 and then Helm 4 upgrade the release to other values of the operator."""
    folder = tmp_path_factory.mktemp("upgraded")
    data = prepare_data(folder)
    photon.upload(data)
    path = write_job(folder / "job.yaml", data, model={"preset": "llama-1m", "seed": 3}, rounds=ROUNDS)
    job = Job(photon, photon.for_cluster(yaml.safe_load(path.read_text()), name=JOB))
    job.apply(folder)
    job.wait(lambda status: status.get("participantsPresent") == 2, "training")
    before = not_to_be_disturbed(photon.kube)
    during = []
    for major, level in ((3, "debug"), (4, "warning")):
        install(photon.kube, cluster.registry, f"operator.logLevel={level}", program=helms[major])
        operators = photon.kube.items("pods", "--selector", "app.kubernetes.io/component=operator")
        assert f'"{level}"' in json.dumps(operators), "this upgrade made another operator"
        during.append(job.status["committedRounds"])
    status = job.complete()
    return Upgraded(before=before, after=not_to_be_disturbed(photon.kube), during=during, status=status)


def test_an_upgrade_with_a_job_running_disturbs_nothing(upgraded: Upgraded) -> None:
    assert upgraded.during[0] < ROUNDS, "the job ran during the first upgrade at least"
    assert upgraded.status["committedRounds"] == ROUNDS
    assert upgraded.after == upgraded.before


def test_uninstalling_leaves_what_notes_say_and_installing_again_finds_it(
    photon: Release, cluster: RunningCluster, helms: dict[int, Path], upgraded: Upgraded
) -> None:
    kube = photon.kube
    notes = " ".join(helm(kube, "get", "notes", NAME, program=helms[3]).split())
    (stays,) = re.findall(r"The CustomResourceDefinition and all remaining jobs are kept.*", notes)
    (claim,) = re.findall(r"PersistentVolumeClaim ([\w-]+)", stays)
    volume = kube.get(f"pvc/{claim}")["spec"]["volumeName"]

    helm(kube, "uninstall", NAME, "--wait", "--timeout", "90s", program=helms[3])
    assert kube.items("deployments,statefulsets,services", "--selector", f"app.kubernetes.io/instance={NAME}") == []
    assert kube.exists(CRD)
    assert kube.get(f"ftj/{JOB}")["status"] == upgraded.status
    assert kube.get(f"pvc/{claim}")["spec"]["volumeName"] == volume

    install(kube, cluster.registry, program=helms[4])
    assert kube.get(f"ftj/{JOB}")["status"]["lastCommit"] == upgraded.status["lastCommit"]
    with photon.s3() as client:
        prefix = upgraded.status["checkpoint"].removeprefix("s3://photon/")
        listed = client.list_objects_v2(Bucket="photon", Prefix=prefix)["Contents"]
    assert any(entry["Key"].endswith(".safetensors") and entry["Size"] > 0 for entry in listed)


def not_to_be_disturbed(kube: Kube) -> Object:
    """Pods of the job and of the store, with their restarts; the store's keys."""
    pods = [
        *kube.items("pods", "--selector", f"photon.dev/job={JOB},photon.dev/role in (aggregator,worker)"),
        kube.get(f"pod/{STORE}-0"),
    ]
    assert len(pods) == 4
    seen = {pod["metadata"]["name"]: (pod["metadata"]["uid"], restarts(pod)) for pod in pods}
    return {**seen, "keys": kube.get(f"secret/{STORE}")["data"]}


def restarts(pod: Object) -> int:
    return sum(container["restartCount"] for container in pod["status"]["containerStatuses"])

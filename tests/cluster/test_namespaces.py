"""kubectl delete namespace ends while a job runs in it, with real pods; then also in the namespace of the operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.cluster.fixtures import RESTRICTED, RunningCluster
from tests.cluster.release import Job, Release, install
from tests.end_to_end.whole_runs import prepare_data, write_job
from tools.cluster.images import DOCKERFILES
from tools.cluster.kube import Kube
from tools.cluster.processes import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# More than are trained before the namespace goes.
ROUNDS: Final = 500
GONE_SECONDS: Final = 240.0


@pytest.fixture
def tenant(cluster: RunningCluster) -> Iterator[Kube]:
    with cluster.kube.fresh_namespace(labels=RESTRICTED, prefix="tenant") as kube:
        yield kube


@pytest.fixture
def release(cluster: RunningCluster, tenant: Kube) -> Iterator[Release]:
    """An installation of its own: it goes with its namespace."""
    cluster.load(*DOCKERFILES)
    with cluster.kube.fresh_namespace(labels=RESTRICTED, prefix="photon") as kube:
        install(kube, cluster.registry, f"watchNamespaces={{{kube.namespace},{tenant.namespace}}}")
        yield Release(kube=kube)


def test_deleting_a_namespace_with_a_running_job_ends(release: Release, tenant: Kube, tmp_path: Path) -> None:
    data = prepare_data(tmp_path)
    path = write_job(tmp_path / "job.yaml", data, model={"preset": "llama-1m", "seed": 3}, steps=80, rounds=ROUNDS)
    release.upload(data)
    for kube, policy in ((tenant, "Delete"), (release.kube, "Retain")):
        document = release.for_cluster(yaml.safe_load(path.read_text()), name=f"job-{policy.lower()}")
        document["spec"]["storage"]["deletionPolicy"] = policy
        job = Job(Release(kube=kube), document)
        job.apply(tmp_path)
        job.wait(lambda status: status.get("committedRounds", 0) > 0, "training")
        namespace = kube.namespace
        kube.kubectl("delete", "namespace", str(namespace), "--wait=false")
        until(
            lambda namespace=namespace: not release.kube.exists(f"namespace/{namespace}"),
            f"{namespace} is gone (it has {kube.run('get', 'ftj,jobs,pods').stdout})",
            seconds=GONE_SECONDS,
        )

"""The bundled store as a real pod: restricted, on a claim, its objects there after a restart."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.chart.rendering import CHART, Chart
from tests.cluster.fixtures import RunningCluster
from tools.cluster.fetched import tool
from tools.cluster.kube import Kube
from tools.cluster.processes import free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

STORE = "statefulset/photon-seaweedfs"


@pytest.fixture
def store(chart: Chart, cluster: RunningCluster, cluster_namespace: Kube) -> Iterator[Kube]:
    """A namespace with the chart's store, its pod ready. Its operator is given no image, and no rights."""
    cluster.load("photon-seaweedfs")
    where = ("--kubeconfig", str(cluster_namespace.kubeconfig), "--namespace", str(cluster_namespace.namespace))
    context = ("--kube-context", cluster_namespace.context) if cluster_namespace.context else ()
    settings = {
        "image.registry": cluster.registry,
        "seaweedfs.enabled": "true",
        "seaweedfs.persistence.size": "1Gi",
        "crds.enabled": "false",
        "rbac.create": "false",
    }
    given = [argument for name, value in settings.items() for argument in ("--set", f"{name}={value}")]
    chart.helm("install", "photon", str(CHART), *where, *context, *given)
    try:
        ready(cluster_namespace)
        yield cluster_namespace
    finally:
        chart.helm("uninstall", "photon", *where, *context)


def ready(kube: Kube) -> None:
    done = kube.run("rollout", "status", STORE, "--timeout=110s")
    assert done.returncode == 0, kube.explain()


@contextmanager
def forwarded(kube: Kube) -> Iterator[str]:
    """The store's endpoint on this machine, as the guide has it."""
    (port,) = free_ports(1)
    command = [str(tool("kubectl")), *kube.arguments(), "port-forward", "service/photon-seaweedfs", f"{port}:8333"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def keys(kube: Kube) -> dict[str, str]:
    data = kube.get("secret/photon-seaweedfs")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def test_the_store_keeps_its_objects_when_its_pod_is_replaced(store: Kube, tmp_path: Path) -> None:
    known = keys(store)
    pod = store.get("pod/photon-seaweedfs-0")
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001

    def client(endpoint: str):
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=known["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=known["AWS_SECRET_ACCESS_KEY"],
        )

    with forwarded(store) as endpoint:
        patiently(lambda: client(endpoint).put_object(Bucket="photon", Key="kept", Body=b"text"))
    store.kubectl("delete", "pod", "photon-seaweedfs-0")
    ready(store)
    assert store.get("pod/photon-seaweedfs-0")["metadata"]["uid"] != pod["metadata"]["uid"]
    with forwarded(store) as endpoint:
        found = patiently(lambda: client(endpoint).get_object(Bucket="photon", Key="kept")["Body"].read())
    assert found == b"text"


def patiently(ask):
    """A port-forward takes a moment to listen."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except ClientError:
            raise
        except BotoCoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)

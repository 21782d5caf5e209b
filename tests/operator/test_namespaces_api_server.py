"""kubectl delete namespace beside a real API server with its controllers: it ends, wherever the operator is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from photon_operator.children import names
from tests.operator.running import Lab, Operator, until
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600), pytest.mark.xdist_group("namespaces")]

WORKERS = ("first-job-worker-north", "first-job-worker-south")


@pytest.fixture
def lab(with_crd: Kube) -> Iterator[Lab]:
    with with_crd.fresh_namespace(prefix="closing") as kube:
        yield Lab(kube)


def fail_as_kubelets_do(lab: Lab) -> None:
    """Worker pods that are deleted end with an error; their finalizers are the Job controller's to take."""
    for pod in lab.kube.items("pods", "-l", f"{names.ROLE}=worker"):
        if pod["metadata"].get("deletionTimestamp") and pod["status"]["phase"] != "Failed":
            patch = json.dumps({"status": {"phase": "Failed"}})
            name = pod["metadata"]["name"]
            # It may be gone by now.
            lab.kube.run("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


@pytest.mark.parametrize("inside", [False, True], ids=["operator-outside", "operator-inside"])
def test_deleting_a_namespace_ends(lab: Lab, with_crd: Kube, tmp_path: Path, inside: bool) -> None:
    settings = {"PHOTON_NAMESPACES": lab.namespace, "PHOTON_OPERATOR_NAMESPACE": lab.namespace if inside else ""}
    operator = Operator(with_crd, tmp_path / "operator.log", **settings)
    try:
        operator.start()
        storage = {"endpoint": "http://store:8333", "prefix": "first", "deletionPolicy": "Delete"}
        lab.apply(storage={**storage, "credentialsSecretRef": {"name": "store"}})
        lab.end("first-job-init")
        for name in WORKERS:
            lab.run(name)
        until(lambda: "first-job-aggregator" in lab.names(), "its aggregator")
        assert lab.job()["metadata"]["finalizers"] == [names.FINALIZER]
        lab.kube.kubectl("delete", "namespace", lab.namespace, "--wait=false")
        if inside:  # its own pod is asked to end with all others
            operator.stop()

        def gone() -> bool:
            if not with_crd.exists(f"namespace/{lab.namespace}"):
                return True
            fail_as_kubelets_do(lab)
            return False

        until(gone, f"the namespace is gone; the operator said:\n{operator.tail()}")
        about = f"involvedObject.kind=Namespace,involvedObject.name={lab.namespace}"
        told = with_crd.items("events", "--field-selector", about, "--namespace", "default")
        assert [event["reason"] for event in told] == ["DataKept"]
        assert f"{lab.namespace}/first-job: " in told[0]["message"]
        assert "s3://photon/first at http://store:8333" in told[0]["message"]
    finally:
        operator.stop()

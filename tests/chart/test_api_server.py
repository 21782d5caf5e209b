"""The chart and the examples before a real API server: it takes all of it; what upgrades and uninstalling keep."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendering import CHART, CI_VALUES, EXAMPLES, NAMESPACE, ROOT, Chart, Object, pod_specs
from tools.cluster.control_plane import ControlPlane
from tools.cluster.kube import Kube
from tools.cluster.programs import NoProgram

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

NAMESPACES = ("photon", "team-a", "team-b", "research", "monitoring")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def monitor_definition(kind: str) -> Object:
    """As much of the Prometheus operator's definitions as it takes to store an object."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """A control plane of our own, since definitions come and go here; with the namespaces that the variants name."""
    namespaces = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        for name in NAMESPACES
    ]
    monitors = [monitor_definition(kind) for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule")]
    with ControlPlane() as processes:
        try:
            processes.start()
        except NoProgram as error:
            if os.environ.get("PHOTON_TEST_REQUIRE"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        started = processes.kube
        started.apply(*namespaces, *monitors)
        for monitor in monitors:
            established(started, monitor["metadata"]["name"])
        yield started


def established(kube: Kube, definition: str) -> None:
    kube.until_served(definition)


def helm(chart: Chart, kube: Kube, *arguments: str) -> str:
    return chart.helm(*arguments, "--kubeconfig", str(kube.kubeconfig), "--namespace", NAMESPACE)


@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))
def test_the_api_server_takes_every_object_of_every_variant(chart: Chart, kube: Kube, values: Path) -> None:
    objects = chart.render(values=values)
    # The Deployment's pods are judged when they are made, so they are made here, if only to see whether they may be.
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{i}", "namespace": NAMESPACE}, "spec": spec}
        for i, (_, spec) in enumerate(pod_specs(objects))
    ]
    for pod in pods:
        pod["spec"] = without_what_admission_looks_up(pod["spec"])
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": [*objects, *pods]})
    done = kube.run("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", text=document)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, "not even a warning, of Pod Security or of anything outdated"


def without_what_admission_looks_up(spec: dict[str, Any]) -> dict[str, Any]:
    """A dry run makes no ServiceAccount and claims no volumes, so a pod cannot ask for them."""
    names = {volume["name"] for volume in spec.get("volumes", [])}
    wanted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
    claims: list[Object] = [{"name": name, "emptyDir": {}} for name in sorted(wanted - names)]
    return {
        **{key: value for key, value in spec.items() if key != "serviceAccountName"},
        "volumes": [*spec.get("volumes", []), *claims],
    }


def test_a_release_from_install_to_uninstall(chart: Chart, kube: Kube) -> None:
    values = ("--values", str(CHART / "ci" / "bundled-store-values.yaml"))
    first_job = ROOT / "manifests" / "examples" / "first-job.yaml"
    inside = kube.within(NAMESPACE)
    # One that another test applied by hand is not the release's.
    kube.run("delete", "crd", "federatedtrainingjobs.photon.dev", "--ignore-not-found")
    try:
        notes = helm(chart, kube, "install", "photon", str(CHART), *values)
        assert "http://photon-seaweedfs.photon.svc:8333" in notes
        established(kube, "federatedtrainingjobs.photon.dev")
        inside.apply_file(first_job)
        keys = inside.get("secret/photon-seaweedfs")["data"]
        job = inside.get("ftj/first-job")["metadata"]["uid"]

        helm(chart, kube, "upgrade", "photon", str(CHART), *values, "--set", "operator.logLevel=debug")
        assert inside.get("secret/photon-seaweedfs")["data"] == keys, "a running job's keys go on being valid"
        operator = inside.get("deployment/photon-operator")["spec"]["template"]["spec"]["containers"][0]
        assert {"name": "PHOTON_LOG_LEVEL", "value": "debug"} in operator["env"]

        helm(chart, kube, "uninstall", "photon")
        assert not inside.exists("deployment/photon-operator")
        assert inside.get("ftj/first-job")["metadata"]["uid"] == job, "jobs outlive the release"

        helm(chart, kube, "install", "photon", str(CHART), *values)
        assert inside.get("ftj/first-job")["metadata"]["uid"] == job, "and the next one finds them"
    finally:
        inside.run("delete", "ftj", "--all")
        for name in helm(chart, kube, "list", "--short").split():
            helm(chart, kube, "uninstall", name)
        kube.run("delete", "crd", "federatedtrainingjobs.photon.dev")


def test_the_operators_account_may_do_its_work_and_no_more(chart: Chart, kube: Kube) -> None:
    account = f"--as=system:serviceaccount:{NAMESPACE}:photon-operator"

    def may(verb: str, what: str, namespace: str) -> bool:
        return kube.run("auth", "can-i", verb, what, account, namespace=namespace).stdout.strip() == "yes"

    definition = ROOT / "manifests" / "crd.yaml"
    kube.apply_file(definition)
    established(kube, "federatedtrainingjobs.photon.dev")
    try:
        helm(chart, kube, "install", "photon", str(CHART), "--values", str(CHART / "ci" / "namespaced-values.yaml"))
        for namespace in ("team-a", "team-b"):
            assert may("patch", "federatedtrainingjobs.photon.dev/status", namespace)
            assert may("create", "jobs.batch", namespace)
            assert may("delete", "pods", namespace)
        assert not may("create", "pods", "team-a")
        assert not may("list", "secrets", "research")
        assert not may("list", "federatedtrainingjobs.photon.dev", "research")
    finally:
        helm(chart, kube, "uninstall", "photon")
        kube.run("delete", "-f", str(definition))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_api_server_takes_the_example(kube: Kube, path: Path) -> None:
    kube.apply_file(ROOT / "manifests" / "crd.yaml")
    established(kube, "federatedtrainingjobs.photon.dev")
    with kube.fresh_namespace() as fresh:
        fresh.kubectl("apply", "-f", str(path))
        (stored,) = fresh.items("ftj")
        assert stored["metadata"]["name"]

"""What the chart makes of its values: every object of every variant, under Helm 3 and 4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    CI_VALUES,
    NAMESPACE,
    ROOT,
    Chart,
    environment,
    named,
    of_kind,
    pod_specs,
)

pytestmark = pytest.mark.timeout(1500)  # Helm 3 may have to be built

VARIANTS = pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))
OPERATOR = "photon-operator"


def operator_environment(chart: Chart, *arguments: str, values: Path | None = None) -> dict[str, str]:
    deployment = named(chart.render(*arguments, values=values), "Deployment", OPERATOR)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return environment(container)


def variant(name: str) -> Path:
    return CHART / "ci" / f"{name}-values.yaml"


@VARIANTS
def test_helm_lint_finds_nothing(chart: Chart, values: Path) -> None:
    printed = chart.helm("lint", "--strict", "--values", str(values), str(CHART))
    assert "0 chart(s) failed" in printed
    assert "WARNING" not in printed


@VARIANTS
def test_every_object_says_what_it_belongs_to(chart: Chart, values: Path) -> None:
    names = []
    for item in chart.render(values=values):
        meta = item["metadata"]
        names.append((item["kind"], meta.get("namespace"), meta["name"]))
        if item["kind"] == "CustomResourceDefinition":
            continue
        labels = meta["labels"]
        assert labels["app.kubernetes.io/name"] == "photon"
        assert labels["app.kubernetes.io/instance"] == "photon"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/part-of"] == "photon"
        assert labels["app.kubernetes.io/component"]
        assert labels["helm.sh/chart"] == "photon-0.1.0"
        assert meta["name"].startswith(("photon", "fl"))
        cluster_wide = item["kind"].startswith(("Cluster", "ValidatingAdmission"))
        assert cluster_wide == ("namespace" not in meta), "nothing is left to kubectl's current namespace"
    assert len(names) == len(set(names))


@VARIANTS
def test_services_and_policies_select_the_pods_that_they_are_for(chart: Chart, values: Path) -> None:
    objects = chart.render(values=values)
    pods = [item["spec"]["template"]["metadata"]["labels"] for item in of_kind(objects, "Deployment", "StatefulSet")]
    for item in of_kind(objects, "Deployment", "StatefulSet"):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in of_kind(objects, "Service"):
        selected = [labels for labels in pods if service["spec"]["selector"].items() <= labels.items()]
        assert len(selected) == 1, service["metadata"]["name"]


def test_several_operators_are_never_evicted_together(chart: Chart) -> None:
    objects = chart.render()
    spec = named(objects, "Deployment", OPERATOR)["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert not of_kind(objects, "PodDisruptionBudget"), "with one, it would keep a node from being drained"
    objects = chart.render("--set", "operator.replicas=2")
    assert named(objects, "Deployment", OPERATOR)["spec"]["replicas"] == 2
    budget = named(objects, "PodDisruptionBudget", OPERATOR)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == spec["selector"]


def test_the_operator_is_told_its_images_and_settings(chart: Chart) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    known = operator_environment(chart)
    assert known["PHOTON_AGGREGATOR_IMAGE"] == f"photon-aggregator:{version}"
    assert known["PHOTON_WORKER_IMAGE"] == f"photon-worker:{version}"
    assert known["PHOTON_NAMESPACES"] == ""
    assert json.loads(known["PHOTON_CHILD_ENV"]) == {}
    assert known["PHOTON_CA_CONFIGMAP"] == ""


def test_a_mirror_a_proxy_and_a_certificate_authority_reach_every_pod(chart: Chart) -> None:
    values = variant("restricted-site")
    known = operator_environment(chart, values=values)
    mirror = "registry.example.org:5000/mirror"
    assert known["PHOTON_AGGREGATOR_IMAGE"] == f"{mirror}/photon-aggregator:0.1.0-site.2"
    assert known["PHOTON_WORKER_IMAGE"].startswith(f"{mirror}/photon-worker@sha256:0123")
    assert known["PHOTON_IMAGE_PULL_SECRETS"] == "mirror"
    child = json.loads(known["PHOTON_CHILD_ENV"])
    assert child["HTTPS_PROXY"] == child["https_proxy"] == "http://proxy.example.org:3128"
    assert child["NO_PROXY"].split(",") == ["s3.example.org", "localhost", "127.0.0.1", ".svc", ".svc.cluster.local"]
    assert child["NCCL_DEBUG_SUBSYS"] == "INIT,NET"
    assert "HTTP_PROXY" not in child
    objects = chart.render(values=values)
    authority = named(objects, "ConfigMap", "photon-ca")
    operator = named(objects, "Deployment", OPERATOR)["spec"]["template"]
    assert {"name": "ca", "configMap": {"name": "photon-ca"}} in operator["spec"]["volumes"]
    assert known["PHOTON_CA_FILE"] == "/etc/photon/ca/ca.crt"
    assert known["PHOTON_CA_CONFIGMAP"] == "", "each job has a copy of its own, in whatever namespace"
    assert operator["metadata"]["annotations"]["photon.dev/ca-checksum"], "another bundle starts the operator again"
    assert authority["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----\n")
    for name, spec in pod_specs(objects):
        assert spec["imagePullSecrets"] == [{"name": "mirror"}], name
        assert all(container["image"].startswith(f"{mirror}/") for container in spec["containers"]), name


def test_placement_of_the_operator(chart: Chart) -> None:
    pod = named(chart.render(values=variant("restricted-site")), "Deployment", OPERATOR)["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {"node-role.kubernetes.io/infra": ""}
    assert pod["spec"]["tolerations"][0]["key"] == "node-role.kubernetes.io/infra"
    assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
    assert pod["metadata"]["annotations"]["example.org/scrape"] == "true"
    assert pod["metadata"]["labels"]["example.org/team"] == "platform"


def test_the_definition_is_the_generated_one_and_outlives_the_release(chart: Chart) -> None:
    (rendered,) = of_kind(chart.render(), "CustomResourceDefinition")
    annotations = rendered["metadata"]["annotations"]
    assert annotations == {"helm.sh/resource-policy": "keep"}
    generated = yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text())
    assert rendered["spec"] == generated["spec"]


def test_the_definition_in_the_chart_is_a_copy() -> None:
    ours, chart = ROOT / "manifests" / "crd.yaml", CHART / "files" / "crd.yaml"
    assert ours.read_bytes() == chart.read_bytes(), "run make generate"


def test_without_crds_enabled_there_is_no_definition(chart: Chart) -> None:
    assert not of_kind(chart.render(values=variant("namespaced")), "CustomResourceDefinition")


def test_monitors_are_off_unless_wanted(chart: Chart) -> None:
    assert not of_kind(chart.render(), "PodMonitor", "ServiceMonitor")
    objects = chart.render(values=variant("monitoring"))
    pods = named(objects, "PodMonitor", "photon-jobs")
    assert pods["spec"]["selector"]["matchLabels"]["photon.dev/role"] == "aggregator"
    assert pods["metadata"]["labels"]["release"] == "prometheus"
    service = named(objects, "ServiceMonitor", OPERATOR)["spec"]["selector"]["matchLabels"]
    assert service.items() <= named(objects, "Service", OPERATOR)["metadata"]["labels"].items()


def test_what_others_manage_is_left_to_them(chart: Chart) -> None:
    objects = chart.render(values=variant("bring-your-own"))
    assert sorted({item["kind"] for item in objects}) == ["Deployment", "Pod", "Service"]
    (deployment,) = of_kind(objects, "Deployment")
    assert deployment["metadata"]["name"] == "fl-operator"
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == "photon-runner"


def test_the_helm_test_asks_the_operators_service(chart: Chart) -> None:
    (pod,) = of_kind(chart.render(), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    service = named(chart.render(), "Service", OPERATOR)
    port = service["spec"]["ports"][0]["port"]
    assert pod["spec"]["containers"][0]["command"][-1] == f"http://{OPERATOR}.{NAMESPACE}.svc:{port}/readyz"

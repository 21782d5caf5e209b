"""What people expect of any chart: their variables, labels, security contexts, objects; equal values, equal text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from photon_operator.settings import Settings
from tests.chart.rendering import CHART, NAMESPACE, Chart, Object, environment, named, of_kind, pod_specs

pytestmark = pytest.mark.timeout(1500)

OPENSHIFT = ("--api-versions", "security.openshift.io/v1")
ELSEWHERE = {"CustomResourceDefinition"}
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "platform"},
    "commonAnnotations": {"example.org/owner": "ann"},
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}},
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written, namespace: '{{ .Release.Namespace }}'}",
    ],
    "operator": {
        "extraEnv": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "extraEnvFrom": [{"configMapRef": {"name": "site"}}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "livenessProbe": {"initialDelaySeconds": 30, "failureThreshold": 10},
        "podLabels": {"team": "other"},
    },
    "jobs": {
        "extraEnv": [{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}}],
        "extraEnvFrom": [{"secretRef": {"name": "site"}}],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "low",
        "labels": {"site": "lab"},
        "annotations": {"sidecar.istio.io/inject": "false"},
        "inheritedMetadata": {"labels": ["team", "cost.example.org/*"]},
        "resources": {"limits": {"memory": "8Gi"}},
        "podTemplatePatch": {"spec": {"runtimeClassName": "nvidia"}},
    },
    "seaweedfs": {"enabled": True, "existingSecret": "store-keys"},
    "serviceAccount": {"annotations": {"example.org/owner": "own"}},
    "monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}},
    "dashboards": {"enabled": True},
    "alerts": {"enabled": True},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}]},
}


@pytest.fixture
def everything(chart: Chart, tmp_path: Path) -> list[Object]:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    return chart.render(values=values)


def test_variables_probes_and_spreading_reach_the_operator(everything: list[Object]) -> None:
    pod = named(everything, "Deployment", "photon-operator")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert environment(container)["TOKEN"] == {"secretKeyRef": {"name": "s", "key": "k"}}
    assert container["envFrom"] == [{"configMapRef": {"name": "site"}}]
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/healthz", "port": "http"},
        "initialDelaySeconds": 30,
        "periodSeconds": 15,
        "timeoutSeconds": 5,
        "failureThreshold": 10,
    }
    assert pod["spec"]["topologySpreadConstraints"][0]["topologyKey"] == "zone"


def test_the_operator_reads_what_the_chart_says_of_jobs(chart: Chart, everything: list[Object]) -> None:
    def settings(objects: list[Object]) -> Settings:
        pod = named(objects, "Deployment", "photon-operator")["spec"]["template"]["spec"]
        values = environment(pod["containers"][0])
        return Settings.of({name: value for name, value in values.items() if isinstance(value, str)})

    defaults, wanted = settings(everything).job_defaults, EVERYTHING["jobs"]
    assert defaults.extra_env == wanted["extraEnv"]
    assert defaults.extra_env_from == wanted["extraEnvFrom"]
    assert (defaults.node_selector, defaults.tolerations) == (wanted["nodeSelector"], wanted["tolerations"])
    assert (defaults.labels, defaults.annotations) == (wanted["labels"], wanted["annotations"])
    assert defaults.inherited_metadata["labels"] == wanted["inheritedMetadata"]["labels"]
    assert (defaults.resources, defaults.pod_template_patch) == (wanted["resources"], wanted["podTemplatePatch"])
    assert defaults.priority_class_name == "low"
    given = settings(chart.render("--set", "jobs.podSecurity.namespaces.hpc=privileged")).job_defaults
    assert [given.pod_security.of(name).value for name in ("hpc", "lab")] == ["privileged", "restricted"]
    usual = settings(chart.render()).job_defaults
    assert replace(usual, inherited_metadata={}) == Settings().job_defaults


def test_labels_and_annotations_of_everything(everything: list[Object]) -> None:
    extra = {"photon-extra", "written"}
    for item in everything:
        metadata = item["metadata"]
        if item["kind"] in ELSEWHERE or metadata["name"] in extra:
            continue
        assert metadata["labels"]["team"] == "platform", item["kind"]
        owner = "own" if item["kind"] == "ServiceAccount" else "ann"
        assert metadata["annotations"]["example.org/owner"] == owner, (item["kind"], metadata["name"])
    for item in of_kind(everything, "Deployment", "StatefulSet"):
        assert item["spec"]["template"]["metadata"]["labels"]["team"] == "platform"


def test_extra_objects_are_templates(everything: list[Object]) -> None:
    assert named(everything, "ConfigMap", "photon-extra")
    assert named(everything, "ConfigMap", "written")["metadata"]["namespace"] == NAMESPACE


def test_security_contexts_are_values(chart: Chart) -> None:
    arguments = ("--set", "podSecurityContext.runAsUser=2000", "--set", "podSecurityContext.fsGroup=null")
    for _, spec in pod_specs(chart.render(*arguments, "--set", "seaweedfs.enabled=true")):
        assert spec["securityContext"]["runAsUser"] == 2000
        assert "fsGroup" not in spec["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"] is True
    given = ("--set", "containerSecurityContext.seLinuxOptions.type=container_t")
    for _, spec in pod_specs(chart.render(*given)):
        assert spec["containers"][0]["securityContext"]["seLinuxOptions"] == {"type": "container_t"}


def test_openshift_assigns_users(chart: Chart) -> None:
    objects = chart.render(*OPENSHIFT, "--set", "seaweedfs.enabled=true")
    for name, spec in pod_specs(objects):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & spec["securityContext"].keys(), name
        assert spec["securityContext"]["runAsNonRoot"] is True
    assert job_user(objects) == {}
    assert job_user(chart.render()) == {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    assert job_user(chart.render(*OPENSHIFT, "--set", "jobs.securityContext.runAsUser=2000"))["runAsUser"] == 2000
    without = [f"jobs.securityContext.{name}=null" for name in ("runAsUser", "runAsGroup", "fsGroup")]
    assert job_user(chart.render("--set", ",".join(without))) == {}


def job_user(objects: list[Object]) -> dict[str, int]:
    (container,) = named(objects, "Deployment", "photon-operator")["spec"]["template"]["spec"]["containers"]
    found: dict[str, int] = json.loads(environment(container)["PHOTON_JOB_DEFAULTS"])["securityContext"]
    return found


def test_rendered_twice_it_is_the_same(chart: Chart, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    render = ("template", "photon", str(CHART), "--namespace", NAMESPACE, "--values", str(values))
    assert chart.helm(*render) == chart.helm(*render)


def test_services_have_addresses_of_ipv4_and_ipv6_where_the_cluster_has_both(chart: Chart) -> None:
    objects = chart.render("--set", "seaweedfs.enabled=true,seaweedfs.listenAddress=::")
    assert {item["spec"]["ipFamilyPolicy"] for item in of_kind(objects, "Service")} == {"PreferDualStack"}
    (store,) = named(objects, "StatefulSet", "photon-seaweedfs")["spec"]["template"]["spec"]["containers"]
    assert "-s3.ip.bind=::" in store["command"]

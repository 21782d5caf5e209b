"""What the chart's pods may do, what its roles allow, and who may talk to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from photon_operator.network_settings import NetworkSettings
from tests.chart.rendering import CHART, CI_VALUES, NAMESPACE, Chart, Object, environment, named, of_kind, pod_specs

pytestmark = pytest.mark.timeout(1500)

VARIANTS = pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.name.removesuffix("-values.yaml"))
NAMESPACED = CHART / "ci" / "namespaced-values.yaml"
JOB_PODS = {"app.kubernetes.io/name": "photon", "app.kubernetes.io/managed-by": "photon-operator"}


@VARIANTS
def test_every_pod_meets_the_restricted_standard_and_more(chart: Chart, values: Path) -> None:
    found = list(pod_specs(chart.render(values=values)))
    assert found
    for name, spec in found:
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True, name
        assert (pod["runAsUser"], pod["runAsGroup"]) == (10001, 10001), name
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert spec["enableServiceLinks"] is False, name
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
        for volume in spec.get("volumes", []):
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret"}, name


@VARIANTS
def test_only_the_operator_has_a_token(chart: Chart, values: Path) -> None:
    objects = chart.render(values=values)
    with_token = [name for name, spec in pod_specs(objects) if spec["automountServiceAccountToken"] is not False]
    assert len(with_token) == 1
    assert with_token[0].startswith("Deployment/")
    assert all(account["automountServiceAccountToken"] is False for account in of_kind(objects, "ServiceAccount"))


def test_with_named_namespaces_nothing_is_granted_beyond_them(chart: Chart) -> None:
    objects = chart.render(values=NAMESPACED)
    assert not [item["kind"] for item in objects if item["kind"].startswith("Cluster")]
    roles = of_kind(objects, "Role")
    assert {role["metadata"]["namespace"] for role in roles} == {"team-a", "team-b"}
    for binding in of_kind(objects, "RoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "photon-operator", "namespace": NAMESPACE}]
        assert binding["roleRef"]["kind"] == "Role"


def granted(role: Object) -> dict[str, set[str]]:
    return {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]}


def test_the_operator_is_granted_what_it_needs_and_no_wildcard(chart: Chart) -> None:
    """That it is neither more nor less than what it asks for: tests/operator/test_rbac.py."""
    everywhere = granted(named(chart.render(), "ClusterRole", "photon-operator"))
    assert "*" not in {*everywhere, *(verb for verbs in everywhere.values() for verb in verbs)}
    assert everywhere["pods"] == {"list", "watch", "delete"}, "pods are the Jobs' to make"
    assert everywhere["secrets"] == {"get", "create", "patch"}, "each by its name"
    assert "create" not in everywhere["federatedtrainingjobs"], "jobs are the user's to make"
    several = of_kind(chart.render(values=NAMESPACED), "Role")
    assert granted(next(role for role in several if role["metadata"]["name"] == "photon-operator")) == everywhere
    assert everywhere.pop("federatedtrainingjobs/finalizers") == {"update"}, "for owner references that block deletion"
    assert not any("update" in verbs for verbs in everywhere.values()), "it applies, and never replaces"


def test_jobs_are_judged_at_admission_where_the_chart_has_rights_on_the_whole_cluster(chart: Chart) -> None:
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    policy, binding = of_kind(chart.render("--set", "jobs.serviceAccounts={b,a}"), *kinds)
    assert "run as (a, b, default)" in policy["spec"]["validations"][0]["messageExpression"]
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    for given in ("admissionPolicy.enabled=false", "watchNamespaces={team-a}", "rbac.create=false"):
        assert not of_kind(chart.render("--set", given), *kinds), given


def test_without_policies_there_are_no_rights_for_them(chart: Chart) -> None:
    objects = chart.render("--set", "networkPolicy.enabled=false")
    assert "networkpolicies" not in granted(named(objects, "ClusterRole", "photon-operator"))


def test_of_leases_it_may_hold_its_own_and_see_those_of_others(chart: Chart) -> None:
    whole, several = chart.render(), chart.render(values=NAMESPACED)
    (role,) = of_kind(whole, "Role")
    assert role["metadata"]["namespace"] == "kube-system"
    held = [(rule["resources"], rule.get("resourceNames"), rule["verbs"]) for rule in role["rules"]]
    own = (["leases"], ["photon-operator-cluster"], ["get", "update"])
    assert held == [(["leases"], None, ["create"]), own]
    assert granted(named(whole, "ClusterRole", "photon-operator-leases")) == {"leases": {"list"}}
    roles = [role for role in of_kind(several, "Role") if role["metadata"]["name"] == "photon-operator-leases"]
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert roles[0]["rules"][1]["resourceNames"] == ["photon-operator"]


def test_metadata_services_are_reached_only_where_the_administrator_says(chart: Chart) -> None:
    def rules(objects: list[Object]) -> list[Any]:
        return [rule for rule in told(objects)["egress"] if "169.254.170.23" in str(rule)]

    assert not rules(chart.render())
    (rule,) = rules(chart.render(values=CHART / "ci" / "eks-values.yaml"))
    assert rule == {
        "to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}, {"ipBlock": {"cidr": "fd00:ec2::23/128"}}],
        "ports": [{"protocol": "TCP", "port": 80}],
    }


def test_who_may_edit_a_namespace_may_edit_its_jobs(chart: Chart) -> None:
    view = named(chart.render(), "ClusterRole", "photon-view")
    edit = named(chart.render(), "ClusterRole", "photon-edit")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert granted(view)["federatedtrainingjobs"] == {"get", "list", "watch"}
    assert "federatedtrainingjobs/status" not in granted(edit)


def policy(objects: list[Object], name: str, namespace: str = NAMESPACE) -> Any:
    (found,) = [
        item
        for item in of_kind(objects, "NetworkPolicy")
        if (item["metadata"]["name"], item["metadata"]["namespace"]) == (name, namespace)
    ]
    return found["spec"]


def told(objects: list[Object]) -> dict[str, Any]:
    """What the operator is told of the network of job pods."""
    (container,) = named(objects, "Deployment", "photon-operator")["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = json.loads(environment(container)["PHOTON_NETWORK_POLICY"])
    return found


@VARIANTS
def test_the_chart_has_policies_of_its_own_pods_only_and_the_operator_those_of_jobs(chart: Chart, values: Path) -> None:
    objects = chart.render(values=values)
    selected = [found["spec"]["podSelector"]["matchLabels"] for found in of_kind(objects, "NetworkPolicy")]
    assert all("app.kubernetes.io/component" in labels for labels in selected)
    (container,) = of_kind(objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"]
    text = environment(container)["PHOTON_NETWORK_POLICY"]
    assert bool(NetworkSettings.of(text)) == bool(selected), "the operator takes what the chart says"


def test_job_pods_are_to_reach_only_dns_and_storage(chart: Chart) -> None:
    dns, storage = told(chart.render())["egress"]
    assert {(port["protocol"], port["port"]) for port in dns["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert storage["ports"] == [{"protocol": "TCP", "port": 443}]
    blocks = [peer["ipBlock"] for peer in storage["to"]]
    assert all(block["except"] for block in blocks), "credentials of the node are never a job's"


def test_aggregators_answer_the_operator_and_who_is_named(chart: Chart) -> None:
    (operator,) = told(chart.render())["aggregatorFrom"]
    pod = named(chart.render(), "Deployment", "photon-operator")["spec"]["template"]["metadata"]["labels"]
    assert operator["podSelector"]["matchLabels"].items() <= pod.items()
    assert operator["podSelector"]["matchExpressions"] == [{"key": "photon.dev/job", "operator": "DoesNotExist"}], (
        "no pod of a job becomes the operator by labels that its patch adds"
    )
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": NAMESPACE}
    site = chart.render(values=CHART / "ci" / "restricted-site-values.yaml")
    _, ingress = told(site)["aggregatorFrom"]
    assert ingress["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ingress"}


def test_further_egress_and_storage_of_a_closed_network(chart: Chart) -> None:
    dns, storage, proxy = told(chart.render(values=CHART / "ci" / "restricted-site-values.yaml"))["egress"]
    assert {port["port"] for port in dns["ports"]} == {53, 5353}
    assert storage["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    assert [port["port"] for port in storage["ports"]] == [443, 9000]
    assert proxy["to"] == [{"ipBlock": {"cidr": "198.51.100.7/32"}}]


def test_the_bundled_store_answers_job_pods_of_the_watched_namespaces_only(chart: Chart) -> None:
    objects = chart.render(values=NAMESPACED)
    spec = policy(objects, "photon-seaweedfs")
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec
    (peer,) = spec["ingress"][0]["from"]
    assert peer["podSelector"]["matchLabels"] == JOB_PODS
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["team-a", "team-b"]
    store = named(objects, "StatefulSet", "photon-seaweedfs")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= store.items()
    *_, to_store = told(objects)["egress"]
    assert to_store["to"][0]["podSelector"]["matchLabels"].items() <= store.items()
    assert to_store["ports"] == [{"protocol": "TCP", "port": 8333}]


def test_prometheus_reaches_what_it_is_to_scrape(chart: Chart) -> None:
    objects = chart.render(values=CHART / "ci" / "monitoring-values.yaml")
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert prometheus in policy(objects, "photon-operator")["ingress"][0]["from"]
    assert told(objects)["metricsFrom"] == [prometheus]
    assert prometheus not in told(objects)["aggregatorFrom"], "it reads metrics, not the API"

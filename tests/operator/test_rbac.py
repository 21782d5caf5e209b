"""The rights that the chart gives the operator, beside what it asks of a real API server through the lives of jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from photon.api.status import JobReason
from photon_operator.children import names
from tests.chart.helms import NoHelm, helm
from tests.chart.rendering import NAMESPACE, Chart, Object, environment, named, of_kind
from tests.cluster.fixtures import RESTRICTED, install_crd
from tests.operator.running import EXAMPLES, Aggregators, Lab, Operator, until
from tests.operator.world import SUSPENDED, record, said, words
from tools.cluster.control_plane import ControlPlane
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.xdist_group("operator")]

ACCOUNT: Final = f"system:serviceaccount:{NAMESPACE}:photon-operator"
# Rights for what does not happen here: a pod of a node that is lost, a name that something else has, and the check of
# the API server itself where it enforces OwnerReferencesPermissionEnforcement.
NOT_SEEN: Final = {
    ("delete", "pods"),
    *(("get", resource) for resource in ("jobs", "persistentvolumeclaims", "networkpolicies")),
    ("update", "federatedtrainingjobs/finalizers"),
    ("create", "leases"),  # it may be there of an operator before
}
# What every account may: find out what the API server serves.
DISCOVERY: Final = ("/api", "/version", "/openapi")


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    try:
        return Chart(program=helm(4), home=tmp_path_factory.mktemp("helm"))
    except NoHelm as error:
        (pytest.fail if os.environ.get("PHOTON_TEST_REQUIRE") else pytest.skip)(str(error))


@pytest.fixture
def aggregators() -> Iterator[Aggregators]:
    with Aggregators().serving() as running:
        yield running


def as_operator(kube: Kube, folder: Path) -> Kube:
    """The same API server with the operator's own token."""
    token = kube.kubectl("create", "token", "photon-operator", namespace=NAMESPACE).strip()
    document = yaml.safe_load(kube.kubeconfig.read_text())
    for user in document["users"]:
        user["user"] = {"token": token}
    (folder / "operator.kubeconfig").write_text(json.dumps(document))
    return Kube(kubeconfig=folder / "operator.kubeconfig")


def granted(objects: list[Object]) -> set[tuple[str, str]]:
    return {
        (verb, resource)
        for role in of_kind(objects, "Role", "ClusterRole")
        if role["metadata"]["name"] in ("photon-operator", "photon-operator-leases")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(processes: ControlPlane) -> tuple[set[tuple[str, str]], list[str]]:
    """Verbs and resources that the operator asked for, and what it was refused by its rights."""
    found, refused = set(), []
    for event in processes.audited():
        if event["user"]["username"] != ACCOUNT or event["requestURI"] in DISCOVERY or "objectRef" not in event:
            continue
        reference = event["objectRef"]
        resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
        found.add((event["verb"], resource))
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            found.add(("create", resource))  # server-side apply of what was not there needs this right as well
        if event["annotations"].get("authorization.k8s.io/decision") == "forbid":
            refused.append(f"{event['verb']} {resource}")
    return found, refused


def test_the_operator_asks_for_all_that_it_is_granted_and_for_nothing_else(
    chart: Chart, control_plane_processes: ControlPlane, aggregators: Aggregators, tmp_path: Path
) -> None:
    kube, rendered = control_plane_processes.kube, chart.render()
    install_crd(kube)
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kube.apply(*of_kind(rendered, "ServiceAccount", "ClusterRole", "ClusterRoleBinding"), namespace=NAMESPACE)
    kube.apply(*of_kind(rendered, "Role", "RoleBinding"), namespace="kube-system")
    (container,) = named(rendered, "Deployment", "photon-operator")["spec"]["template"]["spec"]["containers"]
    told = {
        name: value
        for name, value in environment(container).items()
        if name in ("PHOTON_NETWORK_POLICY", "PHOTON_SERVICE_ACCOUNT")
    }
    (tmp_path / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    told |= {"PHOTON_AGGREGATOR_URL": aggregators.url, "PHOTON_CA_FILE": str(tmp_path / "ca.crt")}
    operator = Operator(as_operator(kube, tmp_path), tmp_path / "operator.log", **told)
    with kube.fresh_namespace(labels=RESTRICTED, prefix="rbac") as inside:
        lab = Lab(inside)
        try:
            operator.start()
            lives(lab, aggregators, operator)
        finally:
            operator.stop()
    found, refused = asked(control_plane_processes)
    rights = granted(rendered)
    assert refused == []
    assert found - rights == set(), "asked for, and not granted"
    assert rights - found - NOT_SEEN == set(), "granted, and never asked for"


def lives(lab: Lab, aggregators: Aggregators, operator: Operator) -> None:
    """Jobs that need every right: they train, lose participants, are suspended, cannot be placed, fail, end and go."""
    folder = {"size": "1Gi", "accessMode": "ReadWriteMany"}
    several = {"nodes": 2, "data": {"uri": "s3://photon/data/north"}, "workDir": folder}
    people = [{"name": "north", "worker": several}, {"name": "south", "worker": {"data": {"uri": "s3://photon/south"}}}]
    people.append({"name": "east", "worker": several})
    retention = {"whenRemoved": "Delete"}
    lab.apply(
        participants=people,
        local={"strategy": "FSDP"},
        participation={"quorum": 2},
        persistentVolumeClaimRetentionPolicy=retention,
    )
    lab.until_state("Pending", "Unschedulable")  # events were read
    lab.end("first-job-init")
    lab.run("first-job-worker-south")
    lab.run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    lab.until_state("Running", "Training")
    assert lab.kube.get("configmap/first-job-ca")["data"]["ca.crt"], "in whatever namespace the job is"
    assert lab.names("networkpolicies") >= {"first-job-pods", "first-job-aggregator", "first-job-worker-north"}
    # What somebody edits of a policy or a claim is put right.
    lab.kube.kubectl("patch", "networkpolicy", "first-job-pods", "--type=merge", "-p", '{"spec":{"egress":[{}]}}')
    lab.kube.kubectl("label", "pvc", "first-job-worker-south", f"{names.PARTICIPANT}-")
    until(lambda: lab.kube.get("networkpolicy/first-job-pods")["spec"]["egress"] != [{}], "the policy is as it was")
    until(
        lambda: names.PARTICIPANT in lab.kube.get("pvc/first-job-worker-south")["metadata"]["labels"], "the claim too"
    )
    operator.stop()
    operator.start()  # and finds the tokens by name
    tokens = lab.kube.get("secret/first-job-tokens")["data"]
    lab.edit("first-job", participants=people[:2])
    until(lambda: "first-job-worker-east" not in lab.names(), "east left")
    until(lambda: "first-job-worker-east" not in lab.names("services,networkpolicies,pvc"), "with all it had")
    until(lambda: "east.token" not in lab.kube.get("secret/first-job-tokens")["data"], "its token is void")
    kept = lab.kube.get("secret/first-job-tokens")["data"]
    assert {key: kept[key] for key in ("north.token", "south.token")} == {
        key: tokens[key] for key in ("north.token", "south.token")
    }, "those of the others stay"
    # A Job that lost its owner is taken back.
    orphan = '{"metadata":{"ownerReferences":null}}'
    lab.kube.kubectl("patch", "job", "first-job-worker-south", "--type=merge", "-p", orphan)
    until(lambda: lab.kube.get("job/first-job-worker-south")["metadata"].get("ownerReferences"), "it is ours again")
    lab.edit("first-job", storage={**lab.job()["spec"]["storage"], "deletionPolicy": "Delete"})
    until(lambda: lab.job()["metadata"].get("finalizers") == [names.FINALIZER], "its data is to go with it")
    lab.edit("first-job", storage={**lab.job()["spec"]["storage"], "deletionPolicy": "Retain"}, suspend=True)
    aggregators.says(None)
    until(lambda: not lab.job()["metadata"].get("finalizers"), "its data stays")
    until(lambda: lab.pods("first-job-aggregator"), "an aggregator that ends the round")
    lab.end("first-job-aggregator", 0, words(SUSPENDED))
    lab.until_state("Suspended", "Suspended")
    lab.edit("first-job", suspend=False, ttlSecondsAfterFinished=0)
    until(lambda: lab.pods("first-job-worker-south"), "it is resumed")
    lab.end("first-job-worker-south", 2, record("InvalidConfiguration", "no such data", 2))
    lab.end("first-job-worker-north", 2, record("InvalidConfiguration", "no such data", 2))
    until(lambda: "first-job" not in lab.names("ftj"), "it failed, and its time is over")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    lab.kube.apply(quota)
    until(lambda: lab.kube.get("resourcequota/none").get("status"), "the quota counts")
    lab.apply((EXAMPLES / "first-job.yaml").read_text().replace("name: first-job", "name: second"))
    assert "exceeded quota" in lab.until_state("Pending", "PodRefused", "second")  # only events say so

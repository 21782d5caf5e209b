"""The restricted Pod Security Standard, a case for each of its rules: what a patch may not say, and what comes next to
it and may be said. On every container of a pod, whether it is ours, a patch's, or an init container.

Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/. tests/cluster/test_pod_security.py holds
the same table to the cases of Kubernetes' own admission plugin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import pytest

from photon_operator.children.build import ChildrenInputs, make_children
from photon_operator.decide.reconcile import parse
from photon_operator.errors import InvalidPod
from photon_operator.settings import Settings
from tests.operator.world import job_object

SETTINGS: Final = Settings(job_service_accounts=("cloud-reader", "photon-operator"), service_account="photon-operator")
IMAGE: Final = "proxy:1"


@dataclass(frozen=True, kw_only=True)
class Case:
    """``refused`` and ``allowed``: what a patch says of a pod, or of one container. ``told``: words of the message."""

    refused: dict[str, Any]
    allowed: dict[str, Any]
    told: str


def context(**fields: Any) -> dict[str, Any]:
    return {"securityContext": fields}


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "extra", **source}]}


def projected(**source: Any) -> dict[str, Any]:
    return volume(projected={"sources": [source]})


def probe(kind: str, **action: Any) -> dict[str, Any]:
    return {kind: {**action}}


# Of a pod's and of a container's security context.
BOTH: Final = {
    "root": Case(refused=context(runAsUser=0), allowed=context(runAsUser=1), told="runAsUser: must not be 0"),
    "seccomp": Case(
        refused=context(seccompProfile={"type": "Unconfined"}),
        allowed=context(seccompProfile={"type": "Localhost", "localhostProfile": "photon.json"}),
        told="seccompProfile.type: must be RuntimeDefault or Localhost",
    ),
    "apparmor": Case(
        refused=context(appArmorProfile={"type": "Unconfined"}),
        allowed=context(appArmorProfile={"type": "Localhost", "localhostProfile": "photon"}),
        told="appArmorProfile.type: must be RuntimeDefault or Localhost",
    ),
    "selinux-type": Case(
        refused=context(seLinuxOptions={"type": "spc_t"}),
        allowed=context(seLinuxOptions={"type": "container_t", "level": "s0:c1"}),
        told="seLinuxOptions.type: must be one of container_t",
    ),
    "selinux-user": Case(
        refused=context(seLinuxOptions={"user": "system_u"}),
        allowed=context(seLinuxOptions={"level": "s0"}),
        told="seLinuxOptions.user: must not be set",
    ),
    "selinux-role": Case(
        refused=context(seLinuxOptions={"role": "system_r"}),
        allowed=context(seLinuxOptions={"user": ""}),
        told="seLinuxOptions.role: must not be set",
    ),
    "host-process": Case(
        refused=context(windowsOptions={"hostProcess": True}),
        allowed=context(windowsOptions={"hostProcess": False}),
        told="windowsOptions.hostProcess: must be false",
    ),
}
POD: Final = {
    **{f"pod-{name}": case for name, case in BOTH.items()},
    "no-context": Case(
        refused={"securityContext": None},
        allowed=context(fsGroup=2000, supplementalGroups=[3000]),
        told="spec.securityContext.runAsNonRoot: must be true",
    ),
    "non-root": Case(
        refused=context(runAsNonRoot=False),
        allowed=context(runAsNonRoot=True),
        told="spec.securityContext.runAsNonRoot: must be true",
    ),
    "no-seccomp": Case(
        refused=context(seccompProfile=None),
        allowed=context(seccompProfile={"type": "RuntimeDefault"}),
        told="spec.securityContext.seccompProfile.type: must be",
    ),
    "sysctls": Case(
        refused=context(sysctls=[{"name": "kernel.msgmax", "value": "65536"}]),
        allowed=context(sysctls=[{"name": "net.ipv4.tcp_keepalive_time", "value": "60"}]),
        told="spec.securityContext.sysctls: kernel.msgmax is not allowed",
    ),
    "windows": Case(refused={"os": {"name": "windows"}}, allowed={"os": {"name": "linux"}}, told="spec.os.name"),
    **{
        field: Case(refused={field: True}, allowed={field: False}, told=f"spec.{field}: must be false")
        for field in ("hostNetwork", "hostPID", "hostIPC")
    },
    **{
        kind: Case(refused=volume(**{kind: source}), allowed=volume(**near), told=f"spec.volumes[extra].{kind}: is not")
        for kind, source, near in [
            ("hostPath", {"path": "/"}, {"emptyDir": {}}),
            ("nfs", {"server": "a", "path": "/"}, {"persistentVolumeClaim": {"claimName": "texts"}}),
            ("iscsi", {"targetPortal": "a", "iqn": "b", "lun": 0}, {"csi": {"driver": "secrets.example.org"}}),
            ("rbd", {"monitors": ["a"], "image": "b"}, {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}),
            ("gitRepo", {"repository": "a"}, {"image": {"reference": "texts:1"}}),
            ("cephfs", {"monitors": ["a"]}, {"secret": {"secretName": "keys"}}),
            ("glusterfs", {"endpoints": "a", "path": "b"}, {"configMap": {"name": "texts"}}),
            ("fc", {"lun": 0}, {"downwardAPI": {"items": []}}),
        ]
    },
    "ephemeral-containers": Case(
        refused={"ephemeralContainers": [{"name": "debug", "image": IMAGE}]},
        allowed={"initContainers": [{"name": "debug", "image": IMAGE}]},
        told="spec.ephemeralContainers: is not allowed",
    ),
    # Not the standard's: who a pod acts as.
    "service-account": Case(
        refused={"serviceAccountName": "builder"},
        allowed={"serviceAccountName": "cloud-reader"},
        told="'builder' is not among the service accounts that jobs may run as",
    ),
    "service-account-of-the-operator": Case(
        refused={"serviceAccountName": "photon-operator"},
        allowed={"serviceAccountName": "default"},
        told="'photon-operator' is the operator's own service account",
    ),
    "service-account-by-its-old-name": Case(
        refused={"serviceAccount": "photon-operator"},
        allowed={"serviceAccount": "cloud-reader"},
        told="'photon-operator' is the operator's own service account",
    ),
    "token": Case(
        refused={"automountServiceAccountToken": True},
        allowed={"automountServiceAccountToken": False},
        told="spec.automountServiceAccountToken: must be false",
    ),
    "no-word-of-the-token": Case(
        refused={"automountServiceAccountToken": None},
        allowed={"enableServiceLinks": None},
        told="spec.automountServiceAccountToken: must be false",
    ),
    "projected-token": Case(
        refused=projected(serviceAccountToken={"path": "token"}),
        allowed=projected(secret={"name": "keys"}),
        told="spec.volumes[extra].projected.sources: serviceAccountToken is not allowed",
    ),
    "projected-certificate": Case(
        refused=projected(
            podCertificate={"signerName": "kubernetes.io/kube-apiserver-client-pod", "keyType": "RSA3072"}
        ),
        allowed=projected(clusterTrustBundle={"name": "institution", "path": "ca.crt"}),
        told="spec.volumes[extra].projected.sources: podCertificate is not allowed",
    ),
}
CONTAINER: Final = {
    **BOTH,
    "non-root": Case(
        refused=context(runAsNonRoot=False), allowed=context(runAsNonRoot=True), told="runAsNonRoot: must be true"
    ),
    "privileged": Case(
        refused=context(privileged=True), allowed=context(privileged=False), told="privileged: must be false"
    ),
    "escalation": Case(
        refused=context(allowPrivilegeEscalation=True),
        allowed=context(allowPrivilegeEscalation=False),
        told="allowPrivilegeEscalation: must be false",
    ),
    "capabilities": Case(
        refused=context(capabilities={"drop": ["ALL"], "add": ["IPC_LOCK"]}),
        allowed=context(capabilities={"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}),
        told="capabilities.add: must be empty",
    ),
    "dropped-capabilities": Case(
        refused=context(capabilities={"drop": ["NET_RAW"]}),
        allowed=context(capabilities={"drop": ["ALL", "NET_RAW"]}),
        told="capabilities.drop: must hold ALL",
    ),
    "proc": Case(
        refused=context(procMount="Unmasked"), allowed=context(procMount="Default"), told="procMount: must be Default"
    ),
    "host-port": Case(
        refused={"ports": [{"containerPort": 9000, "hostPort": 9000}]},
        allowed={"ports": [{"containerPort": 9000, "hostPort": 0}]},
        told="ports: hostPort is not allowed",
    ),
    **{
        f"{kind}-{action}": Case(
            refused={kind: {action: {"port": 8080, "host": "192.0.2.1"}}},
            allowed={kind: {action: {"port": 8080}}},
            told=f"{kind}: host is not allowed",
        )
        for kind in ("livenessProbe", "readinessProbe", "startupProbe")
        for action in ("httpGet", "tcpSocket")
    },
    **{
        f"{hook}-{action}": Case(
            refused={"lifecycle": {hook: {action: {"port": 8080, "host": "192.0.2.1"}}}},
            allowed={"lifecycle": {hook: {action: {"port": 8080}}}},
            told=f"lifecycle.{hook}: host is not allowed",
        )
        for hook in ("postStart", "preStop")
        for action in ("httpGet", "tcpSocket")
    },
}
PLACES: Final = {
    "ours": lambda fields: {"containers": [{"name": "worker", **fields}]},
    "added": lambda fields: {"containers": [{"name": "proxy", "image": IMAGE, **fields}]},
    "init": lambda fields: {"initContainers": [{"name": "fetch", "image": IMAGE, **fields}]},
}


def template_with(patch: dict[str, Any]) -> dict[str, Any]:
    """The template of the worker's pods with this patch."""
    raw = job_object()
    raw["spec"]["participants"][0]["worker"]["podTemplatePatch"] = patch
    made = make_children(
        ChildrenInputs(
            spec=raw["spec"],
            job=parse(raw),
            document="0" * 64,
            name="first",
            namespace="lab",
            uid="job-1",
            labels={},
            tokens={"north": "a", "south": "b"},
            read_token="c",
            committed_rounds=0,
            settings=SETTINGS,
        )
    )
    found: dict[str, Any] = made.workers["north"]["spec"]["template"]
    return found


def refusal(patch: dict[str, Any]) -> str:
    with pytest.raises(InvalidPod) as raised:
        template_with(patch)
    return str(raised.value)


@pytest.mark.parametrize("case", POD.values(), ids=POD)
def test_of_a_pod(case: Case) -> None:
    message = refusal({"spec": case.refused})
    assert message.startswith("spec.participants[north].worker.podTemplatePatch.spec.")
    assert case.told in message
    assert template_with({"spec": case.allowed})["spec"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("case", CONTAINER.values(), ids=CONTAINER)
def test_of_every_container(case: Case, place: str) -> None:
    message = refusal({"spec": PLACES[place](case.refused)})
    names = {"ours": "containers[worker]", "added": "containers[proxy]", "init": "initContainers[fetch]"}
    assert message.startswith(f"spec.participants[north].worker.podTemplatePatch.spec.{names[place]}.")
    assert case.told in message
    assert template_with({"spec": PLACES[place](case.allowed)})["spec"]


@pytest.mark.parametrize("container", ["worker", "proxy"])
def test_of_the_annotation_that_stood_for_apparmor(container: str) -> None:
    name = f"container.apparmor.security.beta.kubernetes.io/{container}"
    message = refusal({"metadata": {"annotations": {name: "unconfined"}}})
    assert f"metadata.annotations[{name}]: must be runtime/default" in message
    for profile in ("runtime/default", "localhost/photon"):
        allowed = template_with({"metadata": {"annotations": {name: profile}}})
        assert allowed["metadata"]["annotations"] == {name: profile}


def test_a_patch_that_replaces_the_whole_pod_is_held_to_the_same() -> None:
    spec = {"$patch": "replace", "restartPolicy": "Never", "containers": [{"name": "worker", "image": IMAGE}]}
    assert "spec.automountServiceAccountToken: must be false" in refusal({"spec": spec})
    spec |= {"automountServiceAccountToken": False}
    assert "spec.securityContext.runAsNonRoot: must be true" in refusal({"spec": spec})
    strict = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert template_with({"spec": {**spec, "securityContext": strict}})["spec"]


def test_labels_by_which_policies_select_a_jobs_pods_stay_ours() -> None:
    labels = {"photon.dev/job": "other", "photon.dev/role": "aggregator", "team": "nlp"}
    found = template_with({"metadata": {"labels": labels}})["metadata"]["labels"]
    assert found["photon.dev/job"] == "first"
    assert found["photon.dev/role"] == "worker"
    assert found["team"] == "nlp"

"""The Pod Security Standard of a namespace is the administrator's choice: RDMA is possible where it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from photon_operator.job_defaults import DefaultsError, JobDefaults
from photon_operator.settings import Settings
from tests.operator.test_pods import container, make, template


def settings(**security: Any) -> Settings:
    return Settings.of({"PHOTON_JOB_DEFAULTS": json.dumps({"podSecurity": security})})


def of_worker(**context: Any) -> dict[str, Any]:
    return {"containers": [{"name": "worker", "securityContext": context}]}


RDMA = {
    "hostNetwork": True,
    "volumes": [{"name": "infiniband", "hostPath": {"path": "/dev/infiniband"}}],
    **of_worker(runAsUser=0, runAsNonRoot=False, capabilities={"add": ["IPC_LOCK"]}),
}
ROOT = of_worker(runAsUser=0, runAsNonRoot=False, allowPrivilegeEscalation=True, capabilities={"add": ["CHOWN"]})
# What each profile takes of a patch.
CASES: list[tuple[dict[str, Any], set[str]]] = [
    (RDMA, {"privileged"}),
    (ROOT, {"baseline", "privileged"}),
    (of_worker(capabilities={"add": ["IPC_LOCK"]}), {"privileged"}),
    (of_worker(capabilities={"$patch": "replace"}), {"baseline", "privileged"}),
    (of_worker(privileged=True, allowPrivilegeEscalation=True), {"privileged"}),
    (of_worker(seccompProfile={"type": "Unconfined"}), {"privileged"}),
    ({"securityContext": {"seccompProfile": None}}, {"baseline", "privileged"}),
    ({"volumes": [{"name": "n", "nfs": {"server": "s", "path": "/"}}]}, {"baseline", "privileged"}),
    ({"volumes": [{"name": "n", "hostPath": {"path": "/"}}]}, {"privileged"}),
    ({"hostIPC": True}, {"privileged"}),
    ({"serviceAccountName": "builder"}, set()),
    ({"automountServiceAccountToken": True}, set()),
    ({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, set()),
]


@pytest.mark.parametrize("profile", ["restricted", "baseline", "privileged"])
@pytest.mark.parametrize(("spec", "takes"), CASES, ids=[json.dumps(spec)[:60] for spec, _ in CASES])
def test_a_patch_may_do_what_the_profile_of_its_namespace_allows(
    spec: dict[str, Any], takes: set[str], profile: str
) -> None:
    world = make({"podTemplatePatch": {"spec": spec}}, settings(namespaces={"lab": profile, "other": "privileged"}))
    assert (world.state[0] != "Failed") == (profile in takes), world.message
    if profile not in takes:
        assert world.state[1] == "InvalidSpec"


def test_pods_without_a_patch_are_restricted_whatever_the_profile() -> None:
    usual, privileged = make(), make(settings=settings(default="privileged"))
    for job in ("first-init", "first-aggregator", "first-worker-north"):
        assert template(usual, job)["securityContext"] == template(privileged, job)["securityContext"]
        assert container(usual, job)["securityContext"] == container(privileged, job)["securityContext"]


def test_of_rdma_everything_arrives() -> None:
    world = make({"podTemplatePatch": {"spec": RDMA}}, settings(namespaces={"lab": "privileged"}))
    assert template(world, "first-worker-north")["hostNetwork"] is True
    assert container(world, "first-worker-north")["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["IPC_LOCK"],
    }
    assert "hostNetwork" not in template(world, "first-worker-south")


def test_the_profile_is_named() -> None:
    world = make({"podTemplatePatch": {"spec": RDMA}}, settings(default="baseline"))
    assert "(baseline Pod Security Standard)" in world.message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"default": "strict"}, "jobs.podSecurity.default: 'strict' is no profile; there are restricted, baseline"),
        ({"namespaces": {"a": "none"}}, "jobs.podSecurity.namespaces.a: 'none' is no profile"),
        ({"namespaces": []}, None),
        ({"namespaces": ["a"]}, "must be"),
    ],
)
def test_an_unknown_profile_is_named(given: Any, told: str | None) -> None:
    if told is None:
        assert JobDefaults.of({"podSecurity": given})
        return
    with pytest.raises(DefaultsError, match=told):
        JobDefaults.of({"podSecurity": given})

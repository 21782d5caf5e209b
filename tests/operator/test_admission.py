"""The chart's ValidatingAdmissionPolicy on a real API server, by the cases of the Pod Security table."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from photon_operator.cluster.client import Api, ApiError
from tests.chart.helms import NoHelm, helm
from tests.chart.rendering import Chart, of_kind
from tests.operator.running import until
from tests.operator.test_pod_security import CONTAINER, PLACES, POD, Case
from tests.operator.world import job_object
from tools.cluster.kube import Kube

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.xdist_group("operator")]

# Left to the operator, which says InvalidSpec: what no pod gets out by, and what is only missing.
LATER: Final = {
    *("pod-selinux-type", "pod-selinux-user", "pod-selinux-role", "selinux-type", "selinux-user", "selinux-role"),
    *("no-context", "no-seccomp", "sysctls", "windows", "dropped-capabilities"),
    *(name for name in CONTAINER if name.endswith(("-httpGet", "-tcpSocket"))),
}

Create = Callable[..., str | None]


@pytest.fixture(scope="module")
def create(with_crd: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Create]:
    """Creates a job with fields of its first worker; what the API server says against it."""
    try:
        chart = Chart(program=helm(4), home=tmp_path_factory.mktemp("helm"))
    except NoHelm as error:
        (pytest.fail if os.environ.get("PHOTON_TEST_REQUIRE") else pytest.skip)(str(error))
    rendered = chart.render(
        "--set", "jobs.serviceAccounts={cloud-reader},jobs.podSecurity.namespaces.default=privileged"
    )
    with_crd.apply(*of_kind(rendered, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
    api = Api(with_crd.api(), on_request=lambda _: None)
    with with_crd.fresh_namespace(prefix="admission") as inside:

        def attempt(worker: dict[str, Any], namespace: str = str(inside.namespace)) -> str | None:
            raw = job_object()
            raw["metadata"] = {"generateName": "job-", "namespace": namespace}
            raw["spec"]["suspend"] = True
            raw["spec"]["participants"][0]["worker"] |= copy.deepcopy(worker)
            try:
                api.create(namespace, raw)
            except ApiError as error:
                return error.message
            return None

        try:
            until(lambda: attempt({"serviceAccountName": "builder"}), "the policy is in force")
            yield attempt
        finally:
            for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
                with_crd.kubectl("delete", kind, "photon-jobs")


def test_a_plain_job_is_admitted(create: Create) -> None:
    assert create({}) is None


def test_service_accounts_are_those_of_the_list(create: Create) -> None:
    for account in ("builder", "photon-operator"):
        told = create({"serviceAccountName": account})
        assert told is not None
        assert f"serviceAccountName: {account} is not among the service accounts that jobs may run as" in told
        assert "cloud-reader, default" in told
    assert create({"serviceAccountName": "cloud-reader"}) is None


def test_a_namespace_of_another_profile_is_left_to_the_operator(create: Create, with_crd: Kube) -> None:
    patch = {"spec": {"hostNetwork": True, "containers": [{"name": "worker", "securityContext": {"privileged": True}}]}}
    assert "restricted Pod Security Standard" in str(create({"podTemplatePatch": patch}))
    try:
        assert create({"podTemplatePatch": patch}, "default") is None
        assert "builder is not among the service accounts" in str(create({"serviceAccountName": "builder"}, "default"))
    finally:
        with_crd.kubectl("delete", "ftj", "--all", "--namespace", "default", "--wait=false")


@pytest.mark.parametrize("kind", ["pod", *PLACES])
def test_the_cases_of_pods_and_of_every_container(create: Create, kind: str) -> None:
    """Whatever the operator takes is admitted; what it refuses is refused at once, but for what is left to it."""
    place: Callable[[Any], Any] = PLACES.get(kind, lambda fields: fields)
    cases: dict[str, Case] = POD if kind == "pod" else CONTAINER
    passed, refused = set(), {}
    for name, case in cases.items():
        told = create({"podTemplatePatch": {"spec": place(case.refused)}})
        if told is None:
            passed.add(name)
        else:
            assert "ValidatingAdmissionPolicy 'photon-jobs'" in told, name
            assert "expression" not in told, f"{name} is refused by an error of the rule itself: {told}"
        if (told := create({"podTemplatePatch": {"spec": place(case.allowed)}})) is not None:
            refused[name] = told
    assert refused == {}
    assert passed == LATER & cases.keys()


def bind(kube: Kube, action: str) -> None:
    binding = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding"}
    spec = {"policyName": "photon-jobs", "validationActions": [action]}
    kube.apply({**binding, "metadata": {"name": "photon-jobs"}, "spec": spec})


def test_what_is_stored_already_can_be_labeled_and_deleted(create: Create, with_crd: Kube) -> None:
    bind(with_crd, "Audit")
    with with_crd.fresh_namespace(prefix="admission") as inside:
        raw = job_object()
        raw["metadata"] = {"name": "first"}
        raw["spec"]["suspend"] = True
        raw["spec"]["participants"][0]["worker"]["podTemplatePatch"] = {"spec": {"hostNetwork": True}}
        until(lambda: applied(inside, raw), "the policy is not in force")
        bind(with_crd, "Deny")
        until(lambda: create({"serviceAccountName": "builder"}), "the policy is in force again")
        inside.kubectl("label", "ftj", "first", "team=nlp")
        edited = inside.run("patch", "ftj", "first", "--type=merge", "-p", '{"spec":{"suspend":false}}')
        assert "hostNetwork, hostPID and hostIPC must be false" in edited.stderr
        inside.kubectl("delete", "ftj", "first", "--timeout=20s")


def applied(kube: Kube, raw: dict[str, Any]) -> bool:
    try:
        kube.apply(raw)
    except AssertionError:
        return False
    return True

"""What containers beside our program say when they keep it from starting: those of patches and of a mesh."""

from __future__ import annotations

from typing import Any

import pytest

from photon_operator.children.kinds import POD
from photon_operator.cluster.cache import Cache
from tests.operator.world import World, record

NOT_BEGUN = {"name": "init", "image": "photon-init", "state": {"waiting": {"reason": "PodInitializing"}}}


def ended(name: str, code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {
        "name": name,
        "image": "mesh/proxy:1",
        "state": {"terminated": {"exitCode": code, "message": message, "reason": reason}},
    }


def seen_through_the_cache(world: World) -> None:
    """Pods as the operator has them: what its cache does not keep cannot be said."""
    cache = Cache()
    for pod in world.pods:
        cache.put(POD, {**pod, "metadata": {**pod["metadata"], "namespace": "lab"}})
    world.pods = cache.pods(("lab", "first"))


@pytest.mark.parametrize(
    ("init", "reason", "message"),
    [
        (
            ended("istio-init", 1, "starting\niptables-restore: Operation not permitted\n"),
            "InitContainerFailed",
            "the init container istio-init ended with exit code 1: iptables-restore: Operation not permitted",
        ),
        (ended("fetch", 127), "InitContainerFailed", "the init container fetch ended with exit code 127"),
        (
            ended("fetch", 137, reason="OOMKilled"),
            "OutOfMemory",
            "the init container fetch was killed for using more memory than its limit",
        ),
    ],
)
def test_an_init_container_that_failed_is_said_by_name(init: dict[str, Any], reason: str, message: str) -> None:
    world = World()
    world.settle()
    world.status_of_pod(
        "first-init", phase="Failed", initContainerStatuses=[ended("good", 0), init], containerStatuses=[NOT_BEGUN]
    )
    seen_through_the_cache(world)
    world.settle()
    assert world.state == ("Pending", reason)
    assert world.message == f"making the initial model: {message}"
    world.end_job("first-init", "Failed", "Job has reached the specified backoff limit")
    world.settle()
    assert world.state == ("Failed", reason)
    assert message in world.message


def test_a_mesh_that_keeps_failing_or_has_no_image_is_said_while_our_program_waits_for_it() -> None:
    world = World()
    world.settle()
    proxy = {
        **ended("istio-proxy", 1),
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": ended("istio-proxy", 1, "no certificate")["state"],
    }
    world.status_of_pod("first-init", phase="Pending", initContainerStatuses=[proxy], containerStatuses=[NOT_BEGUN])
    world.settle()
    assert world.state == ("Pending", "InitContainerFailed")
    assert "istio-proxy ended with exit code 1: no certificate" in world.message
    proxy = {**proxy, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "lastState": {}}
    world.status_of_pod("first-init", phase="Pending", initContainerStatuses=[proxy], containerStatuses=[NOT_BEGUN])
    world.settle()
    assert world.state == ("Pending", "ImageUnavailable")
    assert "the init container istio-proxy: the image mesh/proxy:1 cannot be pulled" in world.message


def test_a_sidecar_that_fails_the_pod_of_a_program_that_did_well_is_said() -> None:
    world = World()
    world.settle()
    done = {**ended("init", 0), "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    world.status_of_pod("first-init", phase="Failed", containerStatuses=[done, ended("proxy", 3, "broken")])
    world.end_job("first-init", "Failed", "Job has reached the specified backoff limit")
    world.settle()
    assert world.state == ("Failed", "ProgramFailed")
    assert "the container proxy ended with exit code 3: broken" in world.message


def test_a_program_that_failed_is_said_and_not_the_sidecar_that_was_stopped_with_it() -> None:
    world = World()
    world.settle()
    own = ended("init", 1, record("AccessDenied", "check the keys"))
    world.status_of_pod("first-init", phase="Failed", containerStatuses=[ended("proxy", 137), own])
    world.settle()
    assert world.state == ("Pending", "AccessDenied")


def test_an_evicted_pod_whose_init_container_was_killed_was_evicted() -> None:
    world = World()
    world.settle()
    world.status_of_pod(
        "first-init",
        phase="Failed",
        reason="Evicted",
        message="The node was low on resource: ephemeral-storage.",
        initContainerStatuses=[ended("fetch", 137)],
        containerStatuses=[NOT_BEGUN],
    )
    world.settle()
    assert world.state == ("Pending", "Interrupted")
    assert "low on resource: ephemeral-storage" in world.message

"""Fixtures for tests against a real Kubernetes: ``control_plane`` (objects) and ``cluster`` (pods run).

Both are started when first asked for and shared by the session; what a test makes belongs in a namespace of its own.
With ``PHOTON_TEST_REQUIRE`` set, what cannot start is an error instead of a reason to skip: CI sets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tools.cluster.contexts import existing
from tools.cluster.control_plane import ControlPlane
from tools.cluster.images import REGISTRY, Image, build, load, why_no_images
from tools.cluster.kube import Kube
from tools.cluster.launcher import Cluster, why_no_pods
from tools.cluster.programs import NoProgram

CRD = Path(__file__).parents[2] / "manifests" / "crd.yaml"
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCluster:
    """A cluster on which pods run; ``local`` is None when the user named one that is not ours to stop parts of."""

    kube: Kube
    local: Cluster | None

    def load(self, *names: str) -> dict[str, Image]:
        """Build images of this tree and give them to all nodes; on a user's cluster they are in a registry already."""
        if self.local is None:
            return {}
        if reason := why_no_images():
            _cannot(reason)
        images = {name: build(name) for name in names}
        for image in images.values():
            load(image, self.local.nodes)
        return images

    @property
    def registry(self) -> str:
        """What goes before an image's name."""
        return REGISTRY if self.local is not None else os.environ.get("PHOTON_TEST_REGISTRY", "")

    def restart(self, name: str) -> None:
        """kill -9 of kube-apiserver, kubelet, ... and a new start; the test is skipped on a user's cluster."""
        if self.local is None:
            pytest.skip("this cluster's programs are not ours to stop")
        self.local.restart(name)


@pytest.fixture(scope="session")
def control_plane_processes() -> Iterator[ControlPlane]:
    """The processes of a control plane of our own, for tests that stop some of them or read what was asked of it."""
    with ControlPlane(audit=True) as processes:
        try:
            processes.start()
        except NoProgram as error:
            _cannot(str(error))
        yield processes


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Kube:
    """A real API server with controllers and a scheduler, without nodes: objects, no pods."""
    named = existing()
    if named is not None:
        return named
    processes: ControlPlane = request.getfixturevalue("control_plane_processes")
    return processes.kube


@pytest.fixture(scope="session")
def with_crd(control_plane: Kube) -> Kube:
    """The control plane, with manifests/crd.yaml."""
    install_crd(control_plane)
    return control_plane


@pytest.fixture
def namespace(with_crd: Kube) -> Iterator[Kube]:
    """A namespace of one's own on the control plane, which knows our CRD."""
    with with_crd.fresh_namespace() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def cluster() -> Iterator[RunningCluster]:
    """A cluster on which pods run: the user's; the one that ``make cluster-up`` left running; or one of our own."""
    named = existing()
    if named is not None:
        yield RunningCluster(kube=named, local=None)
        return
    if reason := why_no_pods():
        _cannot(reason)
    local = Cluster()
    if local.running:
        yield RunningCluster(kube=local.kube, local=local)
        return
    try:
        local.up(tied=True)
        yield RunningCluster(kube=local.kube, local=local)
    except NoProgram as error:
        _cannot(str(error))
    finally:
        local.down()


@pytest.fixture
def cluster_namespace(cluster: RunningCluster) -> Iterator[Kube]:
    """A namespace of one's own that enforces the restricted Pod Security Standard."""
    with cluster.kube.fresh_namespace(labels=RESTRICTED) as fresh:
        yield fresh


def install_crd(kube: Kube) -> None:
    """Apply manifests/crd.yaml; return when the API server serves it."""
    kube.apply_file(CRD)
    kube.until_served("federatedtrainingjobs.photon.dev")


def _cannot(reason: str) -> NoReturn:
    if os.environ.get("PHOTON_TEST_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)

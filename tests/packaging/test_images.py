"""The images, built from this tree: small where they should be, without torch, and runnable as the chart runs them."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from tests.cluster.fixtures import RunningCluster
from tools.cluster.archive import blob_path
from tools.cluster.images import DOCKERFILES, Image, base, build, layout, version, why_no_images
from tools.cluster.kube import Kube, Object
from tools.cluster.processes import until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
MEGABYTES = 10**6
OURS = ("photon-operator", "photon-aggregator", "photon-worker", "photon-gate")
# What each image must be able to start, and the packages of ours that it must be able to import.
RUNS = {
    "photon-operator": ("import photon_operator.main", "kopf"),
    "photon-gate": ("import photon_gate.main", "cryptography"),
    "photon-aggregator": ("import photon_aggregator.main, photon_aggregator.http.server", "fastapi"),
    "photon-worker": (
        "import photon_worker.main, photon_worker.training.loop, photon_worker.training.evaluate",
        "torch",
    ),
}


@pytest.fixture(scope="module")
def images() -> dict[str, Image]:
    """All images of this tree."""
    if reason := why_no_images():
        pytest.skip(reason)
    return {name: build(name) for name in DOCKERFILES}


def files(image: Image) -> set[str]:
    """Paths in all layers above the base's."""
    found: set[str] = set()
    for layer in image.layers[len(base().layers) :]:
        with tarfile.open(layout() / blob_path(layer["digest"])) as tar:
            found.update(tar.getnames())
    return found


@pytest.mark.parametrize("name", ["photon-operator", "photon-aggregator", "photon-gate"])
def test_all_but_the_worker_add_at_most_200_mb_and_no_torch(images: dict[str, Image], name: str) -> None:
    image = images[name]
    below = len(base().layers)
    assert image.layers[:below] == base().layers
    added = sum(layer["size"] for layer in image.layers[below:]) / MEGABYTES
    assert added <= 200, f"{name} adds {added:.0f} MB"
    packages = {path.split("/site-packages/")[1].split("/")[0] for path in files(image) if "/site-packages/" in path}
    assert not {"torch", "transformers", "tokenizers", "nvidia"} & packages


@pytest.mark.parametrize("name", OURS)
def test_a_new_release_moves_only_our_own_code(images: dict[str, Image], name: str) -> None:
    """What is ours is in the layers of the last stage; all below it stays as long as the pinned requirements do."""
    text = (ROOT / DOCKERFILES[name]).read_text()
    below, _, last = text.rpartition("\nFROM dependencies\n")
    ours = len(re.findall(r"^(?:COPY|RUN) ", last, re.MULTILINE))
    assert ours > 0
    assert "COPY photon" not in below.rpartition("\nFROM ")[2]
    assert sum(layer["size"] for layer in images[name].layers[-ours:]) / MEGABYTES < 10


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_as_a_numeric_user_that_is_not_root(images: dict[str, Image], name: str) -> None:
    assert images[name].config["User"] == "10001:10001"


@pytest.mark.parametrize("name", OURS)
def test_no_build_tools_and_no_caches_are_left(images: dict[str, Image], name: str) -> None:
    left = {path for path in files(images[name]) if path.startswith(("tmp/", "root/", "var/cache/uv/", "src/"))}
    assert left - {"root/.cache", "tmp/tools", "tmp/.wh.tools"} == set()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_starts_with_a_read_only_root(cluster: RunningCluster, cluster_namespace: Kube, name: str) -> None:
    cluster.load(name)
    program = {
        # It has no options and would begin to work; that it can be imported is tested below.
        "photon-operator": ["sh", "-c", "command -v photon-operator"],
        "photon-aggregator": ["photon-aggregator", "--help"],
        "photon-worker": ["photon-worker", "--help"],
        "photon-gate": ["photon-gate", "--help"],
        "photon-seaweedfs": ["weed", "version"],
    }[name]
    cluster_namespace.apply(pod(f"{cluster.registry}/{name}:{version()}", program))
    succeeded(cluster_namespace)


@pytest.mark.parametrize("name", RUNS)
def test_everything_that_a_part_imports_is_in_its_image(
    cluster: RunningCluster, cluster_namespace: Kube, name: str
) -> None:
    cluster.load(name)
    ours, theirs = RUNS[name]
    package = name.replace("-", "_")
    walk = (
        f"{ours}, importlib, pkgutil, {theirs}, {package}\n"
        f"for module in pkgutil.walk_packages({package}.__path__, '{package}.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)"
    )
    image = f"{cluster.registry}/{name}:{version()}"
    cluster_namespace.apply(pod(image, ["/opt/photon/bin/python", "-c", walk]))
    succeeded(cluster_namespace)


def pod(image: str, command: list[str]) -> Object:
    """As the restricted Pod Security Standard wants it; only /tmp can be written. The image says who runs it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "try"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def succeeded(kube: Kube) -> None:
    """Wait for the end of the pod; a failure shows its log."""

    def phase() -> str:
        return str(kube.get("pod/try")["status"]["phase"])

    until(lambda: phase() in ("Succeeded", "Failed"), "the end of the pod", seconds=100)
    assert phase() == "Succeeded", kube.explain()

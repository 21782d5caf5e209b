"""Our images: built with buildah from the parts' Dockerfiles and handed to a node's containerd, without a registry.

buildah keeps its layers in the cache, so dependencies are installed once; of an image that a node has already, only the
layers that it lacks are sent (the worker's dependencies are 6 GB, its code is one). The base image is Debian with
Python, made here, since nothing can be pulled; ``PHOTON_TEST_BASE`` names another.

    python -m tools.cluster.images [NAME...]        # build; prints names and sizes
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from photon.files import lock
from tools.cluster.archive import blob_path, write_thin
from tools.cluster.fetched import cache
from tools.cluster.node import Node

ROOT: Final = Path(__file__).parents[2]
REGISTRY: Final = "localhost"
DOCKERFILES: Final = {
    "photon-operator": "operator/Dockerfile",
    "photon-aggregator": "services/aggregator/Dockerfile",
    "photon-worker": "services/worker/Dockerfile",
    "photon-seaweedfs": "services/store/Dockerfile",
    "photon-gate": "services/gate/Dockerfile",
}
# What the chart and its jobs run in one cluster; the gate is an institution's, outside.
INSTALLED: Final = tuple(name for name in DOCKERFILES if name != "photon-gate")
BASE: Final = f"{REGISTRY}/photon-base:bookworm"
BASE_PACKAGES: Final = "python3,python3-venv,ca-certificates"
# Where Debian keeps certificates; a machine behind an institution's proxy has its own among them.
CERTIFICATES: Final = Path("/etc/ssl/certs")
UV_CACHE: Final = Path("/var/cache/uv")  # as the Dockerfiles name it
BUILD_SECONDS: Final = 1800.0
IMPORT_SECONDS: Final = 900.0


def version() -> str:
    """The release, which is also the images' tag."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def why_no_images() -> str | None:
    """Why images cannot be built here; None when they can."""
    missing = [name for name in ("buildah", "mmdebstrap", "skopeo") if shutil.which(name) is None]
    if os.geteuid() != 0:
        return "images need root: buildah mounts"
    if missing:
        return f"images need {', '.join(missing)}: install the packages in tools/cluster/packages.txt"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built image: its name with tag, and the descriptor of its manifest in the layout."""

    name: str
    manifest: dict[str, Any]

    @property
    def layers(self) -> list[dict[str, Any]]:
        """Descriptors with ``digest`` and ``size`` (bytes, uncompressed), from the base up."""
        found: list[dict[str, Any]] = self._blob(self.manifest["digest"])["layers"]
        return found

    @property
    def config(self) -> dict[str, Any]:
        """What a container of it is started with: User, Env, Cmd."""
        config: dict[str, Any] = self._blob(self._blob(self.manifest["digest"])["config"]["digest"])["config"]
        return config

    def _blob(self, digest: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((layout() / blob_path(digest)).read_text())
        return document


def layout() -> Path:
    """The OCI layout that holds all built images; layers that they share are in it once."""
    return cache() / "images" / "layout"


def build(name: str) -> Image:
    """Build the image ``name`` of this tree. Raises RuntimeError with the end of what buildah said."""
    tagged = f"{REGISTRY}/{name}:{version()}"
    with _lock():
        base = _base()
        _share_downloads()
        _buildah(
            *("build", "--layers", "--isolation", "chroot", "--network", "host", "--quiet"),
            *_surroundings(),
            *("--build-arg", f"BASE={base}", "--file", str(ROOT / DOCKERFILES[name]), "--tag", tagged, str(ROOT)),
        )
        return _export(tagged)


def base() -> Image:
    """The image below all others."""
    with _lock():
        return _export(_base())


def load(image: Image, nodes: list[Node]) -> None:
    """Give ``image`` to the containerd of each of ``nodes``."""
    for node in nodes:
        try:
            _send(image, node, without=node.blobs())
        except RuntimeError:  # containerd may have thrown away, meanwhile, a layer that belongs to no image
            _send(image, node, without=set())


def _send(image: Image, node: Node, *, without: set[str]) -> None:
    running = node.importer()
    assert running.stdin is not None
    assert running.stderr is not None
    # A broken pipe is explained by what the importer says.
    with suppress(BrokenPipeError):
        write_thin(layout(), image.manifest, image.name, without=without, to=running.stdin)
    with suppress(BrokenPipeError):
        running.stdin.close()
    with running.stderr:
        said = running.stderr.read().decode()
    if running.wait(timeout=IMPORT_SECONDS):
        raise RuntimeError(f"{node.name} cannot import {image.name}: {said[-1000:]}")


def _base() -> str:
    if chosen := os.environ.get("PHOTON_TEST_BASE"):
        return chosen
    if _buildah("images", "--quiet", BASE, check=False).returncode == 0:
        return BASE
    with tempfile.TemporaryDirectory(dir=cache() / "images") as work:
        tar = Path(work) / "base.tar"
        command = ["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm", str(tar)]
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
        container = _buildah("from", "scratch").stdout.strip()
        _buildah("add", "--quiet", container, str(tar), "/")
        _buildah("commit", "--quiet", "--rm", container, BASE)
    return BASE


def _surroundings() -> list[str]:
    """What of this machine a build may see: its certificates and pip's settings, and uv's downloads."""
    seen = []
    if CERTIFICATES.is_dir():
        seen += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
        seen += ["--build-arg", f"SSL_CERT_FILE={CERTIFICATES}/ca-certificates.crt"]
    if Path("/etc/pip.conf").is_file():
        seen += ["--volume", "/etc/pip.conf:/etc/pip.conf:ro"]
    return seen


def _share_downloads() -> None:
    """Let the Dockerfiles' cache mount be the folder in which uv keeps what `make setup` fetched and unpacked."""
    told = subprocess.run(
        [Path(sys.executable).with_name("uv"), "cache", "dir"], capture_output=True, text=True, timeout=60, check=False
    )
    mount = cache() / "images" / "temporary" / "buildah-cache" / UV_CACHE.relative_to("/")
    if told.returncode or mount.exists():
        return
    mount.parent.mkdir(parents=True, exist_ok=True)
    mount.symlink_to(told.stdout.strip())


def _export(tagged: str) -> Image:
    """Write the image into the layout; existing blobs are not written again."""
    layout().mkdir(parents=True, exist_ok=True)
    _forget_what_is_damaged()
    # Not compressed: a layer's digest is then known beforehand, and one that is there is neither read nor written.
    store = f"containers-storage:[overlay@{_storage('root')}+{_storage('run')}]{tagged}"
    _run("skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", store, f"oci:{layout()}:{tagged}")
    named = _forget_what_lost_its_name()
    return Image(name=tagged, manifest={key: named[tagged][key] for key in ("mediaType", "digest", "size")})


def _forget_what_is_damaged() -> None:
    """Remove images of which a blob is not there whole, as after a power cut, and that blob: it is written again."""
    index = layout() / "index.json"
    if not index.exists():
        return
    document = json.loads(index.read_text())
    whole = []
    for manifest in document["manifests"]:
        path = layout() / blob_path(manifest["digest"])
        blobs = [manifest]
        if _is_whole(manifest):
            parts = json.loads(path.read_text())
            blobs += [parts["config"], *parts["layers"]]
        damaged = [blob for blob in blobs if not _is_whole(blob)]
        for blob in damaged:
            (layout() / blob_path(blob["digest"])).unlink(missing_ok=True)
        if not damaged:
            whole.append(manifest)
    if len(whole) < len(document["manifests"]):
        index.write_text(json.dumps({**document, "manifests": whole}))


def _is_whole(blob: dict[str, Any]) -> bool:
    path = layout() / blob_path(blob["digest"])
    return path.exists() and path.stat().st_size == blob["size"]


def _forget_what_lost_its_name() -> dict[str, dict[str, Any]]:
    """Remove images whose name a newer one has taken, and their blobs; descriptors of the others by name."""
    index = layout() / "index.json"
    document = json.loads(index.read_text())
    named = {
        manifest["annotations"]["org.opencontainers.image.ref.name"]: manifest
        for manifest in document["manifests"]
        if "annotations" in manifest
    }
    document["manifests"] = list(named.values())
    index.write_text(json.dumps(document))
    kept: set[str] = set()
    for manifest in named.values():
        parts = json.loads((layout() / blob_path(manifest["digest"])).read_text())
        kept.update(blob["digest"] for blob in (manifest, parts["config"], *parts["layers"]))
    for blob in (layout() / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in kept:
            blob.unlink()
    return named


def _storage(kind: str) -> Path:
    """Where buildah keeps layers ("root") and notes what is mounted ("run")."""
    return cache() / "images" / "buildah" / kind


def _buildah(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    storage = ("--root", str(_storage("root")), "--runroot", str(_storage("run")))
    return _run("buildah", *storage, *arguments, check=check)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    # buildah's cache mounts and its temporary copies of layers are there.
    temporary = cache() / "images" / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])} ... failed: {(done.stderr + done.stdout).strip()[-2000:]}")
    return done


@contextmanager
def _lock() -> Iterator[None]:
    (cache() / "images").mkdir(parents=True, exist_ok=True)
    with (cache() / "images" / ".lock").open("w") as held:
        lock(held.fileno(), wait_seconds=None)
        try:
            yield
        finally:  # what a build that was interrupted left, and the mount that buildah keeps over its layers
            _buildah("rm", "--all", check=False)
            _run("umount", str(_storage("root") / "overlay"), check=False)


def main(names: list[str]) -> None:
    """Build ``names`` (default: all)."""
    for name in names or DOCKERFILES:
        started = time.monotonic()
        image = build(name)
        size = sum(layer["size"] for layer in image.layers) / 1e6
        sys.stderr.write(f"{image.name}: {size:.0f} MB in {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Image archives (OCI layouts in a tar), written as a stream: only what the receiver lacks."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import IO, Any

from tools.cluster.node import PAUSE_IMAGE

_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"


def pause_archive(program: Path) -> bytes:
    """The image of a pod's sandbox: one static program."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        add(tar, "pause", program.read_bytes(), mode=0o755)
    contents = layer.getvalue()
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(contents)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(config, _CONFIG),
            "layers": [_descriptor(contents, _LAYER)],
        }
    )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        write_index(tar, _descriptor(manifest, _MANIFEST), PAUSE_IMAGE)
        for blob in (manifest, config, contents):
            add(tar, blob_path(digest(blob)), blob)
    return archive.getvalue()


def write_thin(layout: Path, manifest: dict[str, Any], image: str, *, without: set[str], to: IO[bytes]) -> int:
    """Stream the image of ``manifest`` (a descriptor in ``layout``) less the blobs in ``without``; bytes of blobs sent.

    containerd takes an archive whose missing blobs it holds already.
    """
    document = json.loads((layout / blob_path(manifest["digest"])).read_text())
    wanted = [manifest, document["config"], *document["layers"]]
    sent = 0
    with tarfile.open(fileobj=to, mode="w|", bufsize=2**20) as tar:
        write_index(tar, manifest, image)
        for blob in wanted:
            if blob["digest"] in without:
                continue
            path = layout / blob_path(blob["digest"])
            info = tarfile.TarInfo(blob_path(blob["digest"]))
            info.size = path.stat().st_size
            sent += info.size
            with path.open("rb") as source:
                tar.addfile(info, source)
    return sent


def write_index(tar: tarfile.TarFile, manifest: dict[str, Any], image: str) -> None:
    """What makes a tar an OCI layout that holds one image, called ``image``."""
    named = {**manifest, "annotations": {"io.containerd.image.name": image}}
    add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    add(tar, "index.json", _json({"schemaVersion": 2, "manifests": [named]}))


def add(tar: tarfile.TarFile, name: str, contents: bytes, *, mode: int = 0o644) -> None:
    """A file of these ``contents``."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(contents), mode
    tar.addfile(info, io.BytesIO(contents))


def blob_path(digest_: str) -> str:
    """Where an OCI layout keeps the blob."""
    return f"blobs/{digest_.replace(':', '/')}"


def digest(contents: bytes) -> str:
    """As OCI writes it."""
    return f"sha256:{hashlib.sha256(contents).hexdigest()}"


def _descriptor(contents: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(contents), "size": len(contents)}


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()

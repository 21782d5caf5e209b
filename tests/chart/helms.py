"""Helm 4 as tools/cluster finds it, and Helm 3 built from its public Go module once (minutes): the chart is for both.

``python -m tests.chart.helms`` builds Helm 3 ahead of the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from photon.files import lock, replacing
from tools.cluster.fetched import cache, tool

HELM3_VERSION: Final = "3.22.0"
KUBERNETES_MINOR: Final = "34"
BUILD_SECONDS: Final = 1200


class NoHelm(RuntimeError):
    """This Helm cannot be had here; the message says why."""


def helm(major: int) -> Path:
    """The program of this major version.

    Raises:
        NoHelm: It is not on this machine and cannot be fetched or built.
    """
    if major == 3:
        return _helm3()
    try:
        return tool("helm")
    except RuntimeError as error:
        raise NoHelm(str(error)) from error


def _helm3() -> Path:
    program = cache() / "bin" / f"helm-{HELM3_VERSION}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise NoHelm(f"Helm 3 is not at {program}, and go, which would build it, is not on PATH")
    program.parent.mkdir(parents=True, exist_ok=True)
    with (program.parent / ".helm3.lock").open("w") as held, tempfile.TemporaryDirectory() as work:
        lock(held.fileno(), wait_seconds=None)
        if not program.exists():
            _build(Path(work), program)
    return program


def _build(work: Path, program: Path) -> None:
    (work / "go.mod").write_text("module build\n\ngo 1.24.0\n")
    # What a release sets: a Helm that takes itself for one of Kubernetes 1.20 refuses the chart's kubeVersion.
    values = {
        "internal/version.version": f"v{HELM3_VERSION}",
        "pkg/lint/rules.k8sVersionMajor": "1",
        "pkg/lint/rules.k8sVersionMinor": KUBERNETES_MINOR,
        "pkg/chartutil.k8sVersionMajor": "1",
        "pkg/chartutil.k8sVersionMinor": KUBERNETES_MINOR,
    }
    flags = " ".join(["-s", "-w", *(f"-X helm.sh/helm/v3/{name}={value}" for name, value in values.items())])
    built = work / "helm"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    for command in (
        ["go", "mod", "edit", f"-require=helm.sh/helm/v3@v{HELM3_VERSION}"],
        ["go", "build", "-trimpath", "-ldflags", flags, "-o", str(built), "helm.sh/helm/v3/cmd/helm"],
    ):
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode:
            raise NoHelm(f"Helm 3 cannot be built: {done.stderr.strip()[-1000:]}")
    with replacing(program, mode=0o755) as file, built.open("rb") as binary:
        shutil.copyfileobj(binary, file)


if __name__ == "__main__":
    sys.stdout.write(f"{helm(3)}\n")

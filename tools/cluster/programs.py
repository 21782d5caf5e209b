"""The programs of a Kubernetes cluster: found on this machine, or built once from their public Go modules.

Looked for in ``$KUBEBUILDER_ASSETS``, on PATH, and in the cache (:func:`tools.cluster.fetched.cache`), in this order;
what is nowhere is built into the cache. When kube-apiserver is found outside the cache its release is also the
release of what is built, so that one cluster never mixes releases by accident.

    python -m tools.cluster.programs                 # make sure that all are there; prints their paths
    python -m tools.cluster.programs etcd kube-apiserver
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from photon.files import lock, replacing
from tools.cluster.fetched import FETCHED, cache, tool

KUBERNETES_VERSION: Final = os.environ.get("PHOTON_KUBERNETES_VERSION", "1.34.4")
ETCD_VERSION: Final = "3.6.16"
COREDNS_VERSION: Final = "1.12.4"
PROMETHEUS_OPERATOR_VERSION: Final = "0.85.0"
PROMETHEUS_VERSION: Final = "3.13.5"
ACTIONLINT_VERSION: Final = "1.7.12"
KUEUE_VERSION: Final = "0.17.0"

# etcd and the API server first: what needs no more than a control plane can then begin.
CONTROL_PLANE: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NODE: Final = ("kubelet", "kube-proxy", "coredns")
PROMETHEUS_OPERATOR: Final = "prometheus-operator"
# Debian's is built without the discovery of Kubernetes' objects, so it is none that could be found on PATH.
PROMETHEUS: Final = "prometheus-kubernetes"
MONITORING: Final = (PROMETHEUS_OPERATOR, PROMETHEUS)
# No program: the test cases of the admission plugin for the Pod Security Standards.
POD_SECURITY: Final = "pod-security-admission"
# No part of a cluster: reads the workflows of .github (tests/packaging).
ACTIONLINT: Final = "actionlint"
# Not built ahead: for benchmarks.kueue alone.
KUEUE: Final = "kueue"
BUILD_SECONDS: Final = 3600


class NoProgram(RuntimeError):
    """A program is nowhere and cannot be built; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a program comes from: the ``main`` package within a Go module."""

    module: str
    version: str
    package: str
    tags: str = ""

    @property
    def folder(self) -> Path:
        """Where the cache keeps what was built of this module."""
        return cache() / f"{self.module.split('/')[1]}-{self.version}"


def _source(name: str, kubernetes: str) -> Source:
    if name == "etcd":
        return Source(module="go.etcd.io/etcd/server/v3", version=ETCD_VERSION, package="")
    if name == "coredns":
        return Source(module="github.com/coredns/coredns", version=COREDNS_VERSION, package="")
    if name == PROMETHEUS_OPERATOR:
        module = f"github.com/{PROMETHEUS_OPERATOR}/{PROMETHEUS_OPERATOR}"
        return Source(module=module, version=PROMETHEUS_OPERATOR_VERSION, package="/cmd/operator")
    if name == ACTIONLINT:
        return Source(module="github.com/rhysd/actionlint", version=ACTIONLINT_VERSION, package="/cmd/actionlint")
    if name == KUEUE:
        return Source(module="sigs.k8s.io/kueue", version=KUEUE_VERSION, package="/cmd/kueue")
    if name == POD_SECURITY:
        version = kubernetes.replace("1.", "0.", 1)
        return Source(module="k8s.io/pod-security-admission", version=version, package="")
    if name == PROMETHEUS:
        version = PROMETHEUS_VERSION.replace("3.", "0.3", 1)  # as a module 3.13 is 0.313
        tags = "remove_all_sd,enable_kubernetes_sd"
        return Source(module="github.com/prometheus/prometheus", version=version, package="/cmd/prometheus", tags=tags)
    return Source(module="k8s.io/kubernetes", version=kubernetes, package=f"/cmd/{name}")


def program(name: str) -> Path:
    """The path of ``name``; built when it is nowhere (minutes, once).

    Raises:
        NoProgram: It can be neither found nor built.
    """
    if name in FETCHED:
        return tool(name)
    if found := _installed(name):
        return found
    source = _source(name, _kubernetes_version())
    path = source.folder / name
    if not path.exists():
        _build(name, source)
    return path


def module_file(name: str, path: str) -> Path:
    """A file of the module that ``name`` is built from, such as the definitions of its resources.

    Raises:
        NoProgram: The module can be neither found nor fetched.
    """
    go = _go_program(name)
    source = _source(name, KUBERNETES_VERSION)
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "go.mod").write_text("module files\n")
        told = _go(go, ["mod", "download", "-json", f"{source.module}@v{source.version}"], Path(work))
    return Path(json.loads(told)["Dir"]) / path


def _installed(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (path := Path(assets) / name).exists():
        return path
    found = shutil.which(name)
    return Path(found) if found else None


def _kubernetes_version() -> str:
    installed = _installed("kube-apiserver")
    if installed is None:
        return KUBERNETES_VERSION
    said = subprocess.run([installed, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    match = re.search(r"v(\d+\.\d+\.\d+)", said)
    if match is None:
        raise NoProgram(f"{installed} --version says {said.strip()!r}, no release")
    return match[1]


def _build(name: str, source: Source) -> None:
    """Build into the cache; processes that want the same wait for the first."""
    go = _go_program(name)
    source.folder.mkdir(parents=True, exist_ok=True)
    with (cache() / ".build.lock").open("w") as held, tempfile.TemporaryDirectory() as work:
        lock(held.fileno(), wait_seconds=None)
        if (source.folder / name).exists():
            return
        started = time.monotonic()
        _say(f"building {name} of {source.module} v{source.version}; this happens once")
        built = Path(work) / name
        _write_module(go, source, Path(work))
        package = f"{source.module}{source.package}"
        flags = ["-trimpath", "-ldflags", _link_flags(source), "-tags", source.tags]
        _go(go, ["build", *flags, "-o", str(built), package], Path(work))
        with replacing(source.folder / name, mode=0o755) as program, built.open("rb") as binary:
            shutil.copyfileobj(binary, program)
        _say(f"built {name} in {time.monotonic() - started:.0f} s: {source.folder / name}")


def _go_program(name: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise NoProgram(
            f"{name} is neither in $KUBEBUILDER_ASSETS nor on PATH, and building it needs Go 1.26 or newer (go on PATH)"
        )
    return go


def _write_module(go: str, source: Source, folder: Path) -> None:
    """A module that requires ``source``. Kubernetes requires its own parts as v0.0.0: name the published ones."""
    (folder / "go.mod").write_text("module build\n\ngo 1.24.0\n")
    _go(go, ["mod", "edit", f"-require={source.module}@v{source.version}"], folder)
    if source.module != "k8s.io/kubernetes":
        return
    told = _go(go, ["mod", "download", "-json", f"{source.module}@v{source.version}"], folder)
    theirs = Path(json.loads(told)["GoMod"]).read_text()
    parts = sorted(set(re.findall(r"^\s+(k8s\.io/\S+) v0\.0\.0$", theirs, re.MULTILINE)))
    published = f"v0.{source.version.removeprefix('1.')}"
    _go(go, ["mod", "edit", *(f"-replace={part}={part}@{published}" for part in parts)], folder)


def _link_flags(source: Source) -> str:
    flags = "-s -w"
    if source.module == "k8s.io/kubernetes":  # without it the API server calls itself v0.0.0-master
        minor = source.version.split(".")[1]
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            for key, value in (("gitVersion", f"v{source.version}"), ("gitMajor", "1"), ("gitMinor", minor)):
                flags += f" -X {package}.{key}={value}"
    return flags


def _go(go: str, arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        [go, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise NoProgram(f"go {' '.join(arguments[:2])} failed: {done.stderr.strip()[-1500:]}")
    return done.stdout


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(names: list[str]) -> None:
    """Print where each of ``names`` (default: all) is."""
    for name in names or [*CONTROL_PLANE, *NODE, *MONITORING, *FETCHED]:
        _say(f"{name}: {program(name)}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""A cluster that the user names, instead of one of ours: only if it is known to be there for tests.

Tests create and delete namespaces, CRDs and cluster roles, so a slip of the hand in ``PHOTON_TEST_CONTEXT`` must not
reach a cluster on which people work.
"""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path
from typing import Final

from tools.cluster.kube import Kube

VARIABLE: Final = "PHOTON_TEST_CONTEXT"
LOCAL: Final = ("kind-*", "k3d-*", "minikube", "photon-test-*")


def allow_list() -> Path:
    """A file of the user: one context a line."""
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(settings) / "photon" / "test-contexts"


def existing() -> Kube | None:
    """The cluster that the user names; None when none is named.

    Raises:
        RuntimeError: It is not on the allow-list, or does not answer.
    """
    context = os.environ.get(VARIABLE)
    if not context:
        return None
    if not allowed(context):
        raise RuntimeError(
            f"{VARIABLE}={context}: tests change what they find, so a context must be one of {', '.join(LOCAL)},"
            f" or a line of {allow_list()}"
        )
    kubeconfig = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    kube = Kube(kubeconfig=kubeconfig, context=context)
    if not kube.ready():
        raise RuntimeError(f"{VARIABLE}={context} in {kubeconfig} does not answer")
    return kube


def allowed(context: str) -> bool:
    """Whether tests may change that cluster."""
    if any(fnmatch.fnmatchcase(context, pattern) for pattern in LOCAL):
        return True
    path = allow_list()
    lines = path.read_text().splitlines() if path.exists() else []
    return context in (line.strip() for line in lines if line.strip())

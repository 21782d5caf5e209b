"""``python -m tools.cluster up|down|prepare``: what ``make cluster-up``, ``cluster-down`` and ``test-cluster`` run."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tools.cluster import images, programs
from tools.cluster.fetched import cache
from tools.cluster.launcher import Cluster, why_no_pods


def main() -> int:
    """Exit code 2 when pods cannot run here."""
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "prepare"))
    parser.add_argument("--name", default="photon", help="default photon: the one that tests use when it is up")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--control-plane", action="store_true", help="prepare only what needs no pods")
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        return prepare(control_plane=arguments.control_plane)
    cluster = Cluster(arguments.name)
    if arguments.action == "down":
        cluster.down()
        return 0
    if reason := why_no_pods():
        sys.stderr.write(f"error: {reason}\n")
        return 2
    started = time.monotonic()
    cluster.up(nodes=arguments.nodes)
    sys.stdout.write(
        f"{cluster.name}: {arguments.nodes} node(s) ready in {time.monotonic() - started:.1f} s\n"
        f"export KUBECONFIG={cluster.kube.kubeconfig}\n"
        f"kubectl and helm, if you have none: {cache()}/bin\n"
    )
    return 0


def prepare(*, control_plane: bool) -> int:
    """Build programs and images, which takes minutes once; no test then waits for it. What cannot be is said."""
    reasons = []
    try:
        programs.main([*programs.CONTROL_PLANE, "kubectl"] if control_plane else [])
    except programs.NoProgram as error:
        reasons.append(str(error))
    if not control_plane:
        reasons += [reason for reason in (why_no_pods(), images.why_no_images()) if reason]
    if not control_plane and not reasons:
        images.main([])
    for reason in reasons:
        sys.stderr.write(f"tests will be skipped: {reason}\n")
    return 2 if reasons and os.environ.get("PHOTON_TEST_REQUIRE") else 0

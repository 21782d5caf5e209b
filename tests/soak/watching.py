"""Memory of the operator during a soak, and what is left over after it."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Final

import psutil

from tests.soak.jobs import patiently
from tools.cluster.kube import Kube

SAMPLE_SECONDS: Final = 5.0
KINDS: Final = "jobs,pods,services,configmaps,secrets,networkpolicies,persistentvolumeclaims,roles,rolebindings"
MIB: Final = 1 << 20


@dataclass(slots=True)
class Memory:
    """Resident memory of the operator's process, of whichever pod is the one now. ``samples``: (seconds, MiB)."""

    end: threading.Event = field(default_factory=threading.Event)
    samples: list[float] = field(default_factory=list)

    def run(self) -> None:
        """In a thread of its own."""
        while not self.end.wait(SAMPLE_SECONDS):
            if (used := operator_mib()) is not None:
                self.samples.append(used)

    def thirds(self) -> list[float]:
        """The most in each third of the time, MiB."""
        third = max(1, len(self.samples) // 3)
        parts = [self.samples[:third], self.samples[third : 2 * third], self.samples[2 * third :]]
        return [round(max(part, default=0.0), 1) for part in parts]


def operator_mib() -> float | None:
    """The most of all processes of the operator on this machine; None while there is none."""
    found = []
    for process in psutil.process_iter(("cmdline",)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(word.endswith("/photon-operator") for word in process.info["cmdline"] or ()):
                found.append(process.memory_info().rss / MIB)
    return max(found, default=None)


def labeled(kube: Kube, prefix: str) -> list[str]:
    """Everything in the namespace that is of a job whose name begins with ``prefix``."""
    label = "photon.dev/job"
    return sorted(
        f"{found['kind']}/{found['metadata']['name']}"
        for found in patiently(lambda: kube.items(KINDS, "--selector", label))
        if found["metadata"]["labels"][label].startswith(prefix)
    )

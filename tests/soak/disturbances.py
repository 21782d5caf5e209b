"""What is killed beside the jobs of a soak, one thing after the other."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tools.cluster.kube import Kube
from tools.cluster.launcher import Cluster

BETWEEN_SECONDS: Final = (20.0, 75.0)
# A node that is away for longer than it takes Kubernetes to say so (8 s here), and for less.
DARK_SECONDS: Final = (3.0, 40.0)
OPERATOR: Final = "app.kubernetes.io/component=operator"


@dataclass(slots=True)
class Disturber:
    """Disturbs until ``end`` is set; ``counts``: how often each thing happened."""

    cluster: Cluster
    kube: Kube
    dice: random.Random
    between: tuple[float, float] = BETWEEN_SECONDS
    counts: Counter[str] = field(default_factory=Counter)
    end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """In a thread of its own."""
        kinds: list[Callable[[], None]] = [
            self.kill_operator,
            self.kill_operator,
            self.kill_a_pod,
            self.restart_kubelet,
            self.restart_api_server,
            self.power_cut,
        ]
        self.dice.shuffle(kinds)
        turn = 0
        while not self.end.wait(self.dice.uniform(*self.between)):
            kind = kinds[turn % len(kinds)]
            turn += 1
            kind()
            self.counts[kind.__name__.replace("_", " ")] += 1

    def kill_operator(self) -> None:
        """Delete its pod, by force."""
        self.kube.run("delete", "pod", "--selector", OPERATOR, "--grace-period=0", "--force", "--wait=false")

    def kill_a_pod(self) -> None:
        """Any pod of a job."""
        pods = self.kube.run("get", "pods", "--selector", "photon.dev/job", "--output=name").stdout.split()
        if pods:
            self.kube.run("delete", self.dice.choice(sorted(pods)), "--grace-period=0", "--force", "--wait=false")

    def restart_kubelet(self) -> None:
        """kill -9, and a new start."""
        self.cluster.restart("kubelet", node=self.dice.choice(self.cluster.nodes).number)

    def restart_api_server(self) -> None:
        """kill -9, and a new start."""
        self.cluster.restart("kube-apiserver")

    def power_cut(self) -> None:
        """All processes of a node die at once, those of its pods too; it comes back after a while."""
        node = self.dice.choice(self.cluster.nodes)
        node.power_off()
        self.end.wait(self.dice.uniform(*DARK_SECONDS))
        node.power_on()

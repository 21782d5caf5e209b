"""A job of a soak, as its user has it in kubectl. Every request is repeated while the API server is away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import yaml

from tools.cluster.kube import Kube, KubectlError, Object

T = TypeVar("T")

AWAY_SECONDS: Final = 120.0
POLL_SECONDS: Final = 2.0
# How a job stands; Ready and the like follow from it.
STANDING: Final = ("Pending", "Running", "Suspended", "Complete", "Failed")
# What kubectl says when nothing answers, or not yet all of it; other refusals are the job's own.
_AWAY: Final = (
    "connection refused",
    "connection reset",
    "EOF",
    "TLS handshake timeout",
    "i/o timeout",
    "Unable to connect",
    "the server is currently unable",
    "the server doesn't have a resource type",
    "etcdserver",
    "http2: client connection lost",
    "apiserver not ready",
    "the server was unable to return a response",
)


class SoakError(AssertionError):
    """A job did not do what its document says; the message is what a person would look at first."""


def patiently(ask: Callable[[], T]) -> T:
    """``ask`` again while the API server is away. Raises KubectlError."""
    until = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return ask()
        except KubectlError as error:
            if time.monotonic() > until or not any(word in str(error) for word in _AWAY):
                raise
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakJob:
    """One FederatedTrainingJob. ``seconds``: the deadline of each wait, of the whole machine's load."""

    kube: Kube
    name: str
    document: Object
    seconds: float

    def apply(self, **changes: Any) -> None:
        """kubectl apply of the document with ``changes`` to its spec."""
        document = yaml.safe_load(yaml.safe_dump(self.document))
        document["spec"] |= changes
        patiently(lambda: self.kube.kubectl("apply", "--filename", "-", text=json.dumps(document)))

    def patch(self, spec: Object) -> None:
        """kubectl patch of the spec."""
        text = json.dumps({"spec": spec})
        patiently(lambda: self.kube.kubectl("patch", f"ftj/{self.name}", "--type=merge", "--patch", text))

    def delete(self) -> None:
        """kubectl delete, without waiting."""
        patiently(lambda: self.kube.kubectl("delete", f"ftj/{self.name}", "--wait=false"))

    def get(self) -> Object:
        """Empty where there is none."""

        def ask() -> Object:
            text = self.kube.kubectl("get", f"ftj/{self.name}", "--ignore-not-found", "--output=json")
            found: Object = json.loads(text) if text.strip() else {}
            return found

        return patiently(ask)

    def condition(self) -> tuple[str, str, str]:
        """Type, reason and message of the condition that holds; empty where there is none."""
        for condition in self.get().get("status", {}).get("conditions", ()):
            if condition["status"] == "True" and condition["type"] in STANDING:
                return condition["type"], condition["reason"], condition["message"]
        return "", "", ""

    def wait(self, holds: Callable[[], bool], what: str) -> None:
        """Raises SoakError with what the job and its pods say."""
        until = time.monotonic() + self.seconds
        while not holds():
            if time.monotonic() > until:
                raise SoakError(f"{self.name}: not {what} in {self.seconds:.0f} s\n{self.explain()}")
            time.sleep(POLL_SECONDS)

    def wait_complete(self, commit: str) -> None:
        """Wait for Complete with this last commit. Raises SoakError."""

        def complete() -> bool:
            kind, reason, message = self.condition()
            if kind == "Failed":
                raise SoakError(f"{self.name}: failed with {reason}: {message}\n{self.explain()}")
            return kind == "Complete"

        self.wait(complete, "complete")
        found = self.get()["status"].get("lastCommit")
        if found != commit:
            raise SoakError(f"{self.name}: the last commit is {found}, on one machine it is {commit}")

    def children(self) -> list[str]:
        """What has the job's label, but for claims: they are kept on purpose."""
        kinds = "jobs,pods,services,configmaps,secrets,networkpolicies"
        label = f"photon.dev/job={self.name}"
        return patiently(lambda: self.kube.kubectl("get", kinds, "--selector", label, "--output=name")).split()

    def explain(self) -> str:
        """The job's status, its pods and the last events."""
        label = f"photon.dev/job={self.name}"
        parts = [
            json.dumps(self.get().get("status", {}).get("conditions"), indent=1),
            self.kube.run("get", "jobs,pods", "--selector", label, "--output=wide").stdout,
            self.kube.run("get", "events", "--sort-by=.lastTimestamp").stdout[-3000:],
        ]
        for pod in self.kube.run("get", "pods", "--selector", label, "--output=name").stdout.split():
            log = self.kube.run("logs", pod, "--all-containers", "--tail=15").stdout
            parts.append(f"--- {pod}\n{log}")
        return "\n".join(parts)

"""kubectl and the API of one cluster, as a test uses them: by one kubeconfig, each command with a deadline."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tools.cluster.fetched import tool
from tools.cluster.processes import until

if TYPE_CHECKING:
    import kubernetes.client

COMMAND_SECONDS: Final = 120.0

Object = dict[str, Any]


class KubectlError(AssertionError):
    """kubectl ended with a failure; the message is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kube:
    """One cluster, or one namespace of it. ``context``: of the kubeconfig; default its current one."""

    kubeconfig: Path
    context: str | None = None
    namespace: str | None = None

    def within(self, namespace: str) -> Kube:
        """The same cluster, one namespace."""
        return replace(self, namespace=namespace)

    def arguments(self, namespace: str | None = None) -> list[str]:
        """What tells kubectl which cluster and namespace are meant."""
        chosen = namespace or self.namespace
        where = ["--kubeconfig", str(self.kubeconfig)]
        where += ["--context", self.context] if self.context else []
        return [*where, *(["--namespace", chosen] if chosen else [])]

    def run(
        self,
        *arguments: str,
        namespace: str | None = None,
        text: str | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """kubectl with ``arguments``; ``text`` is its standard input. Failure is for the caller to see."""
        command = [str(tool("kubectl")), *self.arguments(namespace), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=seconds, check=False)

    def kubectl(
        self,
        *arguments: str,
        namespace: str | None = None,
        text: str | None = None,
        seconds: float = COMMAND_SECONDS,
    ) -> str:
        """The same; its output. Raises KubectlError."""
        done = self.run(*arguments, namespace=namespace, text=text, seconds=seconds)
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        return self.run("get", "--raw", "/readyz", "--request-timeout=5s", seconds=30).returncode == 0

    def exists(self, what: str, *, namespace: str | None = None) -> bool:
        """Whether KIND/NAME is there."""
        return self.run("get", what, "--output=name", namespace=namespace).returncode == 0

    def get(self, *what: str, namespace: str | None = None) -> Object:
        """``kubectl get``, as data: an object, or a List with ``items``."""
        document: Object = json.loads(self.kubectl("get", *what, "--output=json", namespace=namespace))
        return document

    def items(self, *what: str, namespace: str | None = None) -> list[Object]:
        """The objects of a list."""
        found: list[Object] = self.get(*what, namespace=namespace)["items"]
        return found

    def apply(self, *objects: Object, namespace: str | None = None) -> None:
        """Server-side apply. Raises KubectlError."""
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=document, namespace=namespace)

    def apply_file(self, path: Path, *, namespace: str | None = None) -> str:
        """Server-side apply of a file. Raises KubectlError."""
        return self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path), namespace=namespace)

    def until_served(self, definition: str) -> None:
        """Wait until the API server serves the resources of a CustomResourceDefinition, and kubectl knows their names.

        kubectl keeps what it once read of them for hours, and `explain` finds no short name that came later.
        """

        def established() -> bool:  # right after its creation it has no conditions, which `kubectl wait` takes amiss
            conditions = self.get(f"crd/{definition}").get("status", {}).get("conditions") or ()
            return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

        until(established, f"the definition {definition}", seconds=COMMAND_SECONDS)
        plural, _, group = definition.partition(".")

        def named() -> bool:  # this command reads it again
            listed = self.run("api-resources", f"--api-group={group}", "--no-headers").stdout.splitlines()
            return any(line.split()[0] == plural for line in listed)

        until(named, f"{plural} among the resources of {group}", seconds=COMMAND_SECONDS)

    def until_all_served(self) -> None:
        """The same for all definitions that there are: after a start they are served a moment after all else."""
        for definition in self.kubectl("get", "crd", "--output=name").split():
            self.until_served(definition.partition("/")[2])

    def api(self) -> kubernetes.client.ApiClient:
        """For many quick requests: the Python client. Imported late: most tests share our fixtures and need none."""
        import kubernetes.config

        made: kubernetes.client.ApiClient = kubernetes.config.new_client_from_config(  # type: ignore[no-untyped-call]
            str(self.kubeconfig), context=self.context
        )
        return made

    @contextmanager
    def fresh_namespace(self, *, labels: dict[str, str] | None = None, prefix: str = "test") -> Iterator[Kube]:
        """A namespace of one's own; its removal begins at the end and is not waited for."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}}})
        try:
            yield self.within(name)
        finally:
            self.run("delete", "namespace", name, "--wait=false")

    def explain(self, what: Sequence[str] = ()) -> str:
        """What a person asks when a test has failed: pods, events, and the logs of what did not end well."""
        parts = [self.run("get", "all,ftj", "--output=wide").stdout if not what else ""]
        parts.append(self.run("get", "events", "--sort-by=.lastTimestamp").stdout[-6000:])
        for pod in self.run("get", "pods", "--output=name").stdout.split():
            log = self.run("logs", pod, "--all-containers", "--tail=40").stdout
            parts.append(f"--- {pod}\n{log}")
        return "\n".join(parts)

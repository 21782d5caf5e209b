"""photon-operator as a process beside a real API server, and what kubelets and aggregators would do for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from photon.api.document import parse
from photon.api.status import JobStatus
from photon_operator.children import names
from photon_operator.children.kinds import POD
from photon_operator.cluster.client import Api
from tools.cluster.kube import Kube
from tools.cluster.processes import free_ports

DEADLINE_SECONDS: Final = 60.0
EXAMPLES: Final = Path(__file__).parents[2] / "manifests" / "examples"

# One job with a worker of each kind of place, small enough to read in a failure's message.
JOB: Final = (EXAMPLES / "first-job.yaml").read_text()


def until(holds: Callable[[], Any], what: str) -> Any:
    """The first true value of ``holds``."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_SECONDS:g} s: {what}")
        time.sleep(0.1)
    return found


class Operator:
    """One process; ``restart`` after ``stop`` begins with an empty memory."""

    def __init__(self, kube: Kube, log: Path, *, program: str = "photon_operator.main", **settings: str) -> None:
        self.log = log
        self._program = program
        (self.port,) = free_ports(1)
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kube.kubeconfig),
            "PHOTON_HTTP_PORT": str(self.port),
            "PHOTON_POLL_SECONDS": "0.5",
            "PHOTON_STATUS_SECONDS": "0.5",
            "PHOTON_LEASE_SECONDS": "2",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {self._program} import main; main()"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        until(self._ready, f"the operator is ready; its log is {self.log}:\n{self.tail()}")

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the operator ended with {self._process.returncode}:\n{self.tail()}")
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, *, kill: bool = False) -> None:
        if self._process is None:
            return
        (self._process.kill if kill else self._process.terminate)()
        self._process.wait(timeout=30)
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def tail(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-30:]) if self.log.exists() else ""

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics").text

    def requests(self) -> float:
        """Requests to the API server so far, by its own count, but for those about Leases."""
        metric = "photon_operator_api_requests_total{"
        lines = [line for line in self.metrics().splitlines() if line.startswith(metric) and '"lease"' not in line]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def reconciles(self) -> float:
        """How often it reconciled a job so far."""
        return self._count("photon_operator_reconcile_seconds_count")

    def _count(self, metric: str) -> float:
        lines = [line for line in self.metrics().splitlines() if line.startswith(metric)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


class Aggregators:
    """Answers as the aggregator of whichever job asks for it: what ``says`` was given last."""

    def __init__(self) -> None:
        self._status: JobStatus | None = None
        self.answered = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = outer._status
                self.send_response(200 if status else 503)
                self.end_headers()
                if status is not None:
                    outer.answered += 1
                    self.wfile.write(status.model_dump_json(by_alias=True).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def says(self, status: JobStatus | None) -> None:
        self._status = status

    @contextmanager
    def serving(self) -> Iterator[Aggregators]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(timeout=10)


class Lab:
    """A namespace, seen as a person sees it, and as the kubelet that is not there would change it."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        assert kube.namespace is not None
        self.namespace = kube.namespace
        self._api = Api(kube.api(), on_request=lambda _: None)

    def apply(self, text: str = JOB, **spec: Any) -> str:
        """Apply a job, with fields of its spec replaced; its name."""
        document = parse(text, "job").data
        document["spec"] |= spec
        self.kube.apply(document)
        return str(document["metadata"]["name"])

    def edit(self, job: str, **spec: Any) -> None:
        self.kube.kubectl("patch", "ftj", job, "--type=merge", "-p", json.dumps({"spec": spec}))

    def job(self, name: str = "first-job") -> dict[str, Any]:
        return self.kube.get(f"ftj/{name}")

    def state(self, name: str = "first-job") -> tuple[str, str, str]:
        """Type, reason and message of the condition that holds."""
        held = [c for c in self.job(name).get("status", {}).get("conditions", ()) if c["status"] == "True"]
        return (held[0]["type"], held[0]["reason"], held[0]["message"]) if held else ("", "", "")

    def until_state(self, kind: str, reason: str, name: str = "first-job") -> str:
        """Its message."""

        def there() -> str | None:
            found = self.state(name)
            return found[2] or " " if found[:2] == (kind, reason) else None

        try:
            return str(until(there, f"{kind}, {reason}"))
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state(name)}\n{self.kube.explain()}") from error

    def names(self, what: str = "jobs") -> set[str]:
        return {item["metadata"]["name"] for item in self.kube.items(what)}

    def until_jobs(self, *wanted: str) -> None:
        until(lambda: self.names() == set(wanted), f"the Jobs are {', '.join(wanted)} (are {self.names()})")

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Pods of a Job that are not being deleted, oldest first."""
        found = self.kube.items("pods", "-l", f"job-name={job}")
        return sorted(
            (pod for pod in found if not pod["metadata"].get("deletionTimestamp")),
            key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]),
        )

    def run(self, job: str) -> None:
        """The newest pod of a Job runs."""
        pod = self._pending(job)
        self._set(pod, "Running", {"running": {}}, podIP="127.0.0.1")

    def end(self, job: str, code: int = 0, message: str = "", *, reason: str | None = None) -> None:
        """The newest pod of a Job ends."""
        pod = self._pending(job)
        terminated = {"exitCode": code, "message": message, "reason": reason or ("Completed" if code == 0 else "Error")}
        self._set(pod, "Succeeded" if code == 0 else "Failed", {"terminated": terminated}, podIP="127.0.0.1")

    def _pending(self, job: str) -> dict[str, Any]:
        def newest() -> dict[str, Any] | None:
            found = [p for p in self.pods(job) if p["status"]["phase"] in ("Pending", "Running")]
            return found[-1] if found else None

        return dict(until(newest, f"a pod of {job}"))

    def _set(self, pod: dict[str, Any], phase: str, state: dict[str, Any], **status: Any) -> None:
        role = pod["metadata"]["labels"][names.ROLE]
        container = {"name": role, "state": state, "ready": "running" in state, "image": "x", "imageID": "x"}
        patch = {"phase": phase, "containerStatuses": [{**container, "restartCount": 0}], **status}
        self.kube.kubectl(
            *("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": patch})),
        )

    def pod_object(self, name: str) -> Any:
        return self._api.get(POD, self.namespace, name)

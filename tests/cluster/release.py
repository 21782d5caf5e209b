"""Photon installed by helm in a namespace of its own, with the bundled store; and jobs in it."""

from __future__ import annotations

import base64
import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import boto3
import yaml

from tests.cluster.fixtures import RESTRICTED, RunningCluster
from tools.cluster.fetched import tool
from tools.cluster.images import INSTALLED
from tools.cluster.kube import Kube, Object

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "photon"
NAME: Final = "photon"
STORE: Final = f"{NAME}-seaweedfs"
OPERATOR: Final = f"deployment/{NAME}-operator"
INSTALL_SECONDS: Final = 240
FORWARD_SECONDS: Final = 30.0
JOB_SECONDS: Final = 600.0
ENDED: Final = ("Complete", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A release of the chart; ``kube`` is within its namespace, which enforces the restricted standard."""

    kube: Kube

    @property
    def endpoint(self) -> str:
        """Of the bundled store, for pods."""
        return f"http://{STORE}.{self.kube.namespace}.svc:8333"

    @property
    def credentials(self) -> Object:
        """Of the bundled store, as a job names them."""
        return {"name": STORE}

    @contextmanager
    def s3(self) -> Iterator[Any]:
        """A boto3 client of the bundled store, through a forwarded port."""
        secret = {
            key: base64.b64decode(value).decode() for key, value in self.kube.get(f"secret/{STORE}")["data"].items()
        }
        with _forwarded(self.kube, f"service/{STORE}", 8333) as port:
            yield boto3.session.Session().client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                aws_access_key_id=secret["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=secret["AWS_SECRET_ACCESS_KEY"],
                region_name="us-east-1",
            )

    def upload(self, folders: dict[str, Path]) -> None:
        """Prepared data of each participant to s3://photon/data/PARTICIPANT."""
        with self.s3() as client:
            for name, folder in folders.items():
                for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                    client.upload_file(str(path), "photon", f"data/{name}/{path.relative_to(folder)}")

    def for_cluster(self, document: Object, *, name: str) -> Object:
        """A laptop's job, changed in its name and its data and storage addresses only."""
        document = yaml.safe_load(yaml.safe_dump(document))
        document["metadata"] = {"name": name}
        where = {"endpoint": self.endpoint, "credentialsSecretRef": self.credentials}
        document["spec"]["storage"] = {**where, "bucket": "photon", "prefix": f"jobs/{name}"}
        for participant in document["spec"]["participants"]:
            uri = f"s3://photon/data/{participant['name']}"
            participant["worker"]["data"] = {"uri": uri, **where}
        return document


@contextmanager
def installed(cluster: RunningCluster, *chosen: str, program: Path | None = None) -> Iterator[Release]:
    """The chart of this tree, with images of this tree; ``chosen``: more values, as KEY=VALUE. ``program``: a helm."""
    cluster.load(*INSTALLED)
    with cluster.kube.fresh_namespace(labels=RESTRICTED, prefix="photon") as kube:
        install(kube, cluster.registry, *chosen, program=program)
        try:
            yield Release(kube=kube)
        finally:
            # The operator clears what it holds; then nothing keeps the namespace from going.
            kube.run("delete", "ftj", "--all", "--timeout=60s")
            helm(kube, "uninstall", NAME, "--wait", "--timeout", "60s", check=False, program=program)
            with contextlib.suppress(AssertionError):
                kube.kubectl("delete", "pvc", "--all", "--wait=false")


def install(kube: Kube, registry: str, *chosen: str, program: Path | None = None) -> None:
    """Install, or upgrade to these values; return when all pods are ready."""
    values = [
        f"image.registry={registry}",
        "seaweedfs.enabled=true",
        "operator.pollSeconds=1",
        "operator.statusSeconds=1",
        # Several sessions may share a cluster: none runs the jobs of another.
        f"watchNamespaces={{{kube.namespace}}}",
        *chosen,
    ]
    helm(
        kube,
        *("upgrade", "--install", NAME, str(CHART), "--wait", "--timeout", f"{INSTALL_SECONDS}s"),
        *taking_over(kube, program=program),
        *(argument for value in values for argument in ("--set", value)),
        program=program,
    )
    kube.until_served("federatedtrainingjobs.photon.dev")


def taking_over(kube: Kube, *, program: Path | None = None) -> tuple[str, ...]:
    """Options for an installation: the definition of the jobs outlives a release and its namespace."""
    # Helm 4 installs by applying on the server, where others may have set what it takes over; a release that is there
    # it upgrades as that was installed.
    new = not helm(kube, "list", "--short", "--filter", f"^{NAME}$", program=program).strip()
    on_server = new and helm(kube, "version", "--short", program=program).startswith("v4")
    return ("--take-ownership", *(("--force-conflicts",) if on_server else ()))


def helm(kube: Kube, *arguments: str, check: bool = True, program: Path | None = None) -> str:
    """What helm prints. Raises AssertionError."""
    command = [str(program or tool("helm")), "--kubeconfig", str(kube.kubeconfig), "--namespace", str(kube.namespace)]
    command += ["--kube-context", kube.context] if kube.context else []
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=INSTALL_SECONDS + 60, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"helm {arguments[0]}: {done.stderr.strip()}\n{kube.explain()}")
    return done.stdout


@contextmanager
def _forwarded(kube: Kube, what: str, port: int) -> Iterator[int]:
    command = [str(tool("kubectl")), *kube.arguments(), "port-forward", what, f":{port}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    # It says a line for each connection: unread, they would fill the pipe.
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    watch = threading.Timer(FORWARD_SECONDS, process.kill)
    watch.start()
    try:
        line = process.stdout.readline()
        watch.cancel()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert match, f"kubectl port-forward {what}: {line}"
        drain.start()
        yield int(match[1])
    finally:
        watch.cancel()
        process.kill()
        process.wait(timeout=10)
        if drain.ident is not None:
            drain.join(timeout=10)
        process.stdout.close()


class Job:
    """A FederatedTrainingJob in the cluster."""

    def __init__(self, release: Release, document: Object) -> None:
        self.kube, self.name = release.kube, document["metadata"]["name"]
        self._document = document

    def apply(self, folder: Path) -> None:
        """As its user does it: kubectl apply of a file."""
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self._document))
        self.kube.kubectl("apply", "-f", str(path))

    @property
    def status(self) -> Object:
        """Empty when there is none yet."""
        found: Object = self.kube.get(f"ftj/{self.name}").get("status") or {}
        return found

    def holds(self, condition: str) -> bool:
        """Whether the condition is True."""
        return any(c["type"] == condition and c["status"] == "True" for c in self.status.get("conditions", ()))

    def wait(self, reached: Callable[[Object], bool], what: str, *, seconds: float = JOB_SECONDS) -> Object:
        """Poll the status; a job that ends otherwise, or a deadline, ends the test with all that is known."""
        deadline = time.monotonic() + seconds
        while True:
            status = self._status_or_nothing()
            if reached(status):
                return status
            ended = [c for c in status.get("conditions", ()) if c["type"] in ENDED and c["status"] == "True"]
            assert not ended, f"{self.name} ended before it was {what}: {ended}\n{self.kube.explain()}"
            assert time.monotonic() < deadline, (
                f"{self.name}: not {what} in {seconds} s: {status}\n{self.kube.explain()}"
            )
            time.sleep(0.5)

    def _status_or_nothing(self) -> Object:
        """An API server that a test has just killed answers a moment later."""
        try:
            return self.status
        except AssertionError:
            return {}

    def complete(self) -> Object:
        """Wait for the condition Complete; the status."""
        return self.wait(
            lambda status: any(c["type"] == "Complete" and c["status"] == "True" for c in status.get("conditions", ())),
            "Complete",
        )

    def pods(self, role: str, participant: str) -> list[str]:
        """The participant's pods, as kubectl names them, those of its nodes in order."""
        selector = f"photon.dev/job={self.name},photon.dev/role={role},photon.dev/participant={participant}"
        return sorted(self.kube.kubectl("get", "pods", "--selector", selector, "--output=name").split())

    def delete_pod(self, role: str, participant: str | None = None) -> None:
        """Delete a pod of the job, without waiting."""
        selector = f"photon.dev/job={self.name},photon.dev/role={role}"
        selector += f",photon.dev/participant={participant}" if participant else ""
        told = self.kube.kubectl("delete", "pod", "--selector", selector, "--wait=false")
        assert "deleted" in told, f"no pod with {selector}"

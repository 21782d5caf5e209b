"""``make bench-operator``: 1,000 jobs on one operator with a real API server; pods are not run.

The control plane is real (etcd, API server, controllers, scheduler; tools/cluster), and the operator is the installed
program. The benchmark writes the pod status that kubelets would report, and one small server acts as the aggregator of
every job, so each job passes through all stages: documents, init, two workers, the aggregator, training. The jobs then
train for slightly more than five minutes: each answer of an aggregator has other figures, and a round of each job ends
every two minutes. Meanwhile the requests of the operator to the API server are counted, including its full lists every
five minutes and its Lease, and a few jobs are edited.

    p50_seconds, p99_seconds          duration of reconciles while all jobs train, including requests (interpolated from
                                      the histogram of the operator)
    edit_p50_seconds, edit_p99_seconds   from an edit to the status that knows of it, as a client sees both
    requests_per_job                  from apply to training
    requests_per_running_job_minute   while all jobs train
    cpu_cores                         of the operator, meanwhile
    rss_mib                           peak resident size of the operator

On a machine with few cores, the control plane and the operator compete for them: the times are those of a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import kubernetes

from photon.api.document import parse
from photon.api.job import GROUP, KIND, PLURAL, VERSION
from photon.api.status import JobReason
from photon.telemetry import metric_names
from photon_operator.children import names
from photon_operator.children.kinds import POD
from photon_operator.cluster.client import Api
from tests.cluster.fixtures import install_crd
from tests.operator.world import said
from tools.cluster.control_plane import ControlPlane
from tools.cluster.kube import Kube
from tools.cluster.processes import free_ports

ROOT = Path(__file__).resolve().parent.parent
NAMESPACE: Final = "bench"
DEADLINE_SECONDS: Final = 1500.0
THREADS: Final = 8
KEYS: Final = (
    *("p50_seconds", "p99_seconds", "edit_p50_seconds", "edit_p99_seconds", "requests_per_job"),
    *("requests_per_running_job_minute", "cpu_cores", "rss_mib"),
)
ROUND_SECONDS: Final = 120.0
EDITS: Final = 60
_SERIES: Final = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"timeout: {what}: not within {DEADLINE_SECONDS:g} s")
        time.sleep(1.0)


class Operator:
    """The program, its metrics and its memory."""

    def __init__(self, kube: Kube, folder: Path, aggregator_url: str) -> None:
        (self._port,) = free_ports(1)
        environment = {
            **os.environ,
            "KUBECONFIG": str(kube.kubeconfig),
            "PHOTON_HTTP_PORT": str(self._port),
            "PHOTON_AGGREGATOR_URL": aggregator_url,
        }
        self._log = (folder / "operator.log").open("ab")
        program = str(Path(sys.executable).parent / "photon-operator")
        self.process = subprocess.Popen([program], env=environment, stdout=self._log, stderr=self._log)
        until(self._ready, "the operator is ready")

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the operator exited with code {self.process.returncode}; see its log {self._log.name}")
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> dict[tuple[str, str], float]:
        """Values by name and labels."""
        text = httpx.get(f"http://127.0.0.1:{self._port}/metrics", timeout=60).text
        return {(name, labels): float(value) for name, labels, value in _SERIES.findall(text)}

    def requests(self) -> dict[str, float]:
        """By verb."""
        found = self.metrics().items()
        return {labels: value for (name, labels), value in found if name == metric_names.OPERATOR_API_REQUESTS}

    def cpu_seconds(self) -> float:
        """Of its life so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None, "Linux says it of every process"
        return int(found[1]) / 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)
        self._log.close()


def quantile(metrics: Mapping[tuple[str, str], float], share: float) -> float:
    """Of the reconciles' durations, as Prometheus' histogram_quantile gives it."""
    name = f"{metric_names.OPERATOR_RECONCILE_SECONDS}_bucket"
    bounds = sorted(
        (float(labels.split('"')[1]), count) for (series, labels), count in metrics.items() if series == name
    )
    wanted = share * bounds[-1][1]
    low = below = 0.0
    for bound, count in bounds:
        if count >= wanted:
            return low if bound == float("inf") else low + (bound - low) * (wanted - below) / max(1e-9, count - below)
        low, below = bound, count
    return low


@contextmanager
def aggregators() -> Iterator[str]:
    """One server that says of every job that it trains, with other figures each time; its URL."""
    status: dict[str, Any] = said("Running", JobReason.TRAINING, round=2, committed=1).model_dump(
        mode="json", by_alias=True
    )
    count = itertools.count(1)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    ports: list[int] = []
    began = time.monotonic()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while asked := await reader.readuntil(b"\r\n\r\n"):
                # Jobs are told apart by their tokens: their rounds do not end all at once.
                token = next(line for line in asked.splitlines() if line.startswith(b"Authorization:"))
                phase = zlib.crc32(token) % ROUND_SECONDS
                committed, step = 1 + int((time.monotonic() - began + phase) / ROUND_SECONDS), next(count)
                figures = {"step": step, "tokensPerSecond": 1000 + step % 97, "loss": 3.0 + step % 89 / 100}
                people = [{**person, **figures, "lastRound": committed} for person in status["participants"]]
                said_now = {**status, "round": committed + 1, "committedRounds": committed, "participants": people}
                body = json.dumps({**said_now, "trainLoss": figures["loss"], "etaSeconds": 9000 - step % 900}).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it has gone
        finally:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(timeout=30)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)


class Player:
    """Makes jobs, and does to their pods what kubelets would."""

    def __init__(self, kube: Kube) -> None:
        self._client = kube.api()
        self._client.configuration.connection_pool_maxsize = THREADS
        self._core = kubernetes.client.CoreV1Api(self._client)
        self._api = Api(self._client, on_request=lambda _: None)
        self._custom = kubernetes.client.CustomObjectsApi(self._client)
        self._done: set[str] = set()

    def make_jobs(self, number: int) -> None:
        text = (ROOT / "manifests" / "examples" / "first-job.yaml").read_text()

        def make(index: int) -> None:
            body = parse(text, "job").data
            body["metadata"]["name"] = f"job-{index:04d}"
            self._custom.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, body)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(make, range(number)))

    def play(self) -> None:
        """Let init pods succeed, and all others run."""
        found = self._api.listed(POD, NAMESPACE, labels=names.JOB)
        pods = [(pod["metadata"]["name"], pod["metadata"]["labels"][names.ROLE]) for pod in found]
        new = [pod for pod in pods if pod[0] not in self._done]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda pod: self._set(*pod), new))
        self._done |= {name for name, _ in new}

    def _set(self, name: str, role: str) -> None:
        init = role == "init"
        state: dict[str, Any] = {"terminated": {"exitCode": 0, "reason": "Completed"}} if init else {"running": {}}
        container = {"name": role, "state": state, "ready": not init, "image": "x", "imageID": "x", "restartCount": 0}
        status = {"phase": "Succeeded" if init else "Running", "podIP": "10.0.0.1", "containerStatuses": [container]}
        self._core.patch_namespaced_pod_status(name, NAMESPACE, {"status": status})

    def edit(self, index: int) -> float:
        """Edit a job; seconds until its status knows of that."""
        name, began = f"job-{index:04d}", time.monotonic()
        spec = {"spec": {"ttlSecondsAfterFinished": 10**6 + int(began)}}
        edited = self._custom.patch_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, name, spec)
        wanted = edited["metadata"]["generation"]
        while True:
            found = self._api.get(KIND, NAMESPACE, name) or {}
            if found.get("status", {}).get("observedGeneration") == wanted:
                return time.monotonic() - began
            time.sleep(0.02)

    def holding(self, condition: str) -> int:
        """Jobs of which the condition is true."""
        states = (job.get("status", {}).get("conditions", ()) for job in self._api.listed(KIND, NAMESPACE))
        return sum(any(c["type"] == condition and c["status"] == "True" for c in state) for state in states)


def measure(jobs: int, seconds: float, folder: Path) -> dict[str, Any]:
    """One run; the figures."""
    with ControlPlane() as processes, aggregators() as url:
        kube = processes.start()
        install_crd(kube)
        kube.kubectl("create", "namespace", NAMESPACE)
        operator = Operator(kube, folder, url)
        try:
            player = Player(kube)
            began = time.monotonic()
            player.make_jobs(jobs)
            made = time.monotonic() - began

            def trains() -> bool:
                player.play()
                there = player.holding("Running")
                print(f"{time.monotonic() - began:6.0f} s: {there} of {jobs} jobs are training", file=sys.stderr)
                return there == jobs

            until(trains, f"{jobs} jobs train")
            settled = time.monotonic() - began
            time.sleep(10.0)
            busy, before, cpu = operator.requests(), operator.metrics(), operator.cpu_seconds()
            started = time.monotonic()
            edits = []
            for number in range(EDITS):
                time.sleep(max(0.0, started + seconds * number / EDITS - time.monotonic()))
                edits.append(player.edit(number % jobs))
            time.sleep(max(0.0, started + seconds - time.monotonic()))
            minutes = (time.monotonic() - started) / 60
            after, metrics = operator.requests(), operator.metrics()
            cpu_cores = (operator.cpu_seconds() - cpu) / 60 / minutes
            meanwhile = {key: value - before.get(key, 0.0) for key, value in metrics.items()}
            edits.sort()
            return {
                "jobs": jobs,
                "made_seconds": round(made, 1),
                "settled_seconds": round(settled, 1),
                "reconciles": int(meanwhile[f"{metric_names.OPERATOR_RECONCILE_SECONDS}_count", ""]),
                "p50_seconds": round(quantile(meanwhile, 0.50), 4),
                "p99_seconds": round(quantile(meanwhile, 0.99), 4),
                "edit_p50_seconds": round(edits[len(edits) // 2], 3),
                "edit_p99_seconds": round(edits[-1 - len(edits) // 100], 3),
                "requests_per_job": round(sum(busy.values()) / jobs, 2),
                "requests_by_verb": {verb: int(count) for verb, count in sorted(busy.items())},
                "requests_per_running_job_minute": round(
                    (sum(after.values()) - sum(busy.values())) / jobs / minutes, 3
                ),
                "running_seconds": round(60 * minutes),
                "cpu_cores": round(cpu_cores, 3),
                "rss_mib": round(operator.peak_mib(), 1),
                "cores": os.cpu_count(),
                "load_average": os.getloadavg()[1],
            }
        finally:
            operator.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=310.0, help="more than the interval of full lists")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "bench" / "operator.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="photon-bench-operator-") as folder:
        result = measure(arguments.jobs, arguments.seconds, Path(folder))
    for key in KEYS:
        print(f"{key:30} {result[key]}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()

"""A job in the queues of the real Kueue controller, beside a real API server with its controllers; kubelets are played.

Building Kueue from its Go module takes many minutes, so this is no test: run it after a change of what queues see.
Its webhooks are left out: what they would default, the operator states itself.

    python -m benchmarks.kueue            # the steps and what was seen, as in docs/decisions/0032; as root
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from photon.api.status import JobReason
from photon_operator.children import names
from tests.cluster.fixtures import RESTRICTED, install_crd
from tests.operator.running import Aggregators, Lab, Operator, until
from tests.operator.world import said
from tools.cluster.control_plane import ControlPlane
from tools.cluster.kube import Kube
from tools.cluster.processes import end, free_ports, start
from tools.cluster.programs import KUEUE, module_file, program

# Kueue's program has this path built in; it starts no server there (metrics are off) but wants the files.
METRICS_CERTIFICATES: Final = Path("/etc/kueue/metrics/certs")
API: Final = "kueue.x-k8s.io/v1beta2"
RESOURCES: Final = ("cpu", "memory", "ephemeral-storage")


@contextmanager
def running_kueue(kube: Kube, folder: Path) -> Iterator[None]:
    """The controller, with its definitions; it holds every Job outside of its own namespace that has no queue."""
    for path in sorted(module_file(KUEUE, "config/components/crd/bases").glob("*.yaml")):
        kube.apply_file(path)
    kube.until_all_served()
    kube.kubectl("create", "namespace", "kueue-system")
    METRICS_CERTIFICATES.mkdir(parents=True)  # root, and no Kueue of this machine's own
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    for at in (METRICS_CERTIFICATES, folder):
        command = [*request, "-keyout", str(at / "tls.key"), "-out", str(at / "tls.crt")]
        subprocess.run(command, check=True, capture_output=True)
    health, webhook = free_ports(2)
    configuration = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": "kueue-system",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": webhook, "host": "127.0.0.1", "certDir": str(folder)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "manageJobsWithoutQueueName": True,
        "integrations": {"frameworks": ["batch/job"]},
    }
    (folder / "kueue.json").write_text(json.dumps(configuration))
    arguments = ["--kubeconfig", kube.kubeconfig, "--config", folder / "kueue.json"]
    gates = "--feature-gates=VisibilityOnDemand=false"
    process = start([program(KUEUE), *arguments, gates], log=folder / "kueue.log", tied=True)
    try:
        yield
    finally:
        end(process)
        shutil.rmtree(METRICS_CERTIFICATES.parents[1])


def queue(kube: Kube, name: str, cpus: int) -> None:
    """A ClusterQueue and its LocalQueue, with a quota of CPUs; all else is plenty."""
    quotas = [{"name": each, "nominalQuota": str(cpus) if each == "cpu" else "1Ti"} for each in RESOURCES]
    group = {"coveredResources": list(RESOURCES), "flavors": [{"name": "any", "resources": quotas}]}
    flavor = {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "any"}}
    spec = {"namespaceSelector": {}, "resourceGroups": [group]}
    cluster = {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": spec}
    local = {"apiVersion": API, "kind": "LocalQueue", "metadata": {"name": name}, "spec": {"clusterQueue": name}}
    kube.apply(flavor, cluster)
    kube.apply(local)


class Steps:
    """Says each step when it was seen, and how long that took."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, what: str, holds: Callable[[], Any]) -> None:
        until(holds, what)
        print(f"{time.monotonic() - self._began:6.1f} s  {what}", flush=True)


def label(lab: Lab, job: str, name: str) -> None:
    lab.kube.kubectl("label", "--overwrite", "ftj", job, f"{names.KUEUE_QUEUE}={name}")


def stop_policy(lab: Lab, policy: str) -> None:
    patch = json.dumps({"spec": {"stopPolicy": policy}})
    lab.kube.kubectl("patch", "clusterqueue", "research", "--type=merge", "-p", patch)


def is_admitted(lab: Lab, job: str) -> bool:
    found = [one for one in lab.kube.items("jobs") if one["metadata"]["name"] == job]  # none while it is replaced
    return bool(found) and not found[0]["spec"].get("suspend")


def tell(lab: Lab, aggregators: Aggregators) -> None:
    seen = Steps()
    queue(lab.kube, "research", 2)
    queue(lab.kube, "empty", 0)
    resources: Mapping[str, Any] = {"cpus": 2}
    people = [
        {"name": name, "worker": {"data": {"uri": f"s3://photon/{name}"}, "resources": resources}}
        for name in ("north", "south")
    ]
    lab.apply(suspend=True, participants=people)
    label(lab, "first-job", "research")
    lab.edit("first-job", suspend=False)
    seen("init is admitted", lambda: "first-job-init" in lab.names() and is_admitted(lab, "first-job-init"))
    lab.end("first-job-init")
    workers = ("first-job-worker-north", "first-job-worker-south")
    seen("both workers are made", lambda: set(workers) <= lab.names())
    seen("one of them is admitted, for the other there is no room", lambda: any(is_admitted(lab, w) for w in workers))
    (admitted,) = [w for w in workers if is_admitted(lab, w)]
    (waits,) = set(workers) - {admitted}
    lab.run(admitted)
    time.sleep(5)
    assert not is_admitted(lab, waits)
    assert "first-job-aggregator" not in lab.names(), "no deadline may count yet"
    seen(f"the job says {lab.state()}", lambda: lab.state()[:2] == ("Pending", "Queued"))
    queue(lab.kube, "research", 6)
    seen("with more quota the other is admitted", lambda: is_admitted(lab, waits))
    lab.run(waits)
    seen("the aggregator is made and admitted", lambda: "first-job-aggregator" in lab.names())
    until(lambda: is_admitted(lab, "first-job-aggregator"), "the aggregator is admitted")
    lab.run("first-job-aggregator")
    aggregators.says(said("Running", JobReason.TRAINING, round=2, committed=1))
    seen("the job trains", lambda: lab.state()[:2] == ("Running", "Training"))
    stop_policy(lab, "HoldAndDrain")
    seen("drained by its queue, the job waits", lambda: lab.state()[:2] == ("Pending", "Queued"))
    assert lab.job()["status"].get("startTime") is None, "no deadline counts"
    stop_policy(lab, "None")
    for name in (*workers, "first-job-aggregator"):
        until(lambda name=name: is_admitted(lab, name), f"{name} is admitted again")  # type: ignore[misc]
        lab.run(name)
    seen("admitted again, it trains", lambda: lab.state()[:2] == ("Running", "Training"))
    label(lab, "first-job", "empty")
    seen("another queue is refused in words", lambda: "suspend and resume" in lab.state()[2])
    assert all(is_admitted(lab, w) for w in workers)
    label(lab, "first-job", "research")
    aggregators.says(None)
    lab.kube.kubectl("delete", "ftj", "first-job")
    seen("its Jobs and Workloads go with it", lambda: not lab.kube.items("workloads"))

    people = [{**people[0], "worker": {**people[0]["worker"], "nodes": 2, "resources": {"cpus": 2, "gpus": 0}}}]
    lab.apply(suspend=True, participants=people[:1], local={"steps": 4, "strategy": "FSDP"})
    label(lab, "first-job", "empty")
    lab.edit("first-job", suspend=False)
    seen("a job in a queue without quota waits", lambda: lab.state()[:2] == ("Pending", "Queued"))
    label(lab, "first-job", "research")
    seen("the label moves init, which is admitted", lambda: is_admitted(lab, "first-job-init"))
    lab.end("first-job-init")
    seen("a participant with two nodes is made", lambda: "first-job-worker-north" in lab.names())
    seen("and admitted as one Workload", lambda: is_admitted(lab, "first-job-worker-north"))
    counts = [
        [pods["count"] for pods in load["spec"]["podSets"]]
        for load in lab.kube.items("workloads")
        if "worker" in load["metadata"]["name"]
    ]
    seen(f"whose pod sets have {counts}", lambda: counts == [[2]])


def main() -> None:
    aggregators = Aggregators()
    with tempfile.TemporaryDirectory() as work, ControlPlane() as processes, aggregators.serving():
        kube, folder = processes.start(), Path(work)
        install_crd(kube)
        operator = Operator(kube, folder / "operator.log", PHOTON_AGGREGATOR_URL=aggregators.url)
        try:
            with running_kueue(kube, folder), kube.fresh_namespace(labels=RESTRICTED, prefix="kueue") as within:
                operator.start()
                tell(Lab(within), aggregators)
        except (AssertionError, TimeoutError):
            for log in ("kueue.log", "operator.log"):
                lines = (folder / log).read_text(errors="replace").splitlines() if (folder / log).exists() else []
                print(f"--- {log}", *lines[-15:], sep="\n", file=sys.stderr)
            raise
        finally:
            operator.stop()


if __name__ == "__main__":
    main()

"""A job that cannot work says why within 30 s of Kubernetes knowing it, where people look: kubectl get, describe.

Both times are the API server's: when Kubernetes' own object first said it, and when the job's event did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import pytest

from tests.cluster.release import Release
from tools.cluster.kube import Kube, Object

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WITHIN_SECONDS: Final = 30.0
DEADLINE_SECONDS: Final = 240.0
DEADLINE_OF_ROUND: Final = 5
NO_STORE: Final = "http://no-such-store.photon.svc:8333"


# --- when Kubernetes knew ---------------------------------------------------------------------------------------------


def unscheduled_at(kube: Kube, pod: Object) -> float | None:
    for condition in pod["status"].get("conditions", ()):
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            return seconds(condition["lastTransitionTime"])
    return None


def failed_event_at(kube: Kube, pod: Object) -> float | None:
    """The kubelet writes no time to a container that cannot be made, but an event."""
    return first_event(kube, pod, "Failed")


def ended_at(kube: Kube, pod: Object) -> float | None:
    for container in pod["status"].get("containerStatuses", ()):
        if ended := container["state"].get("terminated"):
            return seconds(ended["finishedAt"])
    return None


def round_over_at(kube: Kube, pod: Object) -> float | None:
    """Kubernetes knows nothing of rounds: the first one's deadline, counted from when the aggregator first answered."""
    job = kube.get(f"ftj/{pod['metadata']['labels']['photon.dev/job']}")
    began = first_event(kube, job, "Running")
    return began + DEADLINE_OF_ROUND if began is not None else None


def first_event(kube: Kube, of: Object, reason: str) -> float | None:
    selector = f"involvedObject.uid={of['metadata']['uid']},reason={reason}"
    events = kube.items("events", "--field-selector", selector)
    return min((seconds(event["metadata"]["creationTimestamp"]) for event in events), default=None)


def seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


# --- jobs that cannot work --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A job of one participant with one mistake: where it shows, and what is to be read of it.

    ``failed``: it ends the job. Until then a job is pending, or running once there is an aggregator.
    """

    name: str
    role: str
    knew: Callable[[Kube, Object], float | None]
    failed: bool = False
    reason: str
    words: tuple[str, ...]
    worker: Object = field(default_factory=dict)
    storage: Object = field(default_factory=dict)
    spec: Object = field(default_factory=dict)


FAULTS: Final = (
    Fault(
        name="gpus-that-no-node-has",
        worker={"resources": {"gpus": 4}},
        role="worker",
        knew=unscheduled_at,
        reason="Unschedulable",
        words=("north: ", "Insufficient nvidia.com/gpu"),
    ),
    Fault(
        name="image-that-is-nowhere",
        worker={"image": "127.0.0.1:9/photon-worker:0.0.0"},
        role="worker",
        knew=failed_event_at,
        reason="ImageUnavailable",
        words=("north: the image 127.0.0.1:9/photon-worker:0.0.0 cannot be pulled: ",),
    ),
    Fault(
        name="bucket-unreachable",
        storage={"endpoint": NO_STORE},
        role="init",
        knew=ended_at,
        reason="StorageUnreachable",
        words=("no object store answers at no-such-store.photon.svc:8333", "check storage.endpoint"),
    ),
    Fault(
        name="bucket-missing",
        storage={"bucket": "elsewhere"},
        role="init",
        knew=ended_at,
        reason="BucketMissing",
        words=("bucket 'elsewhere' does not exist", "correct storage.bucket"),
    ),
    Fault(
        name="wrong-keys",
        storage={"credentialsSecretRef": {"name": "wrong-keys"}},
        role="init",
        knew=ended_at,
        reason="AccessDenied",
        words=("does not know this access key: check AWS_ACCESS_KEY_ID",),
    ),
    Fault(
        name="wrong-keys-of-data",
        worker={"data": {"credentialsSecretRef": {"name": "wrong-keys"}}},
        role="worker",
        knew=ended_at,
        reason="AccessDenied",
        words=("north: ", "the object store refused s3://photon/data/north/index.json", "check the access keys"),
    ),
    Fault(
        name="no-secret",
        storage={"credentialsSecretRef": {"name": "nowhere"}},
        role="init",
        knew=failed_event_at,
        reason="SecretMissing",
        words=('secret "nowhere" not found', "the job's namespace"),
    ),
    Fault(
        name="too-little-memory",
        worker={"resources": {"memory": "64Mi"}},
        role="worker",
        knew=ended_at,
        reason="OutOfMemory",
        words=("north: killed for using more memory than its limit (64Mi); raise resources.memory",),
    ),
    Fault(
        name="quorum-lost",
        # Nobody there comes: the round ends without its quorum.
        spec={
            "participants": [{"name": "elsewhere", "remote": {}}],
            "participation": {"roundDeadlineSeconds": DEADLINE_OF_ROUND, "whenQuorumLost": "Fail"},
        },
        role="init",
        knew=round_over_at,
        failed=True,
        reason="QuorumLost",
        words=("round 1 has 0 of the 1 updates of its quorum", "missing: elsewhere"),
    ),
)


def document(photon: Release, fault: Fault) -> Object:
    where = {"endpoint": photon.endpoint, "credentialsSecretRef": photon.credentials}
    data = {"uri": "s3://photon/data/north", **where, **fault.worker.get("data", {})}
    worker = {"workDir": {"type": "EmptyDir"}, **fault.worker, "data": data}
    return {
        "apiVersion": "photon.dev/v1alpha1",
        "kind": "FederatedTrainingJob",
        "metadata": {"name": fault.name},
        "spec": {
            "model": {"preset": "llama-1m"},
            "rounds": 1,
            "storage": {**where, "prefix": fault.name, **fault.storage},
            "participants": [{"name": "north", "worker": worker}],
            **fault.spec,
        },
    }


@pytest.fixture(scope="module")
def kube(photon: Release) -> Iterator[Kube]:
    """All broken jobs at once: their first models are made side by side."""
    keys = {"AWS_ACCESS_KEY_ID": "wrong", "AWS_SECRET_ACCESS_KEY": "wrong"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}, "stringData": keys}
    photon.kube.apply(secret, *(document(photon, fault) for fault in FAULTS))
    yield photon.kube
    photon.kube.kubectl("delete", "ftj", *(fault.name for fault in FAULTS), "--wait=false")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_job_that_cannot_work_says_why(kube: Kube, fault: Fault) -> None:
    job = said(kube, fault)
    condition = next(c for c in job["status"]["conditions"] if c["status"] == "True")
    assert condition["type"] in (("Failed",) if fault.failed else ("Pending", "Running"))
    for words in fault.words:
        assert words in condition["message"]
    (line,) = kube.kubectl("get", f"ftj/{fault.name}", "--no-headers").splitlines()
    assert fault.reason in line.split()
    events = kube.kubectl("describe", f"ftj/{fault.name}").split("Events:")[1]
    warning = next(line for line in events.splitlines() if "Warning" in line and fault.reason in line)
    assert fault.words[-1] in warning

    told = first_event(kube, job, fault.reason)
    knew = [at for pod in pods(kube, fault) if (at := fault.knew(kube, pod)) is not None]
    assert told is not None
    assert knew, "Kubernetes says it too"
    assert told - min(knew) <= WITHIN_SECONDS


def said(kube: Kube, fault: Fault) -> Any:
    """The job, once a condition has the reason."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        job = kube.get(f"ftj/{fault.name}")
        holds = [c["reason"] for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"]
        if holds and set(holds) == {fault.reason} and first_event(kube, job, fault.reason) is not None:
            return job
        assert time.monotonic() < deadline, f"{fault.name}: {job.get('status')}\n{kube.explain()}"
        time.sleep(0.5)


def pods(kube: Kube, fault: Fault) -> list[Object]:
    return kube.items("pods", "--selector", f"photon.dev/job={fault.name},photon.dev/role={fault.role}")

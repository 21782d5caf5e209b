"""What a job consists of in a cluster: desired objects from the launch plan. Pure."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.launch import RENDEZVOUS_PORT, LaunchContext, Process, Role, processes
from photon_operator import names
from photon_operator.pods import DIGESTS_FILE, JOB_FILE, JOB_FOLDER, TOKENS_FOLDER, WORK_FOLDER, pod_template
from photon_operator.settings import Settings

Object = dict[str, Any]

# How often a pod that failed is replaced before its Job gives up. Kubernetes waits longer and longer in between (10 s
# to 6 minutes), so this is more than an hour of trouble; a pod that was evicted or preempted does not count.
RETRIES: Final = 20
INIT_RETRIES: Final = 6
_MISTAKE: Final = 2  # exit code of our programs for what the user has to mend: trying again would change nothing
_PLACEMENT: Final = ("resources", "image", "nodeSelector", "priorityClassName", "tolerations", "podTemplatePatch")


def context(job: FederatedTrainingJob, namespace: str) -> LaunchContext:
    """What the cluster adds to the launch plan."""
    name = job.metadata.name
    # The first pod of a participant is where its nodes meet. Names are cut by a digest of the whole, so no template.
    return LaunchContext(
        job_path=f"{JOB_FOLDER}/{JOB_FILE}",
        tokens_path=f"{TOKENS_FOLDER}/{DIGESTS_FILE}",
        listen=f"0.0.0.0:{names.AGGREGATOR_PORT}",
        aggregator_url=f"http://{names.aggregator(name)}.{namespace}.svc:{names.AGGREGATOR_PORT}",
        work_dir=WORK_FOLDER,
        rendezvous=f"$(PHOTON_RENDEZVOUS):{RENDEZVOUS_PORT}",
        stop_when_done=True,
    )


def document(job: FederatedTrainingJob) -> str:
    """The job as its programs read it: without what only places pods, so that moving a pod restarts no aggregator."""
    whole = job.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status"})
    spec = whole["spec"]
    for key in ("ttlSecondsAfterFinished", "managedBy"):
        spec.pop(key, None)
    for placed in (spec.get("aggregator", {}), *(p.get("worker") or {} for p in spec["participants"])):
        for key in _PLACEMENT:
            placed.pop(key, None)
    whole["metadata"] = {"name": job.metadata.name}
    return json.dumps(whole, indent=1, sort_keys=True)


def config_map(job: FederatedTrainingJob) -> Object:
    """The job document."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(names.config_map(job.metadata.name), job, Role.AGGREGATOR),
        "data": {JOB_FILE: document(job)},
    }


def tokens_secret(job: FederatedTrainingJob, tokens: Mapping[str, str]) -> Object:
    """Each participant's bearer token under its name, and their digests, which are all that the aggregator sees."""
    digests = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in sorted(tokens.items())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": _metadata(names.tokens(job.metadata.name), job, Role.AGGREGATOR),
        "data": {
            key: base64.b64encode(value.encode()).decode()
            for key, value in {**tokens, DIGESTS_FILE: json.dumps(digests)}.items()
        },
    }


def service(job: FederatedTrainingJob) -> Object:
    """Where workers and the operator find the aggregator."""
    name = names.aggregator(job.metadata.name)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, job, Role.AGGREGATOR),
        "spec": {
            "selector": {
                names.LABEL_JOB: job.metadata.name,
                names.LABEL_ROLE: Role.AGGREGATOR.value,
            },
            "ports": [{"name": "http", "port": names.AGGREGATOR_PORT, "targetPort": "http"}],
        },
    }


def rendezvous_service(job: FederatedTrainingJob, participant: str) -> Object:
    """Names for the pods of one participant, before they are ready: torchrun's ranks have to find each other first."""
    name = names.worker(job.metadata.name, participant)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, job, Role.WORKER, participant),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.LABEL_JOB: job.metadata.name, names.LABEL_PARTICIPANT: participant},
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def plan(job: FederatedTrainingJob, namespace: str) -> list[Process]:
    """The launch plan of ``job`` in this cluster."""
    return processes(job, context(job, namespace))


def batch_job(
    job: FederatedTrainingJob, process: Process, settings: Settings, *, labels: Mapping[str, str] | None = None
) -> Object:
    """The Job that runs ``process``. ``labels``: the resource's own (Kueue's are handed on to workers)."""
    name = job.metadata.name
    is_worker = process.role is Role.WORKER
    own = child_name(name, process)
    template = pod_template(job, process, settings, subdomain=own if process.nodes > 1 else None)
    if process.nodes > 1:
        container = template["spec"]["containers"][0]
        container["env"].insert(0, {"name": "PHOTON_RENDEZVOUS", "value": f"{own}-0.{own}"})
    if not is_worker:
        # Another document (rounds added, a participant more) is another aggregator.
        digest = hashlib.sha256(document(job).encode()).hexdigest()
        template["metadata"].setdefault("annotations", {})["photon.dev/job-hash"] = digest
    spec: dict[str, Any] = {
        "completions": process.nodes,
        "parallelism": process.nodes,
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    rules: list[dict[str, Any]] = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [_MISTAKE]}},
    ]
    spec["podFailurePolicy"] = {"rules": rules}
    metadata = _metadata(own, job, process.role, process.participant)
    if is_worker:
        spec |= {"completionMode": "Indexed", "backoffLimitPerIndex": RETRIES, "maxFailedIndexes": 0}
        queue = {key: value for key, value in (labels or {}).items() if key.startswith(names.KUEUE_PREFIX)}
        metadata["labels"] |= queue
        if queue:
            spec["suspend"] = True  # Kueue starts it
    else:
        spec["backoffLimit"] = INIT_RETRIES if process.role is Role.INIT else RETRIES
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def child_name(job: str, process: Process) -> str:
    """Name of the Job that runs ``process``."""
    match process.role:
        case Role.INIT:
            return names.init(job)
        case Role.AGGREGATOR:
            return names.aggregator(job)
        case Role.WORKER:
            assert process.participant is not None
            return names.worker(job, process.participant)


def stamped(child: Object, *, digest: str, owner: Mapping[str, Any], namespace: str) -> Object:
    """``child`` as it is applied: in its namespace, owned by the job, with the ``digest`` of what it depends on.

    With the digest, whoever sees the object knows without asking whether it is what should be.
    """
    metadata = child["metadata"]
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    annotations = {**metadata.get("annotations", {}), names.ANNOTATION_HASH: digest}
    return {
        **child,
        "metadata": {
            **metadata,
            "namespace": namespace,
            "annotations": annotations,
            "ownerReferences": [reference],
        },
    }


def digest_of(child: Object) -> str:
    """sha256 of a desired object."""
    return hashlib.sha256(json.dumps(child, sort_keys=True).encode()).hexdigest()


def _metadata(name: str, job: FederatedTrainingJob, role: Role, participant: str | None = None) -> dict[str, Any]:
    return {"name": name, "labels": names.labels(job.metadata.name, role.value, participant)}

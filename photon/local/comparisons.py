"""Other jobs made of a job: its paths resolved, and the two comparisons that a federation must stand up to.

All are pure and give whole, validated jobs, so the comparisons run through the same code as the federation itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from photon.api.job import FederatedTrainingJob
from photon.api.placement import WorkerSpec
from photon.api.training import ParallelStrategy

CENTRALISED: Final = "centralised"
_MAX_NAME: Final = 40
# The largest resources.gpus and processesPerNode.
_MAX_PROCESSES: Final = 64


def named(name: str, suffix: str) -> str:
    """``<name>-<suffix>``, with ``name`` cut where the whole would be longer than a name may be."""
    return f"{name[: _MAX_NAME - len(suffix) - 1].rstrip('-')}-{suffix}"


def with_absolute_data(job: FederatedTrainingJob, folder: Path) -> FederatedTrainingJob:
    """``job`` with relative data folders resolved against ``folder``, that of the job file. URIs stay as they are."""

    document = _dump(job)
    make_absolute(document, folder)
    return _load(document)


def make_absolute(document: dict[str, Any], folder: Path) -> None:
    """In the document of any job, resolve relative data folders against ``folder``."""

    def absolute(uri: str) -> str:
        return uri if uri.startswith("s3://") else str((folder / Path(uri).expanduser()).resolve())

    for participant in document["spec"]["participants"]:
        data = (participant["worker"] or {}).get("data") or {}
        if data.get("uri"):
            data["uri"] = absolute(data["uri"])
        for source in data.get("sources") or ():
            source["uri"] = absolute(source["uri"])


def with_storage(job: FederatedTrainingJob, *, endpoint: str) -> FederatedTrainingJob:
    """``job`` with the endpoint of its object store filled in."""
    storage = job.spec.storage.model_copy(update={"endpoint": endpoint})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"storage": storage})})


def centralised(job: FederatedTrainingJob) -> FederatedTrainingJob:
    """The same model on all data in one place: as many sequential steps, as many tokens, no federation.

    One participant reads every participant's folder in the order in which that participant would read it; its batch is
    the cohort's batches put together; its cores and GPUs are all of theirs. The merge of one update with FedAvg and
    rate 1 is that update, so the rounds only pace the evaluation.

    Raises:
        ValueError: Data is not here, or the batch cannot be shared evenly.
    """
    workers = _here(job)
    elsewhere = [p.name for p in job.spec.participants if p.worker is None]
    if elsewhere:
        raise ValueError(f"--centralised needs all data here, but {', '.join(elsewhere)} runs elsewhere")
    mixed = [name for name, worker in workers.items() if worker.data.uri is None]
    if mixed:
        raise ValueError(f"--centralised needs one data folder a participant, but {', '.join(mixed)} has data.sources")
    endpoints = {worker.data.endpoint for worker in workers.values()}
    if len(endpoints) > 1:
        raise ValueError("--centralised needs all data at one data.endpoint, but the participants name several")
    batch = job.spec.local.batch_size * job.spec.cohort_size
    if batch % len(workers):
        raise ValueError(
            f"--centralised cannot share a batch of {batch} (local.batchSize x cohort) evenly among {len(workers)} "
            f"participants: make local.batchSize a multiple of {len(workers)}"
        )
    worker = _dump(job)["spec"]["participants"][0]["worker"]
    sources = [{"name": name, "uri": w.data.uri} for name, w in workers.items()]
    worker["data"] = {"sources": sources, "endpoint": endpoints.pop()}
    worker["resources"]["cpus"] = min(1024, sum(w.resources.cpus for w in workers.values()))
    worker["resources"]["memory"] = None
    worker["nodes"] = 1
    devices = _devices(job, batch)
    if devices is not None:
        worker["resources"]["gpus"], worker["processesPerNode"] = devices.processes, None
    document = _one_participant(job, CENTRALISED, CENTRALISED, worker)
    spec = document["spec"]
    spec["local"]["batchSize"] = batch
    if devices is not None:
        strategy = ParallelStrategy.FSDP if devices.processes > 1 else ParallelStrategy.SINGLE
        spec["local"] |= {"microBatchSize": devices.micro_batch, "strategy": strategy.value}
    # A single learner that forgot its moments every few steps would be an unfair baseline.
    spec["local"]["state"] = "Keep"
    return _load(document)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Devices:
    processes: int
    micro_batch: int


def _devices(job: FederatedTrainingJob, batch: int) -> _Devices | None:
    """All GPUs of the participants as one node, as many as can share ``batch`` evenly; a forward pass has as many rows
    on each as it has in the federation. None where there are no GPUs: cores share any batch."""
    local = job.spec.local
    processes = [
        w.nodes * min(w.processes(local.strategy), w.resources.gpus) for w in _here(job).values() if w.resources.gpus
    ]
    if not processes:
        return None
    together = _largest_divisor(batch, min(_MAX_PROCESSES, sum(processes)))
    rows = max(1, (local.micro_batch_size or local.batch_size) // max(processes))
    return _Devices(processes=together, micro_batch=together * _largest_divisor(batch // together, rows))


def _largest_divisor(number: int, limit: int) -> int:
    return next(divisor for divisor in range(min(number, limit), 0, -1) if number % divisor == 0)


def alone(job: FederatedTrainingJob, name: str) -> FederatedTrainingJob:
    """What participant ``name`` gets without the others: its data, its batches, as many steps.

    Raises:
        ValueError: It is not a participant, or its data is elsewhere.
    """
    workers = _here(job)
    if name not in workers:
        raise ValueError(f"--alone {name}: the participants that run here are {', '.join(workers) or 'none'}")
    worker = next(p["worker"] for p in _dump(job)["spec"]["participants"] if p["name"] == name)
    return _load(_one_participant(job, f"alone-{name}", name, worker))


def _here(job: FederatedTrainingJob) -> dict[str, WorkerSpec]:
    return {p.name: p.worker for p in job.spec.participants if p.worker is not None}


def _one_participant(job: FederatedTrainingJob, suffix: str, name: str, worker: dict[str, Any]) -> dict[str, Any]:
    document = _dump(job)
    document["metadata"]["name"] = named(job.metadata.name, suffix)
    spec = document["spec"]
    spec["participants"] = [{"name": name, "worker": worker}]
    spec["participation"].update(cohortSize=None, quorum=None, graceSeconds=None)
    # A participant trusts its own update: nothing to refuse or to compress, and the whole budget is spent.
    spec["exchange"].update(codec="DenseFP32", maxUpdateNorm=None)
    spec["outer"] = {"type": "FedAvg", "learningRate": 1.0}
    spec["stop"] = {}
    return document


def _dump(job: FederatedTrainingJob) -> dict[str, Any]:
    return job.model_dump(mode="json", by_alias=True)


def _load(document: dict[str, Any]) -> FederatedTrainingJob:
    return FederatedTrainingJob.model_validate(document)

"""What of a job its digests are over: a list that stays as it is, whatever later releases add to the document.

A field that a document leaves out counts with the value that this list has for it, not with a release's default, which
may change. **A field that a later release adds gets a pin with ``later``**: while it has the value of its pin it is not
in the digest at all, so that jobs from before it was there keep theirs.

The digests of this list (version 1) are bare. If another list must take its place, its digests begin with ``2:``. A
digest of a version that this operator does not know is never a reason to replace anything (:func:`equal`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from photon.api.base import ApiModel
from photon.api.job import FederatedTrainingJob
from photon.api.placement import AggregatorSpec, SecretRef, StorageSpec, WorkerSpec
from photon.protocol.canonical import digest


@dataclass(frozen=True, slots=True)
class Pin:
    """A field: its value where a document leaves it out (or what that value is, given its neighbors), and the fields
    within it. ``later``: it is not in the digest while it has that value."""

    value: Any = None
    fields: Pins | None = None
    later: bool = False


Pins = Mapping[str, Pin]


def project(given: Mapping[str, Any], pins: Pins) -> dict[str, Any]:
    """The pinned fields of ``given``, which has only what the document states."""
    found = {}
    for name, pin in pins.items():
        usual = pin.value(given) if callable(pin.value) else pin.value
        value = _within(given[name], pin.fields) if name in given else usual
        if not (pin.later and value == usual):
            found[name] = value
    return found


def _within(value: Any, pins: Pins | None) -> Any:
    if pins is None or value is None:
        return value
    return [project(each, pins) for each in value] if isinstance(value, list) else project(value, pins)


def _group(pins: Pins, *, later: bool = False, **others: Any) -> Pin:
    """Fields that a document may leave out together; ``others``: values that then differ from those of ``pins``."""
    return Pin(project({}, pins) | others, pins, later)


def _optional(pins: Pins) -> Pin:
    return Pin(None, pins)


def _plain(**values: Any) -> Pins:
    return {name: Pin(value) for name, value in values.items()}


_OUTER_RATES: Final = {"FedAvg": 1.0, "FedMom": 1.0, "Nesterov": 0.7}


def _outer_rate(given: Mapping[str, Any]) -> float:
    return _OUTER_RATES.get(given.get("type", "FedAvg"), 1e-3)


_TOKENIZER: Final[Pins] = _plain(kind="byte", path=None)
_MODEL: Final[Pins] = {
    **_plain(preset=None, config=None, seed=0),
    "tokenizer": _optional(_TOKENIZER),
    "initFrom": _optional(_plain(uri=None)),
}
_STOP: Final[Pins] = {
    **_plain(tokens=None, targetPerplexity=None, wallClockSeconds=None),
    "plateau": _optional(_plain(evaluations=5, minImprovement=0.0)),
    "divergence": _group(_plain(window=8, factor=6.0, floor=0.2), later=True),
}
_PARTICIPATION: Final[Pins] = {
    **_plain(cohortSize=None, sample="All", quorum=None, roundDeadlineSeconds=3600, whenQuorumLost="Wait"),
    **_plain(graceSeconds=None, weighting="Tokens"),
    "minParticipants": Pin(None, later=True),
}
_LOCAL: Final[Pins] = {
    **_plain(steps=64, batchSize=32, microBatchSize=None, sequenceLength=2048, state="Keep", precision="bf16"),
    **_plain(compile=False, strategy="Single"),
    "learningRate": _group(
        _plain(max=6e-4, schedule="Cosine", warmupSteps=100, totalSteps=None, decaySteps=None, finalFraction=0.1)
    ),
    "optimizer": _group(
        {
            **_plain(beta1=0.9, beta2=0.95, eps=1e-8, weightDecay=0.0, clipNorm=1.0),
            "weightDecayOn": Pin(None, later=True),
        }
    ),
}
_OUTER: Final[Pins] = {
    **_plain(type="FedAvg", momentum=0.9, beta1=0.9, beta2=0.99, eps=1e-3),
    "learningRate": Pin(_outer_rate),
}
_EXCHANGE: Final[Pins] = {
    **_plain(codec="DenseFP32", partBytes=64 * 2**20, maxUpdateNorm=None),
    "clipToMedian": Pin(8.0, later=True),
}
_SECRET: Final[Pins] = _plain(name=None)
_BUCKET: Final[Pins] = {
    **_plain(endpoint=None, bucket="photon", prefix="", region="us-east-1"),
    "retention": _group(_plain(keepLastRounds=None, keepEveryRounds=None)),
}
_STORAGE: Final[Pins] = {
    **_BUCKET,
    "credentialsSecretRef": _optional(_SECRET),
    "deletionPolicy": Pin("Retain"),
}
_DOCUMENT: Final[Pins] = {
    "model": _group(_MODEL),
    "storage": _group(_BUCKET),
    "rounds": Pin(),
    "stop": _group(_STOP),
    "participation": _group(_PARTICIPATION),
    "local": _group(_LOCAL),
    "outer": _group(_OUTER),
    "exchange": _group(_EXCHANGE),
    "evaluation": _group(_plain(everyRounds=1, maxTokens=None, batchSize=None)),
    # In their order; nothing of where they run.
    "participants": Pin([], _plain(name=None)),
}
_RESOURCES: Final[Pins] = _plain(cpus=1, memory=None, gpus=0, gpuResource="nvidia.com/gpu")
_POD: Final[Pins] = {
    "resources": _group(_RESOURCES),
    **_plain(image=None, nodeSelector={}, priorityClassName=None, tolerations=[], podTemplatePatch=None),
    "serviceAccountName": Pin(None, later=True),
}
_AGGREGATOR: Final[Pins] = {**_POD, "resources": _group(_RESOURCES, cpus=2)}
_WORKER: Final[Pins] = {
    **_POD,
    "data": Pin(
        None,
        {
            **_plain(uri=None, endpoint=None),
            "sources": _optional(_plain(name=None, uri=None)),
            "credentialsSecretRef": _optional(_SECRET),
        },
    ),
    # Not its size: a claim may grow below a running pod.
    "workDir": _group(_plain(type="Claim", storageClassName=None, accessMode=None)),
    **_plain(nodes=1, checkpointEverySteps=50),
    "processesPerNode": Pin(None, later=True),
}


def document_digest(job: FederatedTrainingJob) -> str:
    """Digest of what of a job rounds depend on: participants by name, no placement, not whether it is suspended."""
    found = project(_stated(job.spec), _DOCUMENT)
    return digest({**found, "participants": [participant["name"] for participant in found["participants"]]})


def aggregator(spec: AggregatorSpec) -> Any:
    """What of its settings the aggregator's pod depends on."""
    return project(_stated(spec), _AGGREGATOR)


def worker(spec: WorkerSpec) -> Any:
    """What of its settings a worker's pods depend on."""
    return project(_stated(spec), _WORKER)


def storage(spec: StorageSpec) -> Any:
    """What of the storage the Job that deletes a job's data depends on."""
    return project(_stated(spec), _STORAGE)


def secret(reference: SecretRef | None) -> Any:
    """A reference to a Secret."""
    return None if reference is None else project(_stated(reference), _SECRET)


def equal(stored: str | None, own: str) -> bool:
    """Whether a digest that was written down is ``own``; one that another version of the list made counts as equal."""
    return stored == own or (stored is not None and re.fullmatch(r"[1-9][0-9]*:[0-9a-f]+", stored) is not None)


def _stated(model: ApiModel) -> dict[str, Any]:
    """What the document states of a part of it, as JSON data."""
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)

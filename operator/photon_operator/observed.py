"""What the reconciler is given: the world as the operator's caches hold it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from photon.api.status import JobStatus
from photon.launch import Role
from photon_operator import names


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChild:
    """A batch/v1 Job of ours. ``outcome``: None while it runs, else Complete or Failed with reason and message."""

    name: str
    role: Role
    participant: str | None
    digest: str
    suspended: bool
    deleting: bool
    outcome: str | None = None
    reason: str = ""
    message: str = ""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> JobChild:
        """From the object as the API server holds it."""
        metadata, labels = body["metadata"], body["metadata"].get("labels", {})
        ended = [
            condition
            for condition in body.get("status", {}).get("conditions") or []
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
        ]
        last = ended[0] if ended else {}
        return cls(
            name=metadata["name"],
            role=Role(labels[names.LABEL_ROLE]),
            participant=labels.get(names.LABEL_PARTICIPANT),
            digest=metadata.get("annotations", {}).get(names.ANNOTATION_HASH, ""),
            suspended=bool(body.get("spec", {}).get("suspend")),
            deleting=metadata.get("deletionTimestamp") is not None,
            outcome=last.get("type"),
            reason=last.get("reason", ""),
            message=last.get("message", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PodChild:
    """A pod of ours: what of it says how a job fares.

    ``waiting`` and ``terminated`` are of its main container: (reason, message), and with the exit code. ``created`` is
    seconds since the epoch. ``unschedulable`` is the scheduler's message.
    """

    name: str
    role: Role
    participant: str | None
    owner: str
    phase: str
    created: float
    ready: bool = False
    deleting: bool = False
    disrupted: bool = False
    unschedulable: str | None = None
    waiting: tuple[str, str] | None = None
    terminated: tuple[str, str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One job and its children.

    ``body`` is the resource; ``jobs`` and ``pods`` its children by name. ``aggregator`` is the status that the running
    aggregator gave last (None: it did not answer). ``refusals``: why the API server would not make a pod of a Job, by
    the Job's name, or a child itself (under ""). ``now``: seconds since the epoch.
    """

    body: Mapping[str, Any]
    jobs: Mapping[str, JobChild] = field(default_factory=dict)
    pods: Mapping[str, PodChild] = field(default_factory=dict)
    aggregator: JobStatus | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0

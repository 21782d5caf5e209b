"""Names, labels and annotations of everything that the operator makes. One file, so that nothing is spelt twice."""

from __future__ import annotations

import hashlib
from typing import Final

from photon.api.job import GROUP

FIELD_MANAGER: Final = "photon-operator"
MANAGED_BY: Final = "photon-operator"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_JOB: Final = f"{GROUP}/job"
LABEL_ROLE: Final = f"{GROUP}/role"
LABEL_PARTICIPANT: Final = f"{GROUP}/participant"
# sha256 of what of the job a child depends on. Only a change of that replaces running pods: neither an upgrade of the
# operator nor a change of its settings does.
ANNOTATION_HASH: Final = f"{GROUP}/spec-hash"
KUEUE_PREFIX: Final = "kueue.x-k8s.io/"

AGGREGATOR_PORT: Final = 8080
# A pod's host name is its Job's name and its index, and a host name has at most 63 letters.
LONGEST: Final = 57


def child(job: str, suffix: str) -> str:
    """Name of a job's child; one that would be too long ends in a digest instead."""
    name = f"{job}-{suffix}"
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: LONGEST - 9].rstrip('-')}-{digest}"


def config_map(job: str) -> str:
    """The ConfigMap with the job document."""
    return child(job, "job")


def tokens(job: str) -> str:
    """The Secret with the participants' tokens."""
    return child(job, "tokens")


def init(job: str) -> str:
    """The Job that writes round 0."""
    return child(job, "init")


def aggregator(job: str) -> str:
    """The aggregator's Job and Service."""
    return child(job, "aggregator")


def worker(job: str, participant: str) -> str:
    """A participant's Job, and its Service when it has several nodes."""
    return child(job, f"worker-{participant}")


def labels(job: str, role: str, participant: str | None = None) -> dict[str, str]:
    """Labels of a child of ``job``."""
    found = {LABEL_NAME: "photon", LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB: job, LABEL_ROLE: role}
    return found if participant is None else {**found, LABEL_PARTICIPANT: participant}

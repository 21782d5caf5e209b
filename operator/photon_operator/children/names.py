"""Names of children, labels, annotations: derived from the job alone, so that a restarted operator finds its own."""

from __future__ import annotations

import hashlib
from typing import Final

from photon.api.job import GROUP

MANAGER: Final = "photon-operator"

JOB: Final = f"{GROUP}/job"
ROLE: Final = f"{GROUP}/role"
PARTICIPANT: Final = f"{GROUP}/participant"
NAME: Final = "app.kubernetes.io/name"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
# What the operator's watches and lists ask for.
SELECTOR: Final = f"{MANAGED_BY}={MANAGER}"

# sha256 of a child as it was last applied: an equal one costs no request.
APPLIED_HASH: Final = f"{GROUP}/applied-hash"
# sha256 of what of the job a child depends on. Only a change of that replaces running pods: neither an upgrade of the
# operator nor one of its settings does.
SPEC_HASH: Final = f"{GROUP}/spec-hash"
# Rounds that were committed when a child was made: whether it got anywhere.
FROM_ROUND: Final = f"{GROUP}/from-round"

# Of a Job, ROUND:COUNT: pods of it that were stopped by the time that this round was committed (decide/disruptions).
DISRUPTIONS: Final = f"{GROUP}/disruptions"

# At a Job whose pods have been under the NetworkPolicies of their job from the beginning.
RESTRICTED: Final = f"{GROUP}/restricted"

# Keeps a deleted job until what it wrote is deleted too (spec.storage.deletionPolicy); no other job has it.
FINALIZER: Final = f"{GROUP}/data"

# Labels that begin so are Kueue's; they go on to all Jobs of a job, which Kueue then admits.
KUEUE: Final = "kueue.x-k8s.io/"
KUEUE_QUEUE: Final = f"{KUEUE}queue-name"
KUEUE_PRIORITY: Final = f"{KUEUE}priority-class"
# Of a Job: the queue, and the priority in it, that it was made for.
QUEUE: Final = f"{GROUP}/queue"

# The value of spec.managedBy that means this operator.
OURS: Final = f"{GROUP}/operator"

AGGREGATOR_PORT: Final = 8080
METRICS_PORT: Final = 8081

# The key, within the Secret of tokens, of the one for reading the job: its status, its page, its metrics.
READ_TOKEN: Final = "read-token"

# A pod's host name is its Job's name, '-' and its index, and holds 63 characters.
_MAX_JOB_NAME: Final = 58


def config_map(job: str) -> str:
    return f"{job}-job"


def tokens(job: str) -> str:
    return f"{job}-tokens"


def authority(job: str) -> str:
    return f"{job}-ca"


def pods(job: str) -> str:
    return f"{job}-pods"


def init(job: str) -> str:
    return f"{job}-init"


def aggregator(job: str) -> str:
    return f"{job}-aggregator"


def cleanup(job: str) -> str:
    return f"{job}-cleanup"


def worker(job: str, participant: str) -> str:
    """``JOB-worker-PARTICIPANT``; where that is too long, both cut and told apart by a digest of the whole."""
    whole = f"{job}-worker-{participant}"
    if len(whole) <= _MAX_JOB_NAME:
        return whole
    mark = hashlib.sha256(whole.encode()).hexdigest()[:6]
    room = (_MAX_JOB_NAME - len("-worker--") - len(mark)) // 2
    return f"{job[:room].rstrip('-')}-worker-{participant[:room].rstrip('-')}-{mark}"


def token_key(participant: str) -> str:
    """The key of a participant's token within the Secret."""
    return f"{participant}.token"


def labels(job: str, role: str | None = None, participant: str | None = None) -> dict[str, str]:
    """Labels of a child."""
    found = {NAME: "photon", MANAGED_BY: MANAGER, JOB: job}
    if role is not None:
        found[ROLE] = role
    if participant is not None:
        found[PARTICIPANT] = participant
    return found

"""Pods that were stopped where they ran, by their node or a probe: counted, bounded, and said.

A Job does not count them among its failures (``podFailurePolicy``): a node that is short of disk is no fault of the
program. But a program that fills the disk, or does not answer its probe, is stopped again and again; Kubernetes waits
10 s, 20 s, ... up to 10 minutes before the next try. After :data:`BUDGET` in a row that got no further it counts as
failed; a worker's that the quorum can do without is tried on at that pace.
What the cluster takes away elsewhere (preemption, drained and lost nodes) is waited for without end: such pods are
deleted, so they are not among those that are counted here.

A count starts again when the Job got further: a round was committed (of the aggregator's), or has the participant's
update (of a worker's). How many there were by then, the Job remembers in an annotation. ``rounds``: how far it got.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from photon.api.status import ClusterReason
from photon.exit_codes import EXITS_STOPPED
from photon_operator.children import names
from photon_operator.children.kinds import JOB
from photon_operator.decide.observed import ObservedJob, Pod
from photon_operator.decide.plan import Adopt, Plan

# In a row, without getting further; with the pauses between them, most of an hour.
BUDGET: Final = 10
# Fewer are not worth a word.
WORTH_SAYING: Final = 3
REASON: Final = ClusterReason.INTERRUPTED
_EVICTED: Final = "Evicted"
_MARK: Final = re.compile(r"(\d{1,9}):(\d{1,9})")


def count(work: ObservedJob, rounds: int) -> int:
    """How often a pod of this Job was stopped since it last got further; of several nodes, the one with the most."""
    before, counted = _mark(work)
    return max(0, _all(work) - counted) if rounds <= before else 0


def exhausted(work: ObservedJob | None, rounds: int = 0) -> bool:
    """Whether a Job that Kubernetes would try again without end is not to be tried again."""
    return work is not None and not work.ended and not work.deleting and count(work, rounds) >= BUDGET


def last(work: ObservedJob) -> str:
    """How a pod of this Job was last stopped."""
    stopped = [pod for pod in work.pods if _stopped(pod)]
    return _how(stopped[-1]) if stopped else ""


def remember(work: ObservedJob | None, rounds: int) -> Plan:
    """Note how many there were, where a Job got further since."""
    if work is None or work.ended or work.deleting:
        return Plan()
    round_, counted = _mark(work)
    total = _all(work)
    if rounds <= round_ or total <= counted:
        return Plan()
    known = work.job["metadata"].get("annotations") or {}
    metadata = {"annotations": {**known, names.DISRUPTIONS: f"{rounds}:{total}"}}
    return Plan(adopt=(Adopt(kind=JOB, name=work.name, metadata=metadata),))


def sentence(work: ObservedJob, rounds: int) -> str:
    """How often, and how."""
    times = count(work, rounds)
    return f"its pod was stopped {times} times and got no further in between, the last time: {last(work)}"


def _all(work: ObservedJob) -> int:
    return max(Counter(pod.index for pod in work.pods if _stopped(pod)).values(), default=0)


def _mark(work: ObservedJob) -> tuple[int, int]:
    """The round, and how many had been counted by then."""
    written = (work.job["metadata"].get("annotations") or {}).get(names.DISRUPTIONS)
    found = _MARK.fullmatch(written) if isinstance(written, str) else None
    return (int(found[1]), int(found[2])) if found is not None else (work.from_round, 0)


def _stopped(pod: Pod) -> bool:
    if pod.phase != "Failed":
        return False
    if _was_evicted(pod):
        return True
    disrupted = (pod.condition("DisruptionTarget") or {}).get("status") == "True"
    return not disrupted and (pod.terminated or {}).get("exitCode") in EXITS_STOPPED


def _was_evicted(pod: Pod) -> bool:
    return bool(pod.raw.get("status", {}).get("reason") == _EVICTED)


def _how(pod: Pod) -> str:
    if _was_evicted(pod):
        return f"evicted by its node: {pod.raw['status'].get('message') or 'no reason is given'}"
    return "asked to end, as by a liveness probe that failed"

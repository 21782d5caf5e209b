"""Nodes that do not answer: pods that should have ended, and the aggregator that goes on elsewhere.

Kubernetes marks the pods of such a node as deleted, and then waits for its kubelet, which may never answer. No other
pod takes the place of one that has not ended (``podReplacementPolicy: Failed``).

The aggregator and init write under conditions (created if absent), so two at once harm nothing: their pods are deleted
by force. Their Jobs are deleted too, because a Job that exists keeps a pod with its finalizer until a kubelet says how
it ended. A worker's pod is left alone: on a node that is only cut off it still writes to its volume, which another one
would then mount as well. A person who knows that the node is gone says so to Kubernetes, which then lets go of both.
"""

from __future__ import annotations

from typing import Final

from photon.launch import Role
from photon_operator.children import names
from photon_operator.children.kinds import JOB, POD
from photon_operator.decide.observed import ObservedJob, Pod, seconds
from photon_operator.decide.plan import Delete, Plan, joined

# After the time that a pod was given to end: a kubelet that is only slow has ended it by then.
MARGIN_SECONDS: Final = 60.0


def lost(work: ObservedJob, now: float) -> Pod | None:
    """A pod of a Job that should have ended, and whose node does not say that it did."""
    return next((pod for pod in work.pods if _left(pod, now) == 0), None)


def sentence(pod: Pod) -> str:
    """What is known of it, and for a worker's pod, which is left alone, what to do."""
    metadata, node = pod.raw["metadata"], (pod.raw.get("spec") or {}).get("nodeName") or "of its pod"
    said = f"the node {node} does not answer: the pod {pod.name} should have ended by {metadata['deletionTimestamp']}"
    if (metadata.get("labels") or {}).get(names.ROLE) != Role.WORKER:
        return said
    return f"{said}; if the node is gone for good, 'kubectl delete node {node}' lets the worker start elsewhere"


def release(work: ObservedJob | None, now: float) -> Plan:
    """Let go of the pods of a Job that may run twice."""
    if work is None:
        return Plan()
    gone = [pod for pod in work.pods if _left(pod, now) == 0]
    forced = (pod for pod in gone if pod.raw["metadata"].get("deletionGracePeriodSeconds") != 0)
    deletes = [Delete(kind=POD, name=pod.name, uid=pod.uid, force=True) for pod in forced]
    if gone and not work.deleting:
        deletes.insert(0, Delete(kind=JOB, name=work.name, uid=work.uid))
    return Plan(delete=tuple(deletes))


def patience(work: ObservedJob, now: float) -> Plan:
    """When to look again at pods that are to end."""
    times = (_left(pod, now) for pod in work.pods)
    return joined(Plan(again_in_seconds=left) for left in times if left)


def _left(pod: Pod, now: float) -> float | None:
    """Until its node counts as lost; None of a pod that has ended, or is not to."""
    by = seconds(pod.raw["metadata"].get("deletionTimestamp"))
    if by is None or pod.phase in ("Succeeded", "Failed"):
        return None
    return max(0.0, by + MARGIN_SECONDS - now)

"""Why a pod does not work, in one named reason and one sentence: what a person would find out with kubectl describe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from photon.api.status import ClusterReason, JobReason
from photon.api.text import printable
from photon.exit_codes import EXIT_JOB_FAILED, EXIT_USER_ERROR, EXITS_STOPPED
from photon_operator.decide import containers, disruptions, nodes
from photon_operator.decide.containers import Helper
from photon_operator.decide.observed import ObservedJob, Pod
from photon_operator.decide.reasons import CLUSTER_REASONS

# How long creating a pod or a container may take before its events are read for the reason.
PATIENCE_SECONDS: Final = 10.0
_LONGEST: Final = 600

# What an exit code says of a program that left no record.
_UNSAID: Final[Mapping[int, ClusterReason]] = {EXIT_USER_ERROR: ClusterReason.INVALID_CONFIGURATION}

_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
# What the scheduler says of pods that it would have to evict, after what is lacking.
_PREEMPTION: Final = re.compile(r"\.?( no new claims to deallocate,)? preemption: .*", re.DOTALL)
# Of the message of a container whose image cannot be pulled: all but the image and the cause.
_PULLING: Final = re.compile(
    r'(Back-off pulling image "[^"]*"|ErrImagePull|failed to pull and unpack image "[^"]*"'
    r'|failed to resolve reference "[^"]*"|failed to do request)(: |$)'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A reason and what is behind it, for people. ``participant``: whose it is, where it is told of the job."""

    reason: ClusterReason | JobReason
    message: str
    participant: str | None = None

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}" if self.message else self.reason.value

    def of(self, who: str) -> Diagnosis:
        """The same, of a participant or another part of the job."""
        return Diagnosis(reason=self.reason, message=f"{who}: {self.message}" if self.message else who)


def diagnose(
    work: ObservedJob, warnings: Mapping[str, str], *, heard: bool = False, rounds: int = 0, now: float = 0.0
) -> Diagnosis | None:
    """What keeps a Job from working now; None when nothing does, as far as Kubernetes says.

    ``heard``: its program is known to be at work. Until then, what made one try fail holds for the next.
    ``rounds``: how far it got.
    """
    gone = nodes.lost(work, now) if not heard else None
    if gone is not None:
        return Diagnosis(reason=ClusterReason.NODE_LOST, message=_short(nodes.sentence(gone)))
    if work.complete or work.deleting:
        return None
    if work.failed is not None:
        return _ended(work)
    if work.suspended:
        return Diagnosis(reason=ClusterReason.QUEUED, message="waits in its queue: Kueue has not admitted it")
    newest = work.newest
    if newest is None:
        said = warnings.get(work.uid)
        return Diagnosis(reason=ClusterReason.POD_REFUSED, message=_short(said)) if said else None
    found = diagnose_pod(newest, warnings)
    if found is not None and found.reason is not ClusterReason.INTERRUPTED and not disruptions.exhausted(work, rounds):
        return found
    if disruptions.count(work, rounds) >= disruptions.WORTH_SAYING:
        return Diagnosis(reason=disruptions.REASON, message=_short(disruptions.sentence(work, rounds)))
    return found or (None if heard else _try_before(work))


def diagnose_pod(pod: Pod, warnings: Mapping[str, str]) -> Diagnosis | None:
    """What keeps one pod from working, or made it fail."""
    scheduled = pod.condition("PodScheduled")
    if pod.phase == "Pending" and scheduled is not None and scheduled.get("status") == "False":
        gated = scheduled.get("reason") == "SchedulingGated"
        reason = ClusterReason.QUEUED if gated else ClusterReason.UNSCHEDULABLE
        return Diagnosis(reason=reason, message=_short(_PREEMPTION.sub("", str(scheduled.get("message", "")))))
    waiting = pod.container.get("waiting")
    if waiting is not None and (found := _waiting(pod.image, waiting)):
        return found
    if pod.phase in ("Pending", "Running") and (found := _held_up(pod)):
        return found
    if pod.phase == "Pending" and (said := warnings.get(pod.uid)):
        return Diagnosis(reason=ClusterReason.POD_REFUSED, message=_short(said))
    if pod.phase == "Failed" or pod.terminated is not None:
        return _terminated(pod)
    return None


def job_failed(work: ObservedJob) -> bool:
    """Whether a Job ended with its program's word that the job itself has failed, which no restart changes."""
    last = _last_ended(work)
    return last is not None and last.terminated is not None and last.terminated.get("exitCode") == EXIT_JOB_FAILED


def stuck(work: ObservedJob, now: float) -> list[str]:
    """Uids of which only events can say why nothing happens: of a Job without pods, of a pod that is not set up."""
    if work.ended or work.suspended or work.deleting:
        return []
    newest = work.newest
    if newest is None:
        return [work.uid] if now - work.created_at >= PATIENCE_SECONDS else []
    waiting = newest.container.get("waiting") or {}
    slow = newest.phase == "Pending" and waiting.get("reason") in (None, "ContainerCreating", "PodInitializing")
    unscheduled = (newest.condition("PodScheduled") or {}).get("status") == "False"
    return [newest.uid] if slow and not unscheduled and now - newest.created_at >= PATIENCE_SECONDS else []


def _try_before(work: ObservedJob) -> Diagnosis | None:
    """How the pod failed that the newest takes the place of."""
    newest = work.pods[-1]
    before = next((pod for pod in reversed(work.pods[:-1]) if pod.index == newest.index), None)
    if before is None or before.phase != "Failed":
        return None
    found = _terminated(before)
    return None if found is None or found.reason is ClusterReason.INTERRUPTED else found


def _held_up(pod: Pod) -> Diagnosis | None:
    """What another container of a pod waits for, while our program waits for it."""
    for helper in containers.helpers(pod.raw) if "running" not in pod.container else ():
        if helper.waiting is None:
            continue
        if found := _waiting(helper.image, helper.waiting):
            return found.of(helper.title)
        if helper.failed:  # it is started again and again
            return _of_helper(helper)
    return None


def _of_helper(helper: Helper) -> Diagnosis:
    """How a container failed that is not ours."""
    ended = helper.ended or {}
    code = ended.get("exitCode")
    if code in EXITS_STOPPED:
        return Diagnosis(reason=ClusterReason.INTERRUPTED, message=f"{helper.title} was asked to end")
    if ended.get("reason") == "OOMKilled":
        message = f"{helper.title} was killed for using more memory than its limit"
        return Diagnosis(reason=ClusterReason.OUT_OF_MEMORY, message=message)
    reason = ClusterReason.INIT_CONTAINER_FAILED if helper.init else ClusterReason.PROGRAM_FAILED
    said = _last_line(str(ended.get("message") or ""))
    message = f"{helper.title} ended with exit code {code}" + (f": {said}" if said else "")
    return Diagnosis(reason=reason, message=_short(message))


def _waiting(image: str, waiting: Mapping[str, Any]) -> Diagnosis | None:
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message") or "")
    if reason in _IMAGE:
        return Diagnosis(reason=ClusterReason.IMAGE_UNAVAILABLE, message=_short(_no_image(image, message or reason)))
    if reason == "CreateContainerConfigError":
        missing = message.startswith("secret ") and message.endswith(" not found")
        hint = ": the job's namespace must have a Secret of this name" if missing else ""
        return Diagnosis(reason=ClusterReason.SECRET_MISSING, message=_short(message + hint))
    if reason in ("CreateContainerError", "RunContainerError"):
        return Diagnosis(reason=ClusterReason.POD_REFUSED, message=_short(message or reason))
    return None


def _no_image(image: str, said: str) -> str:
    """The kubelet and containerd name the image once in each of their layers, and the cause at the very end."""
    cause = _PULLING.sub("", said)
    cause = cause.removeprefix(f"{image}: ")
    return f"the image {image} cannot be pulled" + (f": {cause}" if cause else "")


def _ended(work: ObservedJob) -> Diagnosis:
    """Of a Job that failed for good: how its last pod failed, and that it is not tried again."""
    failed = work.failed or {}
    last = _last_ended(work)
    found = _terminated(last) if last is not None else None
    if found is None:
        return Diagnosis(reason=ClusterReason.PROGRAM_FAILED, message=_short(str(failed.get("message", ""))))
    if found.reason is ClusterReason.INVALID_CONFIGURATION:
        return found
    tries = sum(1 for pod in work.pods if pod.phase == "Failed")
    return Diagnosis(
        reason=found.reason, message=f"{found.message} (failed {tries} times)" if tries > 1 else found.message
    )


def _last_ended(work: ObservedJob) -> Pod | None:
    return next((pod for pod in reversed(work.pods) if pod.phase == "Failed" or pod.terminated is not None), None)


def _terminated(pod: Pod) -> Diagnosis | None:
    disrupted = pod.condition("DisruptionTarget")
    if disrupted is not None and disrupted.get("status") == "True":
        why = str(disrupted.get("message") or disrupted.get("reason") or "")
        return Diagnosis(reason=ClusterReason.INTERRUPTED, message=_short(f"its pod was taken away: {why}"))
    end, status = pod.terminated, pod.raw.get("status", {})
    other = containers.failed(pod.raw)
    if end is None and other is not None and not status.get("reason"):
        return _of_helper(other)
    if end is None:  # the pod failed as a whole: evicted, or its node is gone
        return Diagnosis(
            reason=ClusterReason.INTERRUPTED, message=_short(str(status.get("message") or status.get("reason") or ""))
        )
    code = int(end.get("exitCode", 0))
    if end.get("reason") == "OOMKilled":
        return Diagnosis(
            reason=ClusterReason.OUT_OF_MEMORY,
            message=f"killed for using more memory than its limit ({_memory_limit(pod)}); raise resources.memory",
        )
    if code == 0:
        return _of_helper(other) if other is not None and pod.phase == "Failed" else None
    if code in EXITS_STOPPED:
        return Diagnosis(reason=ClusterReason.INTERRUPTED, message="it was asked to end")
    record = pod.termination
    reason = reason_of(record.reason) if record is not None else _UNSAID.get(code, ClusterReason.PROGRAM_FAILED)
    message = record.message if record is not None else _last_line(pod.termination_message)
    return Diagnosis(reason=reason, message=_short(message or f"exit code {code}"))


def reason_of(text: str) -> ClusterReason | JobReason:
    """The reason that a condition or a record names; one that is not known here counts as a program's failure."""
    try:
        return ClusterReason(text) if text in CLUSTER_REASONS else JobReason(text)
    except ValueError:
        return ClusterReason.PROGRAM_FAILED


def _last_line(words: str) -> str:
    """Of a program that left no record (it was killed, or is of an earlier release): how its log ends."""
    return next((line for line in reversed(words.splitlines()) if line.strip()), "")


def _memory_limit(pod: Pod) -> str:
    for container in pod.raw.get("spec", {}).get("containers") or ():
        limit = (container.get("resources") or {}).get("limits", {}).get("memory")
        if limit is not None:
            return str(limit)
    return "that of its node"


def _short(text: str) -> str:
    return printable(" ".join(text.split()), _LONGEST)

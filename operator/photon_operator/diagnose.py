"""Why a job's pods do not work, in words that say what to mend. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from photon.api.status import JobReason
from photon.launch import Role
from photon_operator.observed import JobChild, PodChild

_PULL: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
LONGEST: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """``role`` and ``participant`` say whose; ``fatal``: Kubernetes has given up, nothing more will be tried."""

    role: Role
    participant: str | None
    reason: JobReason
    message: str
    fatal: bool = False

    @property
    def who(self) -> str:
        """For a sentence about several."""
        return f"worker {self.participant}" if self.participant is not None else self.role.value


def problems(
    jobs: Iterable[JobChild], pods: Iterable[PodChild], refusals: Mapping[str, str] | None = None
) -> list[Problem]:
    """What is wrong now, at most one problem a child, the aggregator's first. ``refusals``: see Observed."""
    refusals = refusals or {}
    pods = sorted(pods, key=lambda pod: pod.created)
    found: list[Problem] = []
    if "" in refusals:
        said = _short(refusals[""])
        found.append(Problem(role=Role.INIT, participant=None, reason=JobReason.CONFIGURATION_FAILED, message=said))
    for job in sorted(jobs, key=lambda job: (job.role is Role.WORKER, job.name)):
        if job.deleting or job.outcome == "Complete":
            continue
        mine = [pod for pod in pods if pod.owner == job.name]
        problem = _failed(job, mine) if job.outcome == "Failed" else _of_pods(job, mine)
        if problem is None and job.name in refusals:
            problem = Problem(
                role=job.role,
                participant=job.participant,
                reason=JobReason.CONFIGURATION_FAILED,
                message=_short(refusals[job.name]),
            )
        if problem is not None:
            found.append(problem)
    return found


def _failed(job: JobChild, pods: list[PodChild]) -> Problem:
    last = next((pod for pod in reversed(pods) if pod.terminated is not None and pod.terminated[2] != 0), None)
    ended = _ended(last) if last is not None else None
    reason = ended[0] if ended is not None else JobReason.PROGRAM_FAILED
    said = ended[1] if ended is not None else job.message
    return Problem(
        role=job.role,
        participant=job.participant,
        reason=reason,
        message=_short(said or job.reason),
        fatal=True,
    )


def _of_pods(job: JobChild, pods: list[PodChild]) -> Problem | None:
    """Of the newest pods: one that runs is well, whatever came before it."""
    for pod in reversed(pods):
        if pod.deleting:
            continue
        reason: JobReason | None = None
        message = ""
        if pod.unschedulable is not None:
            reason, message = JobReason.UNSCHEDULABLE, pod.unschedulable
        elif pod.waiting is not None and pod.waiting[0] in _PULL:
            reason, message = JobReason.IMAGE_PULL_FAILED, pod.waiting[1] or pod.waiting[0]
        elif pod.waiting is not None and pod.waiting[0] in _CONFIG:
            reason, message = JobReason.CONFIGURATION_FAILED, pod.waiting[1] or pod.waiting[0]
        elif pod.phase == "Running" or (pod.phase == "Pending" and pod.terminated is None):
            return None
        elif pod.phase == "Failed" and not pod.disrupted and (ended := _ended(pod)) is not None:
            reason, message = ended
        if reason is not None:
            return Problem(role=job.role, participant=job.participant, reason=reason, message=_short(message))
    return None


def _ended(pod: PodChild) -> tuple[JobReason, str] | None:
    if pod.terminated is None:
        return None
    reason, message, code = pod.terminated
    if reason == "OOMKilled":
        return JobReason.OUT_OF_MEMORY, "killed for lack of memory: raise resources.memory"
    if code == 0:
        return None
    lines = [line for line in message.strip().splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith("error:")), lines[-1] if lines else "")
    return JobReason.PROGRAM_FAILED, said.removeprefix("error:").strip() or f"exit code {code}"


def _short(message: str) -> str:
    return message if len(message) <= LONGEST else f"{message[: LONGEST - 1]}…"

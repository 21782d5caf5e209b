"""Where this institution stands now: written by what speaks with the hub, read by status, metrics and the program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock

from photon.api.status import ConditionType, JoinReason, MemberState, ParticipantState
from photon.protocol.border import ParticipantView
from photon.protocol.messages import FinishTask, JobForWorkers, Progress


@dataclass(slots=True, kw_only=True)
class Standing:
    """``now``: seconds since the epoch, for people. Fields are replaced as a whole; counts are taken under a lock."""

    now: Callable[[], float]
    reason: str = JoinReason.ENROLLING.value
    message: str = "asking the hub"
    member: MemberState = MemberState.INVITED
    job: JobForWorkers | None = None
    view: ParticipantView | None = None
    up: bool = False
    last_contact: float | None = None
    progress: Progress | None = None
    worker_seen: float | None = None
    finish: FinishTask | None = None
    finish_read: bool = False
    accepted: int = 0
    refused: int = 0
    tokens: int = 0
    last_round: int | None = None
    last_commit: str | None = None
    committed: int = 0
    policy_refused: bool = False
    closed_hours: bool = False
    failure: Exception | None = None
    wake: Event = field(default_factory=Event)
    refusals: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)

    @property
    def ready(self) -> bool:
        """Whether workers are served: a member, of a job that the policy allows."""
        return self.job is not None and self.member is MemberState.ACTIVE

    def heard(self) -> None:
        """The hub has answered."""
        self.up, self.last_contact = True, self.now()

    def is_at(self, reason: str, message: str = "") -> None:
        """What this institution is at, or waits for."""
        self.reason, self.message = reason, message

    def away(self, error: Exception) -> None:
        """The hub does not answer."""
        self.up = False
        with self._lock:
            self.failures[getattr(error, "where", "Away")] += 1
        self.is_at(JoinReason.HUB_UNREACHABLE.value, str(error))

    def refusal(self, reason: str) -> None:
        """Count something that did not cross."""
        with self._lock:
            self.refusals[reason] += 1

    def crossed(self, direction: str, kind: str, count: int) -> None:
        """Count bytes that did."""
        with self._lock:
            self.bytes[direction, kind] += count

    def fails(self, error: Exception) -> None:
        """The gate cannot go on; the first error says why."""
        with self._lock:
            self.failure = self.failure or error
        self.wake.set()

    def ends(self, task: FinishTask) -> None:
        """The job has ended, as the hub signed."""
        self.finish = task
        self.is_at(task.reason, task.message)
        self.wake.set()

    @property
    def condition(self) -> ConditionType:
        """What of a job is true here."""
        if self.failure is not None:
            reason = getattr(self.failure, "reason", None)
            return ConditionType.COMPLETE if reason is JoinReason.LEFT else ConditionType.FAILED
        if self.finish is not None:
            return ConditionType.FAILED if self.finish.failed else ConditionType.COMPLETE
        if self.closed_hours:
            return ConditionType.SUSPENDED
        return ConditionType.RUNNING if self.ready else ConditionType.PENDING

    @property
    def doing(self) -> ParticipantState:
        """What the worker is at."""
        if self.progress is None or not self.ready:
            return ParticipantState.IDLE if self.worker_seen is not None else ParticipantState.ABSENT
        return _BY_PHASE.get(self.progress.phase, ParticipantState.IDLE)


_BY_PHASE = {
    "pull": ParticipantState.PULLING,
    "train": ParticipantState.TRAINING,
    "encode": ParticipantState.PUSHING,
    "push": ParticipantState.PUSHING,
    "admit": ParticipantState.CHECKING,
    "evaluate": ParticipantState.EVALUATING,
}

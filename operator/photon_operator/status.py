"""The status of the resource: the aggregator's figures, and what only Kubernetes knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from photon.api.job import FederatedTrainingJob
from photon.api.status import Condition, ConditionType, JobReason, JobStatus, ParticipantStatus
from photon.launch import Role
from photon_operator.diagnose import Problem
from photon_operator.outcome import Ending

_WARNINGS: Final = frozenset(
    {
        JobReason.UNSCHEDULABLE,
        JobReason.IMAGE_PULL_FAILED,
        JobReason.CONFIGURATION_FAILED,
        JobReason.OUT_OF_MEMORY,
        JobReason.PROGRAM_FAILED,
        JobReason.INVALID_SPEC,
        JobReason.QUORUM_LOST,
        JobReason.STORAGE_FAILED,
        JobReason.MERGE_FAILED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the status is made from. ``invalid``: why the spec cannot run. ``live``: the aggregator's answer."""

    invalid: str | None = None
    suspend: bool = False
    ending: Ending | None = None
    problems: tuple[Problem, ...] = ()
    initialised: bool = False
    aggregating: bool = False
    live: JobStatus | None = None
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """For ``kubectl describe``: ``kind`` is Normal or Warning."""

    kind: str
    reason: str
    message: str


def status_of(
    situation: Situation,
    previous: JobStatus | None,
    *,
    job: FederatedTrainingJob | None,
    generation: int,
    now: float,
) -> JobStatus:
    """The status to show; times of conditions that did not flip are kept."""
    figures = (
        (situation.ending.status if situation.ending is not None else situation.live)
        or previous
        or JobStatus.model_validate({})
    )
    if situation.ending is not None and not figures.participants and previous is not None:
        # An aggregator's last words have no room for its participants.
        figures = figures.model_copy(update={"participants": previous.participants})
    people = _participants(figures, situation, job)
    told = _conditions(situation)
    return figures.model_copy(
        update={
            "observed_generation": generation,
            "conditions": [_dated(condition, previous, generation, now) for condition in told],
            "participants": people,
            "participants_present": sum(person.state != "Absent" for person in people),
            "rounds": job.spec.rounds if job is not None else figures.rounds,
            "eta_seconds": None if figures.eta_seconds is None else float(round(figures.eta_seconds)),
        }
    )


def _conditions(situation: Situation) -> list[tuple[ConditionType, str, JobReason, str]]:
    running, reason, message = _running(situation)
    ending = situation.ending
    fatal = _fatal(situation)
    found = [(ConditionType.RUNNING, "True" if running else "False", reason, message)]
    for kind in (ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.SUSPENDED):
        holds = ending is not None and ending.condition.type == kind
        holds = holds or (kind is ConditionType.FAILED and fatal)
        holds = holds or (kind is ConditionType.SUSPENDED and reason is JobReason.SUSPENDED)
        found.append((kind, "True" if holds else "False", reason, message if holds else ""))
    return found


def _fatal(situation: Situation) -> bool:
    if situation.invalid is not None:
        return True
    core = [problem for problem in situation.problems if problem.role is not Role.WORKER]
    return situation.ending is None and any(problem.fatal for problem in core)


def _running(situation: Situation) -> tuple[bool, JobReason, str]:
    """Whether it runs, and why (not)."""
    if situation.invalid is not None:
        return False, JobReason.INVALID_SPEC, situation.invalid
    ending = situation.ending
    if ending is not None and not (ending.suspended and not situation.suspend):
        return False, JobReason(ending.condition.reason), ending.condition.message
    core = next((problem for problem in situation.problems if problem.role is not Role.WORKER), None)
    if core is not None:
        return False, core.reason, f"{core.who}: {core.message}"
    blocked = [problem for problem in situation.problems if problem.role is Role.WORKER]
    message = _blocked(blocked, situation.workers)
    if blocked and len(blocked) == situation.workers:
        return False, blocked[0].reason, message
    live = situation.live
    if live is not None and situation.aggregating:
        condition = next(c for c in live.conditions if c.type == ConditionType.RUNNING)
        return condition.status == "True", JobReason(condition.reason), condition.message or message
    if situation.suspend and not situation.aggregating and not situation.initialised:
        return False, JobReason.SUSPENDED, ""
    if not situation.initialised:
        return False, JobReason.WAITING_FOR_INIT, message or "the initial model is being made"
    return False, JobReason.STARTING, message or "the aggregator is starting"


def _blocked(blocked: list[Problem], workers: int) -> str:
    if not blocked:
        return ""
    first = blocked[0]
    if len(blocked) == 1:
        return f"{first.who}: {first.message}"
    return f"{len(blocked)} of {workers} workers do not run; {first.who}: {first.message}"


def _participants(
    figures: JobStatus, situation: Situation, job: FederatedTrainingJob | None
) -> list[ParticipantStatus]:
    known = {person.name: person for person in figures.participants}
    wanted = [participant.name for participant in job.spec.participants] if job is not None else list(known)
    why = {problem.participant: f"{problem.reason}: {problem.message}" for problem in situation.problems}
    people = []
    for name in wanted:
        # Seconds since its last word would make every status another one.
        person = known.get(name, ParticipantStatus(name=name)).model_copy(update={"last_seen_seconds": None})
        if name in why:
            person = person.model_copy(update={"message": why[name]})
        people.append(person)
    return people


def _dated(
    told: tuple[ConditionType, str, JobReason, str], previous: JobStatus | None, generation: int, now: float
) -> Condition:
    kind, status, reason, message = told
    old = next((c for c in previous.conditions if c.type == kind), None) if previous is not None else None
    same = old is not None and old.status == status
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Condition(
        type=kind.value,
        status=status,
        reason=reason.value,
        message=message[:1024],
        last_transition_time=old.last_transition_time if same and old is not None else stamp,
        observed_generation=generation,
    )


def events_between(previous: JobStatus | None, status: JobStatus) -> tuple[Event, ...]:
    """What a person reading the events should be told."""
    old = {c.type: c for c in previous.conditions} if previous is not None else {}
    found: list[Event] = []
    for condition in status.conditions:
        before = old.get(condition.type)
        flipped = before is None or before.status != condition.status
        running = condition.type == ConditionType.RUNNING
        troubled = running and condition.reason in _WARNINGS and (before is None or before.reason != condition.reason)
        if condition.status == "True" and flipped:
            kind = "Warning" if condition.type == ConditionType.FAILED else "Normal"
            text = condition.message or (f"round {status.round} of {status.rounds}" if running else condition.reason)
            found.append(Event(kind=kind, reason=condition.type, message=text))
        elif troubled:
            found.append(Event(kind="Warning", reason=condition.reason, message=condition.message))
    ended = {event.reason for event in found} & {"Failed"}
    return tuple(event for event in found if not (ended and event.reason in _WARNINGS))

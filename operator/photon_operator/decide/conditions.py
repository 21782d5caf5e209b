"""The job's status: one condition that holds, the aggregator's latest figures, and each participant's diagnosis."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from photon.api.job import FederatedTrainingJob
from photon.api.status import (
    ClusterReason,
    Condition,
    ConditionType,
    JobStatus,
    ParticipantState,
    ParticipantStatus,
    read_status,
)
from photon.protocol.termination import last_status
from photon_operator.children.kinds import Object
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import timestamp
from photon_operator.decide.plan import KubeEvent
from photon_operator.decide.readiness import readiness
from photon_operator.decide.reasons import (
    AT_WORK,
    CLUSTER_REASONS,
    EVENT_MESSAGES,
    FINISHED,
    NOT_APPLIED,
    UNDECIDED,
    WARNINGS,
)

# Of a status: what decisions depend on.
_STANDING: Final = (
    *("observedGeneration", "conditions", "committedRounds", "documentDigest"),
    *("startTime", "observedRetry"),
)
_MESSAGE: Final = 1024
# Of a figure, significant: exact ones are in the bucket and in Prometheus.
DIGITS: Final = 5
# Of one kind, in one step; beyond that there is one, which shows the first.
MOST_EVENTS: Final = 8
_SHOWN_EVENTS: Final = 4


def stored_status(job: Object) -> JobStatus:
    """The status that the job has, without what a later release has put there; empty where nothing is understood."""
    raw: Mapping[str, Any] = job.get("status") or {}
    for status in (raw, {name: raw[name] for name in _STANDING if name in raw}):
        try:
            return read_status(status)
        except ValidationError:
            continue
    return JobStatus.model_validate({})


def finite(status: JobStatus) -> JobStatus:
    """``status`` without what has no JSON (a diverged loss) and what only a clock changes, in digits for people."""
    fields = ("train_loss", "validation_loss", "validation_perplexity", "eta_seconds")
    people = [
        person.model_copy(
            update={
                "last_seen_seconds": None,
                **_finite(person, ("loss", "perplexity", "tokens_per_second", "learning_rate", "mfu")),
            }
        )
        for person in status.participants
    ]
    return status.model_copy(update={"participants": people, **_finite(status, fields)})


def _finite(model: JobStatus | ParticipantStatus, fields: Sequence[str]) -> dict[str, float | None]:
    values = {name: getattr(model, name) for name in fields}
    return {
        name: float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None
        for name, value in values.items()
    }


def parse_answer(text: str | bytes) -> JobStatus | None:
    """What an aggregator answers of itself; None when it is something else."""
    try:
        return _said(read_status(from_json(text)))  # it refuses what is nested without end
    except ValueError:
        return None


def parse_last(text: str) -> JobStatus | None:
    """What an aggregator said of itself at its end, in its termination message; None when it says nothing there."""
    return _said(last_status(text))


def _said(status: JobStatus | None) -> JobStatus | None:
    return finite(status) if status is not None and status.conditions else None


def holding(status: JobStatus) -> Condition | None:
    """The job's condition that is true."""
    own = set(ConditionType)
    return next((c for c in status.conditions if c.status == "True" and c.type in own), None)


def finished(status: JobStatus) -> Condition | None:
    """The condition that says that the job has ended."""
    found = holding(status)
    return found if found is not None and found.type in FINISHED else None


def edit_refused(status: JobStatus) -> bool:
    """Whether the last edit that was seen could not be, so that the status is not of the document as it is."""
    found = holding(status)
    return found is not None and (found.reason == ClusterReason.INVALID_SPEC or NOT_APPLIED in found.message)


def seen(status: JobStatus, generation: int) -> bool:
    """Whether the status is of the document as it is: it was not edited since."""
    known = status.document_digest is not None and status.observed_generation == generation
    return known and not edit_refused(status)


def ended_as_before(status: JobStatus, generation: int, problem: str | None = None) -> JobStatus:
    """The status of a job that has ended, after an edit that changes nothing, or that cannot be: ``problem``."""
    conditions, holds = [], holding(status)
    for each in status.conditions:
        message = each.message.partition(NOT_APPLIED)[0]
        if problem is not None and each is holds:
            message = f"{message[: _MESSAGE // 2]}{NOT_APPLIED}{problem}"[:_MESSAGE]
        conditions.append(each.model_copy(update={"message": message, "observed_generation": generation}))
    return status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def since(status: JobStatus, kind: ConditionType) -> str | None:
    """When the condition of this type last changed."""
    return next((c.last_transition_time for c in status.conditions if c.type == kind), None)


def with_condition(
    figures: JobStatus, before: JobStatus, kind: ConditionType, why: Diagnosis, *, now: float, generation: int
) -> JobStatus:
    """``figures`` with ``kind`` as the one condition that holds, beside those that once held and what follows for tools
    that know no jobs."""
    conditions = []
    for each in ConditionType:
        known = next((c for c in before.conditions if c.type == each), None)
        if known is None and each is not kind:
            continue
        value = "True" if each is kind else "False"
        flipped = known is None or known.status != value
        conditions.append(
            Condition(
                type=each.value,
                status=value,
                # Of one that no longer holds: what took its place.
                reason=why.reason.value if each is kind else kind.value,
                message=why.message[:_MESSAGE] if each is kind else "",
                last_transition_time=timestamp(now) if flipped or known is None else known.last_transition_time,
                observed_generation=generation,
            )
        )
    holds = next(c for c in conditions if c.type == kind)
    conditions += readiness(holds, before.conditions, timestamp(now))
    return figures.model_copy(update={"conditions": conditions, "observed_generation": generation})


def with_participants(
    figures: JobStatus, job: FederatedTrainingJob, diagnoses: Mapping[str, Diagnosis], *, aggregating: bool
) -> JobStatus:
    """``figures`` with exactly the job's participants, each with its diagnosis.

    ``aggregating``: an aggregator is there; without one no participant is present.
    """
    known = {person.name: person for person in figures.participants}
    people = []
    for participant in job.spec.participants:
        person = known.get(participant.name) or ParticipantStatus(name=participant.name)
        if not aggregating:
            person = person.model_copy(update={"state": ParticipantState.ABSENT, "in_cohort": False})
        absent = person.state is ParticipantState.ABSENT
        found = diagnoses.get(participant.name)
        if found is not None and absent:
            person = person.model_copy(update={"reason": found.reason.value, "message": found.message[:_MESSAGE]})
        elif named_diagnosis(person) or (absent and not aggregating):
            person = person.model_copy(update={"reason": None, "message": ""})
        people.append(person)
    present = sum(person.state is not ParticipantState.ABSENT for person in people)
    return figures.model_copy(update={"participants": people, "participants_present": present})


def named_diagnosis(person: ParticipantStatus) -> str | None:
    """The reason of a participant's diagnosis, where it is the operator's."""
    return person.reason if person.reason in CLUSTER_REASONS else None


def same(one: JobStatus, other: JobStatus) -> bool:
    """Whether they say the same; how long it will take is no news of its own."""
    update = {"eta_seconds": None}
    return one.model_copy(update=update) == other.model_copy(update=update)


def same_standing(one: JobStatus, other: JobStatus) -> bool:
    """Whether they differ in nothing that people wait for, and in figures at most."""
    return _awaited(one) == _awaited(other)


def _awaited(status: JobStatus) -> tuple[object, ...]:
    return (
        *(status.observed_generation, status.document_digest, status.rounds, status.round, status.committed_rounds),
        *(status.observed_retry, status.start_time),
        *((c.type, c.status, c.reason) for c in status.conditions),
        *((p.name, p.state is ParticipantState.ABSENT, p.reason, p.access) for p in status.participants),
    )


def as_json(status: JobStatus) -> dict[str, Any]:
    """The status as the CRD takes it: what is not known is left out.

    Raises:
        ValidationError: It breaks our own schema, which the API server would refuse.
    """
    document: dict[str, Any] = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))
    JobStatus.model_validate(document)
    return document


def events(before: JobStatus, after: JobStatus, *, participant: str | None = None) -> list[KubeEvent]:
    """The events, if any, that describe the step from ``before`` to ``after``.

    ``participant``: whose diagnosis is the job's, in ``after``.
    """
    found: list[KubeEvent] = []
    old, new = holding(before), holding(after)
    if new is not None and (old is None or _stage(old) != _stage(new)) and not _has_own_event(new, after, participant):
        found.append(_of_stage(new))
    known = {person.name: person for person in before.participants}
    for person in after.participants:
        was = known.get(person.name, ParticipantStatus(name=person.name))
        diagnosis = named_diagnosis(person)
        if diagnosis is not None and diagnosis != named_diagnosis(was):
            found.append(
                KubeEvent(
                    type="Warning" if diagnosis in WARNINGS else "Normal",
                    reason=diagnosis,
                    message=f"{person.name}: {person.message}",
                )
            )
        if was.state is ParticipantState.ABSENT and person.state is not ParticipantState.ABSENT:
            found.append(KubeEvent(type="Normal", reason="ParticipantJoined", message=f"{person.name} takes part"))
        gone = was.state is not ParticipantState.ABSENT and person.state is ParticipantState.ABSENT
        if gone and diagnosis is None and new is not None and new.type == ConditionType.RUNNING:
            why = ": ".join(filter(None, (person.reason, person.message)))
            text = f"{person.name}: {why}" if why else f"{person.name} is not heard"
            found.append(KubeEvent(type="Warning", reason="ParticipantAbsent", message=text))
    return _together(found)


def _together(found: Sequence[KubeEvent]) -> list[KubeEvent]:
    """One event for many of a kind: a job of 256 participants should not have 256 when it begins."""
    kinds: dict[tuple[str, str], list[KubeEvent]] = {}
    for event in found:
        kinds.setdefault((event.type, event.reason), []).append(event)
    made = []
    for several in kinds.values():
        if len(several) <= MOST_EVENTS:
            made += several
            continue
        shown = "; ".join(event.message[:200] for event in several[:_SHOWN_EVENTS])
        message = f"{len(several)} participants: {shown}; and {len(several) - _SHOWN_EVENTS} more"
        made.append(replace(several[0], message=message))
    return made


def _of_stage(new: Condition) -> KubeEvent:
    warns = new.type == ConditionType.FAILED or (new.type in UNDECIDED and new.reason in WARNINGS)
    at_work = new.type == ConditionType.RUNNING and new.reason in AT_WORK
    return KubeEvent(
        type="Warning" if warns else "Normal",
        reason=new.type if at_work else new.reason,
        message=EVENT_MESSAGES[new.type] if at_work else new.message or EVENT_MESSAGES[new.type],
    )


def _has_own_event(new: Condition, after: JobStatus, participant: str | None) -> bool:
    """Whether the job's diagnosis is that of one participant, which has an event of its own."""
    return new.type in UNDECIDED and any(
        person.name == participant and named_diagnosis(person) == new.reason for person in after.participants
    )


def _stage(condition: Condition) -> tuple[str, str]:
    return (condition.type, "" if condition.reason in AT_WORK else condition.reason)

"""What is to be done for a job that has not ended, and which condition holds: ``decide(situation)``.

Each question takes the ``Situation`` and answers it, with its part of the plan where something follows from the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from photon.api.status import ClusterReason, Condition, ConditionType, JobReason, ParticipantState
from photon_operator.children.kinds import SECRET
from photon_operator.decide import clock, diagnosis, disruptions, nodes, parts, queues, reasons
from photon_operator.decide import conditions as statuses
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import seconds, timestamp
from photon_operator.decide.plan import Plan, joined
from photon_operator.decide.situation import Situation

# A worker's failure may be the first sign of the job's own end, whose reason the aggregator tells a moment later.
LAST_WORDS_SECONDS: Final = 15.0
# What keeps children from being created is retried after this long.
HINDERED_SECONDS: Final = 60.0
# An aggregator that is ready but has not answered for this long is assumed to be working.
UNHEARD_SECONDS: Final = 30.0
# How long workers may take to leave a job that is suspended; then their pods are removed.
LEAVE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """The condition that holds, and why. ``diagnoses``: what is to be said of participants."""

    kind: ConditionType
    why: Diagnosis
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)


def decide(situation: Situation) -> tuple[Conclusion, Plan]:
    """The condition that holds, and what is to be done."""
    ended = _ended(situation)
    if ended is not None:
        return ended, parts.stop(situation.jobs) if ended.kind is ConditionType.FAILED else Plan()
    waits = [Plan(again_in_seconds=clock.seconds_left(situation))]
    waits += [parts.patience(work, situation.observed.now) for work in situation.workers.values()]
    waits += [nodes.patience(work, situation.observed.now) for work in situation.jobs]
    waits += [nodes.release(work, situation.observed.now) for work in (situation.init, situation.aggregator)]
    lost, plan = _lost(situation)
    waits.append(plan)
    if lost is not None:
        return lost, joined([*waits, parts.stop(situation.jobs)])
    observed, children = situation.observed, situation.children
    files = [parts.document(situation), parts.shared(observed, children)]
    files += [parts.keep(observed, body) for body in (children.secret, children.service)]
    conclusion, plan = _go_on(situation)
    return conclusion, joined([*waits, *files, plan])


def _go_on(situation: Situation) -> tuple[Conclusion, Plan]:
    """The next step of a job whose rounds can have their quorum."""
    observed, children, init = situation.observed, situation.children, situation.init
    begun = situation.aggregator is not None or any(work is not None for work in situation.workers.values())
    if observed.child(SECRET, children.secret["metadata"]["name"]) is None and begun:
        # Its tokens may only be out of sight: nothing that depends on them is touched until they are seen again.
        return _standing(situation)
    if situation.job.spec.suspend:
        return _suspend(situation)
    # The initial model is complete when its Job says so, or when what comes after it was made.
    if situation.aggregator is None and (init is None or not init.complete):
        plans = [parts.place(observed, init, children.init), parts.patience(init, situation.observed.now)]
        conclusion, plan = _standing(situation, initializing=True)
        return conclusion, joined([*plans, plan])
    plans = [] if init is None else [parts.adopt(observed, init, children.init)]
    plans += [parts.workers(situation), parts.aggregator(situation), parts.progress(situation)]
    conclusion, plan = _standing(situation)
    return conclusion, joined([*plans, plan])


# --- whether it has ended ---------------------------------------------------------------------------------------------


def _ended(situation: Situation) -> Conclusion | None:
    """How the job ended, if it did: by the aggregator's word, or because one of its Jobs failed for good."""
    work, init = situation.aggregator, situation.init
    if work is not None and not work.deleting and parts.current(work, situation.children.aggregator):
        final = statuses.finished(situation.reported) if situation.reported is not None else None
        if final is not None:
            why = Diagnosis(reason=diagnosis.reason_of(final.reason), message=final.message)
            return Conclusion(kind=ConditionType(final.type), why=why)
        found = situation.aggregator_diagnosis
        if work.failed is not None and (
            diagnosis.job_failed(work) or not parts.got_further(work, found, situation.before.committed_rounds)
        ):
            return _failed_for_good(found, "the aggregator")
        if disruptions.exhausted(work, situation.figures.committed_rounds):
            return _failed_for_good(found, "the aggregator")
    init_failed = work is None and init is not None and init.failed is not None and not init.deleting
    if init is not None and work is None and disruptions.exhausted(init):
        return _failed_for_good(situation.init_diagnosis, reasons.INIT)
    if init is not None and init_failed and parts.current(init, situation.children.init):
        return _failed_for_good(situation.init_diagnosis, reasons.INIT)
    left = clock.seconds_left(situation)
    if left is None or left > 0:
        return None
    message = f"spec.activeDeadlineSeconds ({situation.job.spec.active_deadline_seconds} s) is over"
    why = Diagnosis(reason=ClusterReason.DEADLINE_EXCEEDED, message=message)
    return Conclusion(kind=ConditionType.FAILED, why=why)


def _failed_for_good(found: Diagnosis | None, who: str) -> Conclusion:
    found = found or Diagnosis(reason=ClusterReason.PROGRAM_FAILED, message="")
    return Conclusion(kind=ConditionType.FAILED, why=found.of(who))


def _lost(situation: Situation) -> tuple[Conclusion | None, Plan]:
    """Whether too many workers failed for good for any round to have its quorum."""
    spec, diagnoses = situation.job.spec, situation.diagnoses
    failed = {
        name: work
        for name, work in situation.workers.items()
        if work is not None
        and (work.failed is not None or disruptions.exhausted(work, situation.rounds_of(name)))
        and name in diagnoses
        and parts.current(work, situation.children.workers[name])
    }
    if not failed or len(spec.participants) - len(failed) >= spec.quorum:
        return None, Plan()
    wait = max(work.ended_at or 0.0 for work in failed.values()) + LAST_WORDS_SECONDS - situation.observed.now
    if situation.aggregating and wait > 0:
        return None, Plan(again_in_seconds=wait)
    first, *others = failed
    also = f"; also failed: {', '.join(others)}" if others else ""
    message = f"{first}: {diagnoses[first].message}{also}; a quorum of {spec.quorum} cannot be reached"
    why = Diagnosis(reason=diagnoses[first].reason, message=message)
    return Conclusion(kind=ConditionType.FAILED, why=why, diagnoses=diagnoses), Plan()


# --- suspending -------------------------------------------------------------------------------------------------------


def _suspend(situation: Situation) -> tuple[Conclusion, Plan]:
    """The aggregator commits the round that is under way; then all Jobs go."""
    work, held, reported = situation.aggregator, situation.held, situation.reported
    suspended = ConditionType.SUSPENDED
    running = work is not None or (held is not None and held.type == ConditionType.RUNNING)
    # An aggregator that a queue holds cannot end the round.
    admission = 0.0
    if work is not None and work.suspended:
        admission = work.created_at + queues.ADMISSION_SECONDS - situation.observed.now
        running = admission > 0
    holds = statuses.holding(reported) if reported is not None else None
    at_boundary = (
        work is not None
        and holds is not None
        and holds.type == suspended
        and parts.current(work, situation.children.aggregator)
    )
    # Whether a round could be brought to its end.
    somebody = situation.somebody_runs or (
        reported is not None and any(p.state is not ParticipantState.ABSENT for p in reported.participants)
    )
    if running and not at_boundary and (somebody or (work is not None and work.deleting)):
        message = f"suspends when round {situation.figures.round} is committed"
        why = Diagnosis(reason=ClusterReason.SUSPENDING, message=message)
        conclusion = Conclusion(kind=ConditionType.RUNNING, why=why, diagnoses=situation.diagnoses)
        wait = Plan(again_in_seconds=admission) if admission > 0 else Plan()
        return conclusion, joined([wait, parts.leave_at_boundary(situation)])
    since = (
        seconds(statuses.since(situation.before, suspended)) if held is not None and held.type == suspended else None
    )
    left = (since or situation.observed.now) + LEAVE_SECONDS - situation.observed.now
    plan = Plan()
    if not at_boundary or left <= 0:
        plan = parts.stop(situation.jobs)
    elif any(not job.ended for job in situation.jobs):
        plan = Plan(again_in_seconds=left)
    message = f"suspended after round {situation.figures.committed_rounds}"
    return Conclusion(kind=suspended, why=Diagnosis(reason=JobReason.SUSPENDED, message=message)), plan


# --- how it stands ----------------------------------------------------------------------------------------------------


def _standing(situation: Situation, *, initializing: bool = False) -> tuple[Conclusion, Plan]:
    """Running once the aggregator answers; until then pending, with the worst that is known."""
    observed = situation.observed
    if observed.taken or observed.refused:
        # What keeps children from being made may be fixed. As long as they are not tried again, what is known stays.
        kind = ConditionType.RUNNING if situation.aggregating else ConditionType.PENDING
        conclusion = Conclusion(kind=kind, why=_hindrance(situation), diagnoses=situation.diagnoses)
        return conclusion, Plan(again_in_seconds=HINDERED_SECONDS)
    if initializing:
        found = situation.init_diagnosis
        why = Diagnosis(reason=JobReason.WAITING_FOR_INIT, message=reasons.MAKING_MODEL)
        why = why if found is None else found.of(reasons.INIT)
        return Conclusion(kind=ConditionType.PENDING, why=why, diagnoses=situation.diagnoses), Plan()
    patience = parts.patience(situation.aggregator, situation.observed.now)
    said, wait = _said(situation)
    # The worst first.
    sorted_diagnoses = sorted(
        situation.diagnoses.items(), key=lambda item: (-reasons.GRAVITY.get(item[1].reason, 0), item[0])
    )
    diagnoses = [replace(found.of(name), participant=name) for name, found in sorted_diagnoses]
    if said is None or said.type not in (ConditionType.RUNNING, ConditionType.SUSPENDED):
        own = situation.aggregator_diagnosis
        why = own.of("the aggregator") if own is not None else diagnoses[0] if diagnoses else _starting(situation)
        kind = ConditionType.PENDING
    else:
        kind = ConditionType.RUNNING
        present = sum(p.state is not ParticipantState.ABSENT for p in situation.figures.participants)
        few = present < situation.job.spec.quorum
        if diagnoses and few and diagnoses[0].reason is not ClusterReason.QUEUED:
            why = diagnoses[0]
        else:
            # Who is missing is said beside why.
            missing = said.message if said.reason == JobReason.WAITING_FOR_QUORUM else ""
            told = filter(None, [missing, *map(str, diagnoses), queues.kept(situation)])
            message = "; ".join(told) or said.message
            why = Diagnosis(reason=diagnosis.reason_of(said.reason), message=message)
    return Conclusion(kind=kind, why=why, diagnoses=situation.diagnoses), joined([patience, wait])


def _hindrance(situation: Situation) -> Diagnosis:
    """What keeps children from being made at all."""
    for name, text in situation.observed.taken.items():
        message = f"{name} is not this job's ({text}): remove it, or give the job another name"
        return Diagnosis(reason=ClusterReason.NAME_TAKEN, message=message)
    name, text = next(iter(situation.observed.refused.items()))
    return Diagnosis(reason=ClusterReason.POD_REFUSED, message=f"the API server refuses {name}: {text}")


def _said(situation: Situation) -> tuple[Condition | None, Plan]:
    """The condition that the aggregator says holds. While its answer is not at hand, what may be assumed: an operator
    that was just started has none yet, and one whose packets are kept from aggregators never gets any."""
    if not situation.aggregating:
        return None, Plan()
    if situation.reported is not None:
        said = statuses.holding(situation.reported)
        return (None if _reads(situation, said) else said), Plan()
    pod = situation.aggregator.running if situation.aggregator is not None else None
    if pod is None:
        return None, Plan()
    ready, held = pod.condition("Ready"), situation.held
    asked_since = max(seconds((ready or {}).get("lastTransitionTime")) or 0.0, situation.observed.began)
    left = asked_since + UNHEARD_SECONDS - situation.observed.now
    if ready is None or ready.get("status") != "True" or left > 0:
        wait = Plan(again_in_seconds=left) if left > 0 else Plan()
        if held is None or held.type != ConditionType.RUNNING:
            return None, wait
        if pod.created_at > (seconds(held.last_transition_time) or 0.0):
            return None, wait
        reason = held.reason if held.reason in reasons.AT_WORK else JobReason.TRAINING.value
        return held.model_copy(update={"reason": reason, "message": ""}), wait
    assumed = Condition(
        type=ConditionType.RUNNING.value,
        status="True",
        reason=JobReason.TRAINING.value,
        message=reasons.UNREAD,
        last_transition_time=timestamp(situation.observed.now),
    )
    return assumed, Plan()


def _reads(situation: Situation, said: Condition | None) -> bool:
    """Whether the aggregator still reads where the job stands. One of an earlier release says that it waits for the
    initial model, also of a job that has commits."""
    if situation.reported is None or said is None or situation.reported.last_commit is not None:
        return False
    begun = situation.before.last_commit is not None
    return said.reason == JobReason.STARTING or (begun and said.reason == JobReason.WAITING_FOR_INIT)


def _starting(situation: Situation) -> Diagnosis:
    work = situation.aggregator
    if work is None:
        text = reasons.NO_WORKER
    elif work.running is None:
        text = reasons.NO_AGGREGATOR_POD
    else:
        text = reasons.NO_ANSWER
    return Diagnosis(reason=ClusterReason.STARTING, message=text)

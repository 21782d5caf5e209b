"""From the first commit to a plan, and from each commit to the next plan or to the end of the job."""

from __future__ import annotations

from dataclasses import replace

from photon.api.participation import SampleFrom
from photon.api.status import JobReason
from photon.protocol.cohort import sample_cohort
from photon.protocol.records import Commit, End, LeftOut, Plan
from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds import divergence, rollback
from photon_aggregator.rounds.events import (
    Committed,
    Ended,
    Head,
    JobEvent,
    NotFinite,
    Outcome,
    PlanReady,
    Recovered,
    WritePlan,
    WriteRollback,
)
from photon_aggregator.rounds.state import JobState, OpenRound
from photon_aggregator.rounds.steps import Step, end, scan_wanted
from photon_aggregator.rounds.stopping import (
    awaited,
    bounded,
    ends_by_commit,
    ends_by_evaluation,
    evaluation_due,
    holds,
)


def make_plan(state: JobState) -> Plan:
    """The plan of the round after the head: the same from every aggregator with the same job file."""
    settings, head = state.settings, state.head
    assert head is not None
    round_number = head.round + 1
    quarantined = rollback.quarantined(state.trail, round_number, settings.participants)
    left_out = (
        dict.fromkeys(_absentees(state, round_number, quarantined), LeftOut.ABSENT)
        | dict.fromkeys(quarantined, LeftOut.QUARANTINED)
        | dict.fromkeys(_strangers(state, round_number), LeftOut.NOT_A_MEMBER)
    )
    eligible = [name for name in settings.participants if name not in left_out]
    size = min(settings.cohort_size, len(eligible))
    return Plan(
        job=settings.job,
        round=round_number,
        base=head.digest,
        participants=list(settings.participants),
        cohort=sample_cohort(seed=settings.seed, round_number=round_number, participants=eligible, size=size),
        first_step=head.commit.sequential_steps,
        local_steps=settings.local_steps,
        left_out=dict(sorted(left_out.items())),
        outer_scale=rollback.outer_scale(state.trail, round_number),
    )


def _strangers(state: JobState, round_number: int) -> list[str]:
    """Who is no member now, or was none in the job that is run again."""
    past = state.settings.replayed.get(round_number)
    if past is not None:
        return [name for name in state.settings.participants if name in past.not_members]
    return [name for name in state.settings.participants if not state.eligible(name)]


def _enough_members(state: JobState) -> bool:
    """Whether the next round can begin: the first one waits for as many as the job asks for."""
    assert state.head is not None
    settings, round_number = state.settings, state.head.round + 1
    if not settings.remote:
        return True
    if not state.members_known:
        return False
    strangers = {
        *_strangers(state, round_number),
        *rollback.quarantined(state.trail, round_number, settings.participants),
        *state.unheard,
    }
    here = sum(name not in strangers for name in settings.participants)
    first = state.head.round == 0
    return here >= (min(settings.min_participants, len(settings.participants)) if first else 1)


def _absentees(state: JobState, round_number: int, quarantined: frozenset[str]) -> list[str]:
    """Who is not sampled because it is absent: members whose workers were not heard yet and, where the job says so,
    all that are absent, unless those that are present are too few for a quorum."""
    settings = state.settings
    past = settings.replayed.get(round_number)
    if past is not None:
        return [name for name in settings.participants if name in past.absent]
    unheard = [name for name in settings.participants if name in state.unheard]
    if settings.sample is SampleFrom.ALL:
        return unheard
    not_able = {*quarantined, *unheard}
    able = [name for name in settings.participants if name not in not_able and state.eligible(name)]
    absent = [name for name in able if name in state.absent]
    return [*unheard, *absent] if len(able) - len(absent) >= settings.quorum else unheard


def recovered(state: JobState, event: Recovered) -> Step:
    if state.stage is not Stage.INIT:
        return state, []
    state = replace(
        state,
        settings=replace(state.settings, job=event.job),
        head=event.head,
        trail=event.trail or (event.head,),
        first_planned_at=event.first_planned_at,
        written_at=event.written_at,
        evaluations=event.evaluations,
        past_losses=event.past_losses,
        baseline=event.baseline,
    )
    state = bounded(state)
    if event.planned:
        # It was decided already to train this round; a stop condition that holds by now ends the job after it.
        return _write_plan(state)
    if event.end is not None:
        return _as_recorded(state, event.end, event.at)
    return after_commit(state, event.at)


def ended(state: JobState, event: Ended) -> Step:
    if state.stage is not Stage.PLAN or state.head is None or event.record.commit != state.head.digest:
        return state, []
    return _as_recorded(state, event.record, event.at)


def _as_recorded(state: JobState, record: End, at: float) -> Step:
    """End as the bucket says, if that was decided by the limits that the job has now."""
    if not holds(record, state.settings.stop):
        state = replace(state, ending=ends_by_commit(state, at))
        return end(state, state.ending, at) if state.ending is not None else plan_next(state, at)
    return end(state, Outcome(reason=JobReason(record.reason), message=record.message), at)


def committed(state: JobState, event: Committed) -> Step:
    head = state.head
    if head is None or event.commit.round != head.round + 1:
        return state, []
    head = Head(commit=event.commit, digest=event.digest)
    state = replace(
        state,
        head=head,
        trail=rollback.extended(state.trail, head),
        open=None,
        declined=frozenset(),
        scanning=False,
        written_at=event.written_at,
    )
    if event.foreign and head.commit.rollback is None and not state.anybody_present(event.at):
        message = f"round {head.round} was committed by another aggregator, and no participant speaks with this one"
        return end(state, Outcome(reason=JobReason.SUPERSEDED, message=message), event.at)
    state, actions = after_commit(state, event.at)
    return state, [_commit_note(head, event.at), *actions]


def _commit_note(head: Head, at: float) -> JobEvent:
    returned = head.commit.rollback
    if returned is None:
        accepted = ", ".join(
            update.participant if update.clip == 1.0 else f"{update.participant} (scaled by {update.clip:.3g})"
            for update in head.commit.accepted
        )
        return JobEvent(at=at, kind=EventKind.ROUND_COMMITTED, round=head.round, message=f"accepted: {accepted}")
    message = ": ".join(filter(None, (f"the model is that of round {returned.to} again", returned.message)))
    return JobEvent(at=at, kind=EventKind.ROLLED_BACK, round=head.round, reason=returned.reason.value, message=message)


def not_finite(state: JobState, event: NotFinite) -> Step:
    open_round = state.open
    if state.stage is not Stage.MERGE or open_round is None or open_round.round != event.round:
        return state, []
    if state.settings.stop.divergence is None:
        message = f"round {event.round}: {event.message}"
        return end(state, Outcome(reason=JobReason.MERGE_FAILED, message=message, failed=True), event.at)
    return _instead_of_plan(state, divergence.not_finite(state, event.message), event.at)


def _instead_of_plan(state: JobState, answer: Commit | Outcome, at: float) -> Step:
    if isinstance(answer, Outcome):
        return end(state, answer, at)
    return replace(state, stage=Stage.PLAN, open=None), [WriteRollback(commit=answer)]


def after_commit(state: JobState, at: float) -> Step:
    answer = divergence.decide(state)
    if answer is not None:
        return _instead_of_plan(state, answer, at)
    state = replace(state, ending=ends_by_commit(state, at))
    due = evaluation_due(state)
    decides = due and state.settings.waits_for_evaluations and state.head is not None and state.head.round > 0
    if state.ending is None and not decides:
        return plan_next(state, at)
    if not due:
        return _conclude(state, at)
    state = replace(
        state,
        stage=Stage.EVALUATE,
        evaluate_until=at + state.settings.deadline_seconds,
        next_scan_at=at + state.settings.scan_seconds,
    )
    return settle(state, at)


def settle(state: JobState, at: float) -> Step:
    """Go on from Evaluate when no result is awaited any more."""
    if state.stage is not Stage.EVALUATE:
        return state, []
    if (at < state.evaluate_until or state.away is not None) and awaited(state, at):
        return state, []
    return _conclude(state, at)


def _conclude(state: JobState, at: float) -> Step:
    assert state.head is not None
    if state.ending is not None:
        return end(state, state.ending, at)
    ending = ends_by_evaluation(state)
    if ending is None:
        return plan_next(state, at)
    stop = state.settings.stop
    record = End(
        job=state.settings.job,
        round=state.head.round,
        commit=state.head.digest,
        reason=ending.reason.value,
        message=ending.message,
        target_perplexity=stop.target_perplexity,
        plateau=stop.plateau,
        results={name: one.sums() for name, one in sorted(state.evaluations.get(state.head.round, {}).items())},
    )
    return _write_plan(state, record)


def plan_next(state: JobState, at: float) -> Step:
    """Begin the next round, or wait for the members that it needs."""
    if _enough_members(state):
        return _write_plan(state)
    waiting = replace(state, stage=Stage.PLAN, open=None, lacks_members=True)
    if state.lacks_members or not state.members_known:
        return waiting, []
    missing = [n for n in state.settings.participants if not state.eligible(n) or n in state.unheard]
    note = JobEvent(
        at=at,
        kind=EventKind.WAITING_FOR_PARTICIPANTS,
        round=state.head.round if state.head is not None else 0,
        message=f"awaited: {', '.join(missing)}"[:1024],
    )
    return waiting, [note]


def _write_plan(state: JobState, end: End | None = None) -> Step:
    state = replace(state, stage=Stage.PLAN, open=None, lacks_members=False)
    plan = make_plan(state)
    if end is not None:
        plan = plan.model_copy(update={"end": end})
    return state, [WritePlan(plan=plan, stop=state.settings.stop)]


def plan_ready(state: JobState, event: PlanReady) -> Step:
    head = state.head
    if state.stage is not Stage.PLAN or head is None or event.plan.base != head.digest:
        return state, []
    past = state.settings.replayed.get(event.plan.round)
    # Not the plan's LastModified: that is the store's clock, and a job that was suspended has its whole deadline.
    open_round = OpenRound(
        plan=event.plan,
        plan_digest=event.digest,
        opened_at=event.at,
        scanned=False,
        closing=past.updates if past is not None else None,
    )
    state = replace(
        state,
        stage=Stage.TRAIN,
        open=open_round,
        first_planned_at=event.planned_at if event.plan.round == 1 else state.first_planned_at,
        scanning=True,
    )
    note = JobEvent(
        at=event.at,
        kind=EventKind.ROUND_PLANNED,
        round=event.plan.round,
        message=f"cohort: {', '.join(event.plan.cohort)}",
    )
    return state, [note, scan_wanted(state)]

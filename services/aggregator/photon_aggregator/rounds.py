"""The round as a pure state machine: ``advance(state, event) -> (state, actions)``.

No I/O and no clock: events carry their times, and actions say what is wanted. Duplicates, late comers and events of
another round change nothing, so an action may be repeated after a crash and two aggregators may work on one bucket.

    Init --Recovered--> Plan --PlanReady--> Train --(all | grace | deadline)--> Merge --Committed--> Plan ...
                          ^                   +--(deadline without quorum)--> Done                     |
                          +------------------- Evaluate <--(a stop condition needs it, or the end)-----+
                                                  +--> Done
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from photon.protocol.cohort import sample_cohort
from photon.protocol.messages import RefusalReason
from photon.protocol.records import LeftOut, Plan
from photon_aggregator import rollback, tasks
from photon_aggregator.events import (
    Action,
    Admission,
    Admitted,
    Ahead,
    Broken,
    Check,
    Closed,
    Committed,
    Evaluated,
    Event,
    Finish,
    Found,
    Head,
    Heard,
    Look,
    Looked,
    Merge,
    Note,
    NoteKind,
    Outcome,
    PlanReady,
    Recovered,
    Refused,
    Submitted,
    Tick,
    Told,
    WritePlan,
)
from photon_aggregator.state import SHORTEST_LOOK_SECONDS, JobState, OpenRound, Stage, Submission
from photon_aggregator.state import Check as CheckState
from photon_aggregator.stopping import (
    awaited,
    ends_by_commit,
    ends_by_evaluation,
    evaluation_due,
    mean_loss,
    perplexity,
    quorum_lost,
)

Step = tuple[JobState, list[Action]]


def advance(state: JobState, event: Event) -> Step:
    """What the job is after ``event``, and what is to be done about it."""
    if state.stage is Stage.DONE and not isinstance(event, Heard | Evaluated):
        return state, []
    match event:
        case Recovered():
            return _recovered(state, event)
        case PlanReady():
            return _plan_ready(state, event)
        case Submitted() | Found():
            return _submitted(state, event)
        case Admitted():
            return _admitted(state, event)
        case Refused():
            return _refused(state, event)
        case Told():
            return _told(state, event)
        case Closed():
            return _closed(state, event)
        case Committed():
            return _committed(state, event)
        case Evaluated():
            return _evaluated(state, event)
        case Heard():
            return _heard(state, event)
        case Ahead():
            return _soon(state, event.at), []
        case Looked():
            next_look_at = event.at + state.settings.look_seconds
            return replace(state, looking=False, looked_at=event.at, next_look_at=next_look_at), []
        case Tick():
            return _tick(state, event.at)
        case Broken():
            return _end(state, Outcome(reason=event.reason, message=event.message[:1024], failed=True), event.at)
        case _:
            assert_never(event)


def next_wake(state: JobState) -> float | None:
    """When the machine wants a Tick; None while only events can change anything."""
    times: list[float] = []
    if state.stage is Stage.TRAIN and state.open is not None:
        times.append(state.deadline(state.open))
        if state.open.quorum_at is not None and state.settings.grace_seconds is not None:
            times.append(state.open.quorum_at + state.settings.grace_seconds)
    if state.stage is Stage.EVALUATE:
        times.append(state.evaluate_until)
    if state.stage in (Stage.TRAIN, Stage.EVALUATE) and not state.looking:
        times.append(state.next_look_at)
    if state.stage is not Stage.DONE:
        silent = state.settings.absent_seconds
        times += [state.last_heard(n) + silent for n in state.settings.participants if n not in state.absent]
    return min(times, default=None)


def make_plan(state: JobState) -> Plan:
    """The plan of the round after the head: the same from every aggregator with the same job file."""
    settings, head = state.settings, state.head
    assert head is not None
    round_number = head.round + 1
    left_out = rollback.quarantined(state.trail, round_number, settings.participants)
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
        left_out=dict.fromkeys(sorted(left_out), LeftOut.QUARANTINED),
        outer_scale=rollback.outer_scale(state.trail, round_number),
    )


# --- from commit to plan ----------------------------------------------------------------------------------------------


def _recovered(state: JobState, event: Recovered) -> Step:
    if state.stage is not Stage.INIT:
        return state, []
    state = replace(
        state,
        settings=replace(state.settings, job=event.job),
        head=event.head,
        trail=event.trail or (event.head,),
        first_planned_at=event.first_planned_at,
        evaluations=event.evaluations,
    )
    if event.planned:
        # It was decided already to train this round; a stop condition that holds by now ends the job after it.
        return _plan(state)
    return _after_commit(state, event.at)


def _committed(state: JobState, event: Committed) -> Step:
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
        looking=False,
    )
    state, actions = _after_commit(state, event.at)
    return state, [_commit_note(head, event.at), *actions]


def _commit_note(head: Head, at: float) -> Note:
    returned = head.commit.rollback
    if returned is None:
        accepted = ", ".join(update.participant for update in head.commit.accepted)
        return Note(at=at, kind=NoteKind.ROUND_COMMITTED, round=head.round, message=f"accepted: {accepted}")
    message = ": ".join(filter(None, (f"the model is that of round {returned.to} again", returned.message)))
    return Note(at=at, kind=NoteKind.ROLLED_BACK, round=head.round, reason=returned.reason.value, message=message)


def _after_commit(state: JobState, at: float) -> Step:
    state = replace(state, ending=ends_by_commit(state, at))
    due = evaluation_due(state)
    if state.ending is None and not (due and state.settings.waits_for_evaluations):
        return _plan(state)
    if not due:
        return _conclude(state, at)
    state = replace(
        state,
        stage=Stage.EVALUATE,
        evaluate_until=at + state.settings.deadline_seconds,
        next_look_at=at + state.settings.look_seconds,
    )
    return _settle(state, at)


def _settle(state: JobState, at: float) -> Step:
    """Go on from Evaluate when nobody's result is awaited any more."""
    if state.stage is not Stage.EVALUATE or (at < state.evaluate_until and awaited(state, at)):
        return state, []
    return _conclude(state, at)


def _conclude(state: JobState, at: float) -> Step:
    assert state.head is not None
    ending = state.ending or ends_by_evaluation(state)
    if ending is None:
        return _plan(state)
    return _end(state, ending, at)


def _plan(state: JobState) -> Step:
    state = replace(state, stage=Stage.PLAN, open=None)
    return state, [WritePlan(plan=make_plan(state))]


def _end(state: JobState, outcome: Outcome, at: float) -> Step:
    state = replace(state, stage=Stage.DONE, ending=None, outcome=outcome)
    round_number = state.head.round if state.head is not None else 0
    note = Note(
        at=at, kind=NoteKind.JOB_ENDED, round=round_number, reason=outcome.reason.value, message=outcome.message
    )
    return state, [note, Finish(outcome=outcome)]


# --- the open round ---------------------------------------------------------------------------------------------------


def _plan_ready(state: JobState, event: PlanReady) -> Step:
    head = state.head
    if state.stage is not Stage.PLAN or head is None or event.plan.base != head.digest:
        return state, []
    # The store's clock may run ahead of ours: a deadline never starts in the future.
    opened_at = min(max(event.planned_at, state.started_at), event.at)
    state = replace(
        state,
        stage=Stage.TRAIN,
        open=OpenRound(plan=event.plan, plan_digest=event.digest, opened_at=opened_at),
        first_planned_at=event.planned_at if event.plan.round == 1 else state.first_planned_at,
        looking=True,
    )
    note = Note(
        at=event.at,
        kind=NoteKind.ROUND_PLANNED,
        round=event.plan.round,
        message=f"cohort: {', '.join(event.plan.cohort)}",
    )
    return state, [note, _look(state)]


def _look(state: JobState) -> Look:
    return Look(
        open_round=state.open.round if state.open is not None else None,
        evaluated_round=state.head.round if state.head is not None and evaluation_due(state) else None,
    )


def _with(open_round: OpenRound, participant: str, submission: Submission) -> OpenRound:
    return replace(open_round, submissions={**open_round.submissions, participant: submission})


def _submitted(state: JobState, event: Submitted | Found) -> Step:
    open_round = state.open
    if state.stage is not Stage.TRAIN or open_round is None or open_round.round != event.round:
        return state, []
    if not open_round.takes(event.participant):
        return state, []
    before = open_round.submissions.get(event.participant)
    if before is not None:
        if before.check is not CheckState.REFUSED:
            return state, []
        if before.digest == event.digest and (isinstance(event, Found) or not before.told):
            return state, []
    submission = Submission(digest=event.digest, check=CheckState.CHECKING)
    check = Check(
        plan=open_round.plan,
        plan_digest=open_round.plan_digest,
        participant=event.participant,
        manifest=event.manifest,
        digest=event.digest,
    )
    return replace(state, open=_with(open_round, event.participant, submission)), [check]


def _checked(state: JobState, round_number: int, participant: str, digest: str) -> OpenRound | None:
    """The open round, when it waits for the verdict on exactly this update."""
    if state.stage is not Stage.TRAIN or state.open is None or state.open.round != round_number:
        return None
    submission = state.open.submissions.get(participant)
    if submission is None or submission.digest != digest or submission.check is not CheckState.CHECKING:
        return None
    return state.open


def _admitted(state: JobState, event: Admitted) -> Step:
    admission = event.admission
    open_round = _checked(state, event.round, admission.participant, admission.digest)
    if open_round is None:
        return state, []
    submission = Submission(digest=admission.digest, check=CheckState.ACCEPTED, admission=admission)
    open_round = _with(open_round, admission.participant, submission)
    notes: list[Action] = [
        Note(
            at=event.at,
            kind=NoteKind.UPDATE_ACCEPTED,
            round=event.round,
            participant=admission.participant,
            message=f"norm {admission.norm:.6g}",
        )
    ]
    if open_round.quorum_at is None and len(open_round.admissions) >= state.quorum_of(open_round.plan):
        open_round = replace(open_round, quorum_at=event.at)
        notes.append(Note(at=event.at, kind=NoteKind.QUORUM_REACHED, round=event.round))
    state, actions = _maybe_close(replace(state, open=open_round), event.at)
    return state, [*notes, *actions]


def _refused(state: JobState, event: Refused) -> Step:
    open_round = _checked(state, event.round, event.participant, event.digest)
    if open_round is None:
        return state, []
    submission = Submission(digest=event.digest, check=CheckState.REFUSED, reason=event.reason, message=event.message)
    note = Note(
        at=event.at,
        kind=NoteKind.UPDATE_REFUSED,
        round=event.round,
        participant=event.participant,
        reason=event.reason.value,
        message=event.message,
    )
    state = replace(state, open=_with(open_round, event.participant, submission))
    if event.reason is RefusalReason.ALREADY_SUBMITTED:
        # Another aggregator admitted this participant's earlier update: it counts, so find it now.
        state = replace(state, next_look_at=event.at)
    return state, [note]


def _told(state: JobState, event: Told) -> Step:
    open_round = state.open
    if open_round is None or open_round.round != event.round:
        return state, []
    submission = open_round.submissions.get(event.participant)
    if submission is None or submission.digest != event.digest or submission.check is not CheckState.REFUSED:
        return state, []
    return replace(state, open=_with(open_round, event.participant, replace(submission, told=True))), []


def _closed(state: JobState, event: Closed) -> Step:
    open_round = state.open
    # While we merge, whoever merges has met the same record.
    if state.stage is not Stage.TRAIN or open_round is None or open_round.round != event.round:
        return state, []
    return _maybe_close(replace(state, open=replace(open_round, closing=event.updates)), event.at)


def _maybe_close(state: JobState, at: float) -> Step:
    """Close the round when it has all it waits for."""
    open_round, head = state.open, state.head
    if state.stage is not Stage.TRAIN or open_round is None or head is None:
        return state, []
    if open_round.closing is not None:
        return _close_as_decided(state, open_round, head, open_round.closing, at)
    grace = state.settings.grace_seconds
    overdue = at >= state.deadline(open_round)
    # Who was taken out of the job since the round was planned will not come.
    awaited = [name for name in open_round.missing if name in state.settings.participants]
    if awaited or (open_round.missing and open_round.quorum_at is None):
        waited = open_round.quorum_at is not None and grace is not None and at >= open_round.quorum_at + grace
        if not overdue and not waited:
            return state, []
    if open_round.quorum_at is None and open_round.missing:
        return _end(state, quorum_lost(state, open_round, at), at)
    return _close(state, open_round, head, open_round.admissions, at)


def _close_as_decided(
    state: JobState, open_round: OpenRound, head: Head, closing: Mapping[str, str], at: float
) -> Step:
    """Close with exactly the updates that the bucket names, once they are admitted here too."""
    chosen = tuple(one for one in open_round.admissions if closing.get(one.participant) == one.digest)
    # At the deadline the merge fetches what is missing, or says what is wrong with it.
    if len(chosen) < len(closing) and at < state.deadline(open_round):
        return state, []
    return _close(state, open_round, head, chosen, at)


def _close(state: JobState, open_round: OpenRound, head: Head, chosen: tuple[Admission, ...], at: float) -> Step:
    have = open_round.closing or {one.participant for one in chosen}
    left_out = [name for name in open_round.plan.cohort if name not in have]
    note = Note(
        at=at,
        kind=NoteKind.ROUND_CLOSED,
        round=open_round.round,
        message=f"without {', '.join(left_out)}" if left_out else "",
    )
    merge = Merge(plan=open_round.plan, plan_digest=open_round.plan_digest, base=head, admissions=chosen)
    return replace(state, stage=Stage.MERGE), [note, merge]


# --- evaluations, signs of life, time ---------------------------------------------------------------------------------


def _evaluated(state: JobState, event: Evaluated) -> Step:
    head = state.head
    if head is None or event.round > head.round:
        return state, []
    before: Mapping[str, object] = state.evaluations.get(event.round, {})
    if event.participant in before:
        return state, []
    results = {**state.evaluations.get(event.round, {}), event.participant: event.result}
    state = replace(state, evaluations={**state.evaluations, event.round: results})
    loss = mean_loss({event.participant: event.result})
    note = Note(
        at=event.at,
        kind=NoteKind.EVALUATED,
        round=event.round,
        participant=event.participant,
        message=f"perplexity {perplexity(loss):.3f}" if loss is not None else "no held-out text",
    )
    state, actions = _settle(state, event.at)
    return state, [note, *actions]


def _heard(state: JobState, event: Heard) -> Step:
    if event.participant not in state.settings.participants:
        return state, []
    first = event.participant not in state.seen or event.participant in state.absent
    state = replace(
        state,
        seen={**state.seen, event.participant: max(event.at, state.seen.get(event.participant, event.at))},
        absent=state.absent - {event.participant} if event.participant in state.absent else state.absent,
    )
    notes: list[Action] = []
    if first:
        round_number = state.head.round if state.head is not None else 0
        notes.append(
            Note(at=event.at, kind=NoteKind.PARTICIPANT_JOINED, round=round_number, participant=event.participant)
        )
    if event.done is not None:
        state = _says_done(state, event.participant, event.done, event.at)
    state, actions = _settle(state, event.at)
    return state, [*notes, *actions]


def _soon(state: JobState, at: float) -> JobState:
    """Look into the bucket as soon as that may tell something new."""
    soon = max(at, state.looked_at + SHORTEST_LOOK_SECONDS)
    return replace(state, next_look_at=soon) if state.next_look_at > soon else state


def _says_done(state: JobState, participant: str, done: str, at: float) -> JobState:
    """It may have handed its work to another aggregator: look, rather than have it done twice."""
    head, open_round = state.head, state.open
    if head is None:
        return state
    if tasks.speaks_of_later_round(state, done):
        return _soon(state, at)
    if open_round is not None and done == tasks.train_id(open_round.round):
        return state if participant in open_round.submissions else _soon(state, at)
    silent = participant not in state.evaluations.get(head.round, {}) and participant not in state.declined
    if done == tasks.evaluate_id(head.round) and silent:
        return replace(_soon(state, at), declined=state.declined | {participant})
    return state


def _tick(state: JobState, at: float) -> Step:
    gone = frozenset(n for n in state.settings.participants if not state.present(n, at)) - state.absent
    round_number = state.head.round if state.head is not None else 0
    actions: list[Action] = [
        Note(
            at=at,
            kind=NoteKind.PARTICIPANT_ABSENT,
            round=round_number,
            participant=name,
            message=f"no word for {at - state.seen[name]:.0f} s",
        )
        for name in sorted(gone)
        if name in state.seen
    ]
    state = replace(state, absent=state.absent | gone) if gone else state
    state, more = _maybe_close(state, at)
    actions += more
    if not more:
        state, more = _settle(state, at)
        actions += more
    if state.stage in (Stage.TRAIN, Stage.EVALUATE) and not state.looking and at >= state.next_look_at:
        state = replace(state, looking=True)
        actions.append(_look(state))
    return state, actions

"""When the open round closes, and with which updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from photon.api.participation import WhenQuorumLost
from photon.protocol.messages import RefusalReason
from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds.events import Admission, Closed, Head, JobEvent, Merge
from photon_aggregator.rounds.shortage import quorum_lost, short_of_quorum
from photon_aggregator.rounds.state import CheckState, JobState, OpenRound, Submission
from photon_aggregator.rounds.steps import Step, end, soon


def closed(state: JobState, event: Closed) -> Step:
    open_round = state.open
    # While we merge, any other that merges has met the same record.
    if state.stage is not Stage.TRAIN or open_round is None or open_round.round != event.round:
        return state, []
    refused = {
        name: Submission(digest=event.updates[name], check=CheckState.REFUSED, reason=RefusalReason.INVALID_MANIFEST)
        for name in event.unreadable
    }
    submissions = {**open_round.submissions, **refused}
    return maybe_close(
        replace(state, open=replace(open_round, closing=event.updates, submissions=submissions)), event.at
    )


def maybe_close(state: JobState, at: float) -> Step:
    """Close the round when it has all it waits for."""
    open_round, head = state.open, state.head
    if state.stage is not Stage.TRAIN or open_round is None or head is None:
        return state, []
    if open_round.closing is not None:
        return _close_as_decided(state, open_round, head, open_round.closing, at)
    grace = state.settings.grace_seconds
    # While the store is away nothing can be handed in: no time runs out.
    overdue = state.away is None and at >= state.deadline(open_round)
    # Who was taken out of the job, was revoked or has left since the round was planned will not come.
    able = state.able(open_round.plan)
    awaited = [name for name in open_round.missing if name in state.settings.participants and name in able]
    # With no one left that could hand one in, the round is given up.
    if awaited or (open_round.missing and open_round.quorum_at is None and able):
        waited = (
            state.away is None
            and open_round.quorum_at is not None
            and grace is not None
            and at >= open_round.quorum_at + grace
        )
        if not overdue and not waited:
            return state, []
        in_time = open_round.under_check(state.deadline(open_round))
        if open_round.quorum_at is not None and not waited and in_time:
            # How long a check takes is not its sender's time.
            return state, []
    if open_round.quorum_at is None and open_round.missing and able:
        return _without_quorum(state, open_round, at)
    return _close(state, open_round, head, open_round.admissions, at)


def _without_quorum(state: JobState, open_round: OpenRound, at: float) -> Step:
    """The deadline is over and the quorum is not there: wait for it, or fail, as the job says."""
    if state.settings.when_quorum_lost is WhenQuorumLost.FAIL:
        if open_round.under_check():
            return state, []
        if state.scanned_at >= state.deadline(open_round):
            return end(state, quorum_lost(state, open_round, at), at)
        # Another aggregator may have admitted what is missing: one scan that began after the deadline decides.
        state = soon(state, at)
    if open_round.overdue:
        return state, []
    note = JobEvent(
        at=at,
        kind=EventKind.WAITING_FOR_QUORUM,
        round=open_round.round,
        message=short_of_quorum(state, open_round, at)[:1024],
    )
    return replace(state, open=replace(open_round, overdue=True)), [note]


def _close_as_decided(
    state: JobState, open_round: OpenRound, head: Head, closing: Mapping[str, str], at: float
) -> Step:
    """Close with exactly the updates that the bucket names, once they are admitted here too."""
    chosen = tuple(one for one in open_round.admissions if closing.get(one.participant) == one.digest)
    checks = [open_round.submissions.get(name) for name in closing]
    under_way = any(one is None or one.check is CheckState.CHECKING for one in checks)
    # At the deadline the merge fetches what is missing. What is refused today, it drops.
    if under_way and (at < state.deadline(open_round) or state.away is not None):
        return state, []
    return _close(state, open_round, head, chosen, at)


def _close(state: JobState, open_round: OpenRound, head: Head, chosen: tuple[Admission, ...], at: float) -> Step:
    have = open_round.closing or {one.participant for one in chosen}
    left_out = [name for name in open_round.plan.cohort if name not in have]
    note = JobEvent(
        at=at,
        kind=EventKind.ROUND_CLOSED,
        round=open_round.round,
        message=f"without {', '.join(left_out)}" if left_out else "",
    )
    merge = Merge(
        plan=open_round.plan,
        plan_digest=open_round.plan_digest,
        base=head,
        admissions=chosen,
        quorum=state.quorum_of(open_round.plan),
    )
    return replace(state, stage=Stage.MERGE), [note, merge]

"""Participants that join from elsewhere: what follows when one becomes a member, is revoked or leaves."""

from __future__ import annotations

from dataclasses import replace

from photon.api.status import MemberState
from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds import opening
from photon_aggregator.rounds.closing import maybe_close
from photon_aggregator.rounds.events import Action, JobEvent, Members
from photon_aggregator.rounds.state import JobState
from photon_aggregator.rounds.steps import Step

_SAID = {
    MemberState.INVITED: "invited",
    MemberState.AWAITING_APPROVAL: "enrolled; waits for approval",
    MemberState.ACTIVE: "is a member",
    MemberState.REVOKED: "its access was revoked",
    MemberState.LEFT: "has left the job",
}


def members(state: JobState, event: Members) -> Step:
    """Where participants stand has changed, or is known for the first time."""
    known = {name: event.states[name] for name in sorted(state.settings.remote) if name in event.states}
    told = state.members if state.members_known else event.before
    notes: list[Action] = [
        JobEvent(
            at=event.at,
            kind=EventKind.ACCESS_CHANGED,
            round=state.head.round if state.head is not None else 0,
            participant=name,
            reason=where.value,
            message=_SAID[where],
        )
        for name, where in known.items()
        if told.get(name, MemberState.INVITED) is not where
    ]
    waits = state.lacks_members
    active = {name for name, where in known.items() if where is MemberState.ACTIVE}
    before = {name for name, where in state.members.items() if where is MemberState.ACTIVE}
    # After a restart all members count as heard, as all participants do.
    unheard = state.unheard & active | ((active - before - state.seen.keys()) if state.members_known else frozenset())
    state = replace(
        state,
        members=known,
        member_keys={name: event.keys[name] for name in known if name in event.keys},
        unheard=frozenset(unheard),
        # Until now it has waited without a word.
        lacks_members=waits and state.members_known,
    )
    if state.stage is Stage.PLAN and waits:
        state, actions = opening.plan_next(state, event.at)
        return state, [*notes, *actions]
    open_round = state.open
    # Of those that were revoked, or have left, no update is awaited: fewer may be a quorum now.
    if (
        open_round is not None
        and open_round.quorum_at is None
        and len(open_round.admissions) >= state.quorum_of(open_round.plan)
    ):
        state = replace(state, open=replace(open_round, quorum_at=event.at))
        notes.append(JobEvent(at=event.at, kind=EventKind.QUORUM_REACHED, round=open_round.round))
    state, actions = maybe_close(state, event.at)
    if not actions:
        state, actions = opening.settle(state, event.at)
    return state, [*notes, *actions]

"""The round as a pure state machine: ``advance(state, event) -> (state, actions)``.

No I/O and no clock: events carry their times, and actions say what is wanted. Duplicates, late comers and events of
another round change nothing, so an action may be repeated after a crash and two aggregators may work on one bucket.

    Init --Recovered--> Plan --PlanReady--> Train --(all | grace | deadline)--> Merge --Committed--> Plan ...
                          ^                   +--(deadline without quorum: Wait, or Fail: Done)        |
                          +------------------- Evaluate <--(a stop condition needs it, or the end)-----+
                                                  +--> Done
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds.closing import closed, maybe_close
from photon_aggregator.rounds.events import (
    Action,
    Admitted,
    Ahead,
    Broken,
    Closed,
    Committed,
    Ended,
    Evaluated,
    Event,
    Heartbeat,
    JobEvent,
    Jumped,
    ManifestFound,
    Members,
    NoModel,
    NotFinite,
    Outcome,
    PlanReady,
    Recovered,
    RefusalSeen,
    Scanned,
    StorageAway,
    StorageBack,
    Submitted,
    Tick,
    UpdateRefused,
)
from photon_aggregator.rounds.members import members
from photon_aggregator.rounds.opening import committed, ended, not_finite, plan_ready, recovered, settle
from photon_aggregator.rounds.presence import evaluated, heartbeat
from photon_aggregator.rounds.state import JobState
from photon_aggregator.rounds.steps import Step, end, scan_wanted, soon
from photon_aggregator.rounds.submissions import admitted, refusal_seen, refused, submitted
from photon_aggregator.rounds.waiting import counted, jumped, lacks_quorum, storage_away, storage_back


def advance(state: JobState, event: Event) -> Step:
    """What the job is after ``event``, and what is to be done about it."""
    if state.stage is Stage.DONE and not isinstance(event, Heartbeat | Evaluated | Members):
        return state, []
    if not isinstance(event, Jumped):
        # By what held until now.
        state = counted(state, event.at)
    match event:
        case Recovered():
            return recovered(state, event)
        case NoModel():
            return (replace(state, lacks_model=True) if state.stage is Stage.INIT else state), []
        case PlanReady():
            return plan_ready(state, event)
        case Submitted() | ManifestFound():
            return submitted(state, event)
        case Admitted():
            return admitted(state, event)
        case UpdateRefused():
            return refused(state, event)
        case RefusalSeen():
            return refusal_seen(state, event)
        case Closed():
            return closed(state, event)
        case Committed():
            return committed(state, event)
        case NotFinite():
            return not_finite(state, event)
        case Evaluated():
            return evaluated(state, event)
        case Heartbeat():
            return heartbeat(state, event)
        case Members():
            return members(state, event)
        case Ahead():
            return soon(state, event.at), []
        case Scanned():
            return _scanned(state, event)
        case Tick():
            return _tick(state, event.at)
        case Ended():
            return ended(state, event)
        case Jumped():
            return jumped(state, event.seconds), []
        case StorageAway():
            return storage_away(state, event)
        case StorageBack():
            return storage_back(state, event.at)
        case Broken():
            return end(state, Outcome(reason=event.reason, message=event.message[:1024], failed=True), event.at)
        case _:
            assert_never(event)


def next_wake(state: JobState) -> float | None:
    """When the machine wants a Tick; None while only events can change anything."""
    times: list[float] = []
    if state.stage is Stage.TRAIN and state.open is not None and state.away is None:
        # A check under way holds the end up, and has an event of its own.
        if not state.open.overdue and not state.open.under_check():
            times.append(state.deadline(state.open))
        if state.open.quorum_at is not None and state.settings.grace_seconds is not None:
            times.append(state.open.quorum_at + state.settings.grace_seconds)
    if state.stage is Stage.EVALUATE and state.away is None:
        times.append(state.evaluate_until)
    if state.stage in (Stage.TRAIN, Stage.EVALUATE) and not state.scanning:
        times.append(state.next_scan_at)
    if state.stage is not Stage.DONE:
        silent = state.settings.absent_seconds
        times += [state.last_heartbeat(n) + silent for n in state.settings.participants if n not in state.absent]
    return min(times, default=None)


def _scanned(state: JobState, event: Scanned) -> Step:
    at = event.at
    if state.open is not None and not state.open.scanned and state.open.round == event.open_round:
        state = replace(state, open=replace(state.open, scanned=True))
    state = replace(state, scanning=False, scanned_at=at, next_scan_at=at + state.settings.scan_seconds)
    waiting = lacks_quorum(state)
    if waiting is not None and at < state.deadline(waiting):
        # It began before the deadline: the next one sees all that was in time.
        state = soon(state, at)
    return maybe_close(state, at)


def _tick(state: JobState, at: float) -> Step:
    gone = frozenset(n for n in state.settings.participants if not state.present(n, at)) - state.absent
    round_number = state.head.round if state.head is not None else 0
    actions: list[Action] = [
        JobEvent(
            at=at,
            kind=EventKind.PARTICIPANT_ABSENT,
            round=round_number,
            participant=name,
            message=f"no word for {at - state.seen[name]:.0f} s",
        )
        for name in sorted(gone)
        if name in state.seen
    ]
    state = replace(state, absent=state.absent | gone) if gone else state
    state, more = maybe_close(state, at)
    actions += more
    if not more:
        state, more = settle(state, at)
        actions += more
    if state.stage in (Stage.TRAIN, Stage.EVALUATE) and not state.scanning and at >= state.next_scan_at:
        state = replace(state, scanning=True)
        actions.append(scan_wanted(state))
    return state, actions

"""What a job waits for, and that no time runs out meanwhile: the object store, and the quorum of a round."""

from __future__ import annotations

from dataclasses import replace

from photon_aggregator.events import Note, NoteKind, StorageAway
from photon_aggregator.state import Away, JobState, OpenRound, Stage
from photon_aggregator.steps import Step


def storage_away(state: JobState, event: StorageAway) -> Step:
    """Work waits for the object store."""
    first = state.away is None
    since = event.at if state.away is None else state.away.since
    state = replace(state, away=Away(since=since, reason=event.reason, message=event.message[:1024]))
    if not first:
        return state, []
    return state, [_note(state, event.at, NoteKind.STORAGE_AWAY, event.reason.value, event.message[:1024])]


def storage_back(state: JobState, at: float) -> Step:
    """The store does what it is asked for again. The time without it counts against nobody: nothing could arrive."""
    if state.away is None:
        return state, []
    gone = max(0.0, at - state.away.since)
    state = replace(_shifted(state, gone, at), away=None)
    return state, [_note(state, at, NoteKind.STORAGE_BACK, "", f"after {gone:.0f} s")]


def _shifted(state: JobState, seconds: float, at: float) -> JobState:
    """The state with all that counts towards a deadline begun later by ``seconds``, though not later than now."""
    open_round = state.open
    if open_round is not None:
        quorum_at = open_round.quorum_at
        open_round = replace(
            open_round,
            opened_at=min(open_round.opened_at + seconds, at),
            quorum_at=min(quorum_at + seconds, at) if quorum_at is not None else None,
        )
    return replace(state, open=open_round, evaluate_until=state.evaluate_until + seconds)


def lacks_quorum(state: JobState) -> OpenRound | None:
    """The open round, when its deadline is over and it waits for its quorum."""
    open_round = state.open
    if state.stage is not Stage.TRAIN or open_round is None or not open_round.overdue:
        return None
    return open_round if open_round.quorum_at is None and open_round.closing is None else None


def _note(state: JobState, at: float, kind: NoteKind, reason: str, message: str) -> Note:
    round_number = state.head.round if state.head is not None else 0
    return Note(at=at, kind=kind, round=round_number, reason=reason, message=message)

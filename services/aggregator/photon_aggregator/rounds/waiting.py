"""What a job waits for, and that no time runs out meanwhile: the object store, and the quorum of a round."""

from __future__ import annotations

from dataclasses import replace

from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds.events import JobEvent, StorageAway
from photon_aggregator.rounds.state import Away, JobState, OpenRound
from photon_aggregator.rounds.steps import Step
from photon_aggregator.rounds.stopping import awaited, evaluation_due


def storage_away(state: JobState, event: StorageAway) -> Step:
    """Work waits for the object store."""
    first = state.away is None
    since = event.at if state.away is None else state.away.since
    state = replace(state, away=Away(since=since, reason=event.reason, message=event.message[:1024]))
    if not first:
        return state, []
    return state, [_note(state, event.at, EventKind.STORAGE_AWAY, event.reason.value, event.message[:1024])]


def storage_back(state: JobState, at: float) -> Step:
    """The store does what it is asked for again. The time without it does not count: nothing could arrive."""
    if state.away is None:
        return state, []
    gone = max(0.0, at - state.away.since)
    state = replace(_shifted(state, gone, at), away=None)
    return state, [_note(state, at, EventKind.STORAGE_BACK, "", f"after {gone:.0f} s")]


def counted(state: JobState, at: float) -> JobState:
    """The state with the deadline of the round counting from ``at``, while training cannot begin: those of its cohort
    that do not evaluate the model before are no quorum.

    Once a quorum can train, those that still evaluate hold the deadline up until one deadline after the plan at most.
    """
    open_round = state.open
    if open_round is None or open_round.overdue or open_round.closing is not None or state.stage is not Stage.TRAIN:
        return state
    if state.head is None or not evaluation_due(state):
        return state
    have = {admission.participant for admission in open_round.admissions}
    here = {name for name in state.able(open_round.plan) if name in have or state.present(name, at)}
    evaluate = (here - have).intersection(awaited(state, at))
    few = len(here - evaluate) < state.quorum_of(open_round.plan)
    if not evaluate or (not few and at >= open_round.opened_at + state.settings.deadline_seconds):
        return state
    before = open_round.counts_from if open_round.counts_from is not None else open_round.opened_at
    return replace(state, open=replace(open_round, counts_from=at)) if at > before else state


def jumped(state: JobState, seconds: float) -> JobState:
    """The state as it is when the clock went on by ``seconds`` that have not passed: as long ago as it was."""

    def moved(at: float | None) -> float | None:
        return at + seconds if at is not None else None

    open_round = state.open
    if open_round is not None:
        open_round = replace(
            open_round,
            opened_at=open_round.opened_at + seconds,
            counts_from=moved(open_round.counts_from),
            quorum_at=moved(open_round.quorum_at),
            submissions={name: replace(one, at=one.at + seconds) for name, one in open_round.submissions.items()},
        )
    return replace(
        state,
        started_at=state.started_at + seconds,
        open=open_round,
        seen={name: at + seconds for name, at in state.seen.items()},
        evaluate_until=state.evaluate_until + seconds,
        scanned_at=state.scanned_at + seconds,
        next_scan_at=state.next_scan_at + seconds,
        away=replace(state.away, since=state.away.since + seconds) if state.away is not None else None,
    )


def _shifted(state: JobState, seconds: float, at: float) -> JobState:
    """The state with all that counts towards a deadline begun later by ``seconds``, though not later than now."""
    open_round = state.open
    if open_round is not None:
        quorum_at = open_round.quorum_at
        counts_from = open_round.counts_from if open_round.counts_from is not None else open_round.opened_at
        open_round = replace(
            open_round,
            counts_from=max(counts_from, min(counts_from + seconds, at)),
            quorum_at=min(quorum_at + seconds, at) if quorum_at is not None else None,
        )
    return replace(state, open=open_round, evaluate_until=state.evaluate_until + seconds)


def lacks_quorum(state: JobState) -> OpenRound | None:
    """The open round, when its deadline is over and it waits for its quorum."""
    open_round = state.open
    if state.stage is not Stage.TRAIN or open_round is None or not open_round.overdue:
        return None
    return open_round if open_round.quorum_at is None and open_round.closing is None else None


def _note(state: JobState, at: float, kind: EventKind, reason: str, message: str) -> JobEvent:
    round_number = state.head.round if state.head is not None else 0
    return JobEvent(at=at, kind=kind, round=round_number, reason=reason, message=message)

"""What every part of the round machine is made of: a step, the end of a job, and when to scan the bucket."""

from __future__ import annotations

from dataclasses import replace

from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds.events import Action, Finish, JobEvent, Outcome, Scan
from photon_aggregator.rounds.state import SHORTEST_SCAN_SECONDS, JobState
from photon_aggregator.rounds.stopping import evaluation_due

Step = tuple[JobState, list[Action]]


def end(state: JobState, outcome: Outcome, at: float) -> Step:
    state = replace(state, stage=Stage.DONE, ending=None, outcome=outcome)
    round_number = state.head.round if state.head is not None else 0
    note = JobEvent(
        at=at, kind=EventKind.JOB_ENDED, round=round_number, reason=outcome.reason.value, message=outcome.message
    )
    return state, [note, Finish(outcome=outcome)]


def scan_wanted(state: JobState) -> Scan:
    return Scan(
        open_round=state.open.round if state.open is not None else None,
        evaluated_round=state.head.round if state.head is not None and evaluation_due(state) else None,
    )


def soon(state: JobState, at: float) -> JobState:
    """Scan the bucket as soon as that may tell something new."""
    soon = max(at, state.scanned_at + SHORTEST_SCAN_SECONDS)
    return replace(state, next_scan_at=soon) if state.next_scan_at > soon else state

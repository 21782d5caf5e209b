"""What a round without its quorum lacks, in words: who is missing, and what each of them is doing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from photon.api.status import JobReason
from photon_aggregator.rounds.events import Outcome
from photon_aggregator.rounds.state import CheckState, JobState, OpenRound
from photon_aggregator.rounds.stopping import awaited, evaluation_due

# A condition's message has 1024.
_MOST_CHARACTERS: Final = 640


def second(at: float) -> str:
    """``2026-01-31T12:00:00Z`` of seconds since the epoch."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def doing(state: JobState, name: str, at: float) -> str:
    """What a participant is doing, as far as the rounds know; empty where that is no more than that it is here."""
    submission = state.open.submissions.get(name) if state.open is not None else None
    if submission is not None and submission.reason is not None:
        return f"Refused: {submission.reason.value}"
    if submission is not None and submission.check is CheckState.CHECKING:
        return "Checking"
    if not state.present(name, at):
        heard = state.seen.get(name)
        if heard is None:
            return "Absent, not heard since the aggregator started"
        return f"Absent since {second(heard)}"
    if state.head is not None and evaluation_due(state) and name in awaited(state, at):
        return "Evaluating"
    return ""


def short_of_quorum(
    state: JobState, open_round: OpenRound, at: float, activity: Callable[[str], str] | None = None
) -> str:
    """What an overdue round lacks. ``activity``: what a participant is doing, where more than ``doing`` is known."""
    need = state.quorum_of(open_round.plan)
    missing: list[str] = []
    for name in open_round.missing:
        what = activity(name) if activity is not None else doing(state, name, at)
        missing.append(f"{name} ({what})" if what else name)
        left = len(open_round.missing) - len(missing)
        if left and sum(map(len, missing)) > _MOST_CHARACTERS:
            missing.append(f"and {left} more")
            break
    return (
        f"round {open_round.round} has {len(open_round.admissions)} of the {need} updates of its quorum and "
        f"participation.roundDeadlineSeconds ({state.settings.deadline_seconds:g} s) is over; missing: "
        f"{', '.join(missing)}"
    )


def quorum_lost(state: JobState, open_round: OpenRound, at: float) -> Outcome:
    """How a job ends that does not wait for its quorum (participation.whenQuorumLost: Fail)."""
    advice = "; to resume the job, raise roundDeadlineSeconds, lower the quorum or set whenQuorumLost: Wait"
    message = short_of_quorum(state, open_round, at)[: 1024 - len(advice)]
    return Outcome(reason=JobReason.QUORUM_LOST, message=message + advice, failed=True)

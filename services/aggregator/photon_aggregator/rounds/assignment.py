"""Which task a participant gets now: a pure reading of the job's state. None: hold the request until it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from photon.api.status import JobReason
from photon.protocol.messages import RefusalReason, UpdateReply
from photon.protocol.views import Stage
from photon_aggregator.rounds.events import Outcome
from photon_aggregator.rounds.state import CheckState, JobState, OpenRound
from photon_aggregator.rounds.stopping import evaluation_due

# Another aggregator of the same job is at most so far ahead: what is said of still later rounds is an error.
LEAD_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train the open round."""

    open: OpenRound


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Evaluate the model of the head."""

    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The job has ended."""

    outcome: Outcome


def train_id(round_number: int) -> str:
    return f"train-{round_number:05d}"


def evaluate_id(round_number: int) -> str:
    return f"evaluate-{round_number:05d}"


def task_for(state: JobState, participant: str, done: str | None) -> Train | Evaluate | Leave | None:
    """The task of ``participant``, which reports that it has completed the task ``done``.

    A task that it calls done is not handed out again: one that was refused and is still there has given up on it, while
    a worker that was started again says nothing and gets it again.
    """
    if state.superseded:
        return None
    if state.outcome is not None and (state.outcome.failed or state.outcome.reason is JobReason.SUSPENDED):
        return Leave(outcome=state.outcome)
    head = state.head
    if state.outcome is None and speaks_of_later_round(state, done):
        return None
    if head is not None and evaluation_due(state) and participant in state.settings.participants:
        answered = participant in state.evaluations.get(head.round, {}) or participant in state.declined
        if not answered and done != evaluate_id(head.round) and state.outcome is None:
            return Evaluate(round=head.round)
    if state.outcome is not None:
        return Leave(outcome=state.outcome)
    if wants_update(state, participant) and state.open is not None and done != train_id(state.open.round):
        return Train(open=state.open)
    return None


def wants_update(state: JobState, participant: str) -> bool:
    """Whether the open round still waits for an update of ``participant``."""
    if state.stage is not Stage.TRAIN or state.open is None or not state.open.takes(participant):
        return False
    submission = state.open.submissions.get(participant)
    return submission is None or (submission.check is CheckState.REFUSED and not submission.final)


def cancelled(state: JobState, participant: str, task_id: str) -> bool:
    """Whether work on ``task_id`` is in vain: the round ended, or has this participant's update already."""
    number = _round_of(task_id, "train-")
    head, open_round = state.head, state.open
    if number is None or head is None:
        return False
    if number <= head.round:
        return not (number == head.round and any(u.participant == participant for u in head.commit.accepted))
    if open_round is None or number != open_round.round:
        # The plan may be on its way, or another aggregator ahead of us: let the worker go on.
        return state.outcome is not None and not state.superseded
    submission = open_round.submissions.get(participant)
    accepted = submission is not None and submission.check is CheckState.ACCEPTED
    return not accepted and (state.stage is not Stage.TRAIN or not open_round.takes(participant))


def _round_of(task_id: str, kind: str) -> int | None:
    number = task_id.removeprefix(kind)
    return int(number) if number != task_id and number.isdecimal() else None


def speaks_of_later_round(state: JobState, done: str | None) -> bool:
    """Whether a participant has completed a task of a round that this aggregator has not reached."""
    if done is None or state.head is None:
        return False
    trained, evaluated = _round_of(done, "train-"), _round_of(done, "evaluate-")
    last = state.open.round if state.open is not None else state.head.round
    if trained is not None:
        return last < trained <= last + LEAD_ROUNDS
    return evaluated is not None and state.head.round < evaluated <= state.head.round + LEAD_ROUNDS


def may_come(state: JobState, round_number: int) -> bool:
    """Whether a round that is not open here may be open at another aggregator, or in a moment here."""
    if state.head is None:
        return True
    return (
        state.outcome is None or state.superseded
    ) and state.head.round < round_number <= state.head.round + LEAD_ROUNDS


def verdict(state: JobState, participant: str, round_number: int, digest: str) -> UpdateReply | None:
    """What to answer to an update by now; None while its check (or that of an earlier one) is under way."""
    head, open_round = state.head, state.open
    if head is not None and round_number <= head.round:
        taken = round_number == head.round and any(
            update.participant == participant and update.manifest == digest for update in head.commit.accepted
        )
        if taken:
            return UpdateReply(state="accepted")
        return _refuse(RefusalReason.TOO_LATE, f"round {round_number} has ended")
    if open_round is None or open_round.round != round_number:
        if state.outcome is not None and not state.superseded:
            return _refuse(RefusalReason.TOO_LATE, "the job has ended")
        if may_come(state, round_number):
            return None
        return _refuse(RefusalReason.WRONG_ROUND, f"round {round_number} is not open")
    if participant not in open_round.plan.cohort:
        return _refuse(RefusalReason.NOT_IN_COHORT, f"{participant} is not in the cohort of round {round_number}")
    submission = open_round.submissions.get(participant)
    if submission is not None and submission.check is CheckState.ACCEPTED and open_round.takes(participant):
        if submission.digest == digest:
            # An aggregator before us may have closed the round without it.
            return UpdateReply(state="accepted") if open_round.scanned else None
        return _refuse(
            RefusalReason.ALREADY_SUBMITTED, f"round {round_number} has another update of {participant} already"
        )
    if state.stage is not Stage.TRAIN or not open_round.takes(participant):
        return _refuse(RefusalReason.TOO_LATE, f"round {round_number} was closed without this update")
    if submission is not None and submission.reason is not None:
        if submission.digest == digest:
            return _refuse(submission.reason, submission.message)
        if submission.final:
            return _refuse(
                submission.reason,
                f"{submission.checks} updates of {participant} were refused in round {round_number}, no other one is "
                f"read; the last: {submission.message}",
            )
    return None


def under_check(state: JobState, participant: str, round_number: int, digest: str) -> bool:
    """Whether this very update is being checked, or was accepted: its sender has only to wait."""
    if state.open is None or state.open.round != round_number:
        return False
    submission = state.open.submissions.get(participant)
    return submission is not None and submission.digest == digest and submission.check is not CheckState.REFUSED


def _refuse(reason: RefusalReason, message: str) -> UpdateReply:
    return UpdateReply(state="refused", reason=reason, message=message[:1024])

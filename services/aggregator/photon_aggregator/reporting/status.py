"""JobStatus from the machine's state and the books: the same figures for the terminal, the CRD and the web."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from photon.api.status import (
    MAX_SOURCES_SHOWN,
    Condition,
    ConditionType,
    JobReason,
    JobStatus,
    MemberState,
    ParticipantState,
    ParticipantStatus,
    SourceStatus,
)
from photon.protocol.figures import mean_loss, perplexity
from photon.protocol.messages import RefusalReason
from photon.protocol.records import HeldOutResult, Phase, coverage_of
from photon.protocol.views import Stage
from photon.store.objects import ObjectStore
from photon_aggregator.reporting.books import JobBooks, ParticipantBook, iso
from photon_aggregator.rounds.rollback import abandoned
from photon_aggregator.rounds.shortage import doing, second, short_of_quorum
from photon_aggregator.rounds.state import CheckState, JobState
from photon_aggregator.rounds.stopping import awaited, evaluation_due
from photon_aggregator.rounds.waiting import lacks_quorum

_BY_PHASE: dict[Phase, ParticipantState] = {
    "wait": ParticipantState.IDLE,
    "pull": ParticipantState.PULLING,
    "train": ParticipantState.TRAINING,
    "encode": ParticipantState.PUSHING,
    "push": ParticipantState.PUSHING,
    "admit": ParticipantState.CHECKING,
    "evaluate": ParticipantState.EVALUATING,
}
# Where the state of a participant is not the word for what it does.
_ACTIVITY: Final = {ParticipantState.PULLING: "Downloading", ParticipantState.PUSHING: "Uploading"}
_BY_STAGE: dict[Stage, JobReason] = {
    Stage.INIT: JobReason.WAITING_FOR_INIT,
    Stage.PLAN: JobReason.TRAINING,
    Stage.TRAIN: JobReason.TRAINING,
    Stage.MERGE: JobReason.MERGING,
    Stage.EVALUATE: JobReason.EVALUATING,
}
_REFUSALS = frozenset(reason.value for reason in RefusalReason)


class Conditions:
    """Conditions with the times at which they last flipped: the one thing of status that is remembered."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, str]] = {}

    def of(self, state: JobState, books: JobBooks, at: float) -> list[Condition]:
        outcome = state.outcome
        if outcome is None:
            running, (reason, message) = "True", _now(state, books, at)
        else:
            running, reason, message = "False", outcome.reason, outcome.message
        suspended = outcome is not None and outcome.reason is JobReason.SUSPENDED
        failed = outcome is not None and outcome.failed
        complete = outcome is not None and not failed and not suspended and not state.superseded
        found = [self._condition(ConditionType.RUNNING, running, reason, message, at)]
        for kind, holds in (
            (ConditionType.COMPLETE, complete),
            (ConditionType.FAILED, failed),
            (ConditionType.SUSPENDED, suspended),
        ):
            status = "True" if holds else "False"
            found.append(self._condition(kind, status, reason, message if holds else "", at))
        return found

    def _condition(self, kind: ConditionType, status: str, reason: JobReason, message: str, at: float) -> Condition:
        known = self._since.get(kind.value)
        if known is None or known[0] != status:
            known = self._since[kind.value] = (status, iso(at))
        return Condition(
            type=kind.value,
            status=status,
            reason=reason.value,
            message=message[:1024],
            last_transition_time=known[1],
        )


def _now(state: JobState, books: JobBooks, at: float) -> tuple[JobReason, str]:
    """What a job that goes on is at, or what it waits for."""
    if state.away is not None:
        return state.away.reason, f"{state.away.message} (since {second(state.away.since)}; it is tried again)"
    if state.lacks_members:
        return JobReason.WAITING_FOR_PARTICIPANTS, _not_yet_members(state)
    waiting = lacks_quorum(state)
    if waiting is not None:
        return JobReason.WAITING_FOR_QUORUM, short_of_quorum(
            state, waiting, at, lambda name: _activity(state, books, name, at)
        )
    if not state.read:
        return JobReason.STARTING, ""
    return _BY_STAGE[state.stage], _rolled_back(state)


def _activity(state: JobState, books: JobBooks, name: str, at: float) -> str:
    """What a participant is doing, by its own reports where it sends any."""
    known, book = doing(state, name, at), books.book(name)
    if book.idle or book.progress is None or not state.present(name, at):
        return known or "Idle"
    where = _BY_PHASE.get(book.progress.phase, ParticipantState.IDLE)
    if where is ParticipantState.TRAINING and state.open is not None:
        return f"Training, step {book.progress.step} of {state.open.plan.local_steps}"
    return _ACTIVITY.get(where) or known or where.value


def _not_yet_members(state: JobState) -> str:
    """Who is awaited before the next round begins, and where each stands."""
    settings = state.settings
    if not state.members_known:
        return "the records of members are not read yet"
    missing = [
        f"{name} ({state.members.get(name, MemberState.INVITED).value})"
        for name in settings.participants
        if not state.eligible(name)
    ] + [f"{name} (its worker has not been heard)" for name in sorted(state.unheard)]
    here = len(settings.participants) - len(missing)
    need = min(settings.min_participants, len(settings.participants)) if state.head and state.head.round == 0 else 1
    return f"{here} of the {need} participants that the next round needs are here; not yet: {', '.join(missing)}"


def _rolled_back(state: JobState) -> str:
    """What is said of a job whose model is that of an earlier round, until the next round is committed."""
    returned = state.head.commit.rollback if state.head is not None else None
    if state.head is None or returned is None:
        return ""
    why = ": ".join(filter(None, (returned.reason.value, returned.message)))
    return f"rolled back in round {state.head.round} to the model of round {returned.to} ({why})"


def under_evaluation(state: JobState, at: float) -> int | None:
    """The head's round while an evaluation of it is still expected."""
    under_way = state.head is not None and evaluation_due(state) and awaited(state, at)
    return state.head.round if state.head is not None and under_way else None


def evaluated_round(state: JobState, at: float) -> int | None:
    """The last round whose evaluations are all in."""
    unfinished = under_evaluation(state, at)
    passed_over = abandoned(state.trail) | {unfinished}
    return max((r for r, results in state.evaluations.items() if results and r not in passed_over), default=None)


def job_status(state: JobState, books: JobBooks, store: ObjectStore, conditions: Conditions, at: float) -> JobStatus:
    """All figures of the job now."""
    head = state.head
    measured = evaluated_round(state, at)
    results = state.evaluations[measured] if measured is not None else {}
    loss, baseline = mean_loss(results.values()), mean_loss(state.baseline.values())
    participants = [_participant(state, books, name, results, at) for name in state.settings.participants]
    committed = head.round if head is not None else 0
    under_way = committed if state.outcome is not None or head is None else committed + 1
    return JobStatus(
        conditions=conditions.of(state, books, at),
        round=min(under_way, max(committed, state.settings.rounds)),
        committed_rounds=committed,
        rounds=state.settings.rounds,
        participants=participants,
        participants_present=sum(participant.state is not ParticipantState.ABSENT for participant in participants),
        tokens=head.commit.tokens if head is not None else 0,
        train_loss=head.commit.metrics.train_loss if head is not None and head.commit.metrics is not None else None,
        validation_loss=loss,
        validation_perplexity=perplexity(loss) if loss is not None else None,
        evaluated_round=measured,
        evaluated_participants=len(results) if measured is not None else None,
        coverage=coverage_of(results.values()),
        baseline_perplexity=perplexity(baseline) if baseline is not None else None,
        bytes_up=sum(participant.bytes_up for participant in participants),
        bytes_down=sum(participant.bytes_down for participant in participants),
        eta_seconds=_eta(state, books, at),
        checkpoint=store.uri(head.commit.folder) if head is not None else None,
        last_commit=head.digest if head is not None else None,
    )


def _eta(state: JobState, books: JobBooks, at: float) -> float | None:
    pace = books.seconds_per_round()
    if state.outcome is not None:
        return 0.0
    if pace is None or state.head is None:
        return None
    running = at - books.committed_at if books.committed_at is not None else 0.0
    left = state.settings.rounds - state.head.round
    return max(0.0, left * pace - min(running, pace))


def _participant(
    state: JobState, books: JobBooks, name: str, results: Mapping[str, HeldOutResult], at: float
) -> ParticipantStatus:
    book, totals = books.book(name), books.totals
    progress = book.progress
    where, reason, message = participant_state(state, book, name, at)
    before, text = last_round_of(state, books, name)
    if reason is not None and before is not None:
        text = f"{text} ({before})"
    message = "; ".join(filter(None, (message, text)))
    result = results.get(name)
    loss = mean_loss([result]) if result is not None else None
    training = progress is not None and progress.task_id.startswith("train-")
    return ParticipantStatus(
        name=name,
        state=where,
        in_cohort=state.open is not None and name in state.open.plan.cohort,
        reason=reason or before,
        message=message[:1024],
        last_round=totals.last_round.get(name),
        step=progress.step if progress is not None and training else 0,
        tokens=totals.tokens[name],
        tokens_per_second=progress.tokens_per_second if progress is not None else None,
        learning_rate=book.learning_rate,
        memory_bytes=progress.memory_bytes if progress is not None else None,
        mfu=progress.mfu if progress is not None else None,
        loss=book.loss,
        skipped_steps=book.skipped_steps,
        perplexity=perplexity(loss) if loss is not None else None,
        coverage=coverage_of([result]) if result is not None else None,
        sources=_sources(result) if result is not None else [],
        last_seen_seconds=max(0.0, at - state.seen[name]) if name in state.seen else None,
        access=state.members.get(name, MemberState.INVITED) if name in state.settings.remote else None,
        key=state.member_keys.get(name),
        bytes_up=book.usage.bytes_up,
        bytes_down=book.usage.bytes_down,
    )


def last_round_of(state: JobState, books: JobBooks, name: str) -> tuple[str | None, str]:
    """What became of a participant's update in the last round, where it is not simply in the model: reason, message."""
    head = state.head
    if head is None:
        return None, ""
    log = books.logs.get(head.round)
    entry = log.participants.get(name) if log is not None else None
    if entry is not None and entry.outcome in _REFUSALS:
        return entry.outcome, ": ".join(filter(None, (f"round {head.round} did not take its update", entry.message)))
    scaled = [update for update in head.commit.accepted if update.participant == name and update.clip < 1.0]
    if scaled:
        return None, (
            f"round {head.round} took its update scaled by {scaled[0].clip:.3g}: its norm of {scaled[0].norm:.3g} was "
            "far beyond the others' (exchange.clipToMedian)"
        )
    return None, ""


def _sources(result: HeldOutResult) -> list[SourceStatus]:
    """The parts of a participant's result, where it has several data folders."""
    if len(result.sources) < 2:
        return []
    found = []
    for name, sums in sorted(result.sources.items())[:MAX_SOURCES_SHOWN]:
        own = perplexity(sums.loss_sum / sums.tokens) if sums.tokens else None
        found.append(SourceStatus(name=name, perplexity=own, coverage=coverage_of([sums])))
    return found


def _absence(state: JobState, book: ParticipantBook, name: str) -> str:
    """Since when a participant is silent, and what it did last: a person who looks for it knows where to begin."""
    heard = state.seen.get(name)
    if heard is None:
        return f"not heard of since the aggregator started at {second(state.started_at)}"
    progress = book.progress
    if book.idle or progress is None:
        doing = "waiting for work"
    else:
        step = f", step {progress.step}" if progress.phase == "train" else ""
        doing = f"in {progress.task_id}, phase {progress.phase}{step}"
    return f"no word since {second(heard)}; it was {doing}"


def participant_state(
    state: JobState, book: ParticipantBook, name: str, at: float
) -> tuple[ParticipantState, str | None, str]:
    """What a participant does now, and why it was left out where it was: a reason, and a message."""
    open_round = state.open
    submission = open_round.submissions.get(name) if open_round is not None else None
    why: tuple[str | None, str] = (None, "")
    if submission is not None and submission.check is CheckState.REFUSED and submission.reason is not None:
        why = submission.reason.value, submission.message
    elif open_round is not None and name in open_round.plan.left_out:
        why = open_round.plan.left_out[name].value, f"left out of round {open_round.round}"
    if name not in state.seen or not state.present(name, at):
        return ParticipantState.ABSENT, *(why if why[0] else (None, _absence(state, book, name)))
    if submission is not None and submission.check is CheckState.CHECKING:
        return ParticipantState.CHECKING, *why
    if not book.idle and book.progress is not None:
        return _BY_PHASE.get(book.progress.phase, ParticipantState.IDLE), *why
    if submission is not None:
        accepted = submission.check is CheckState.ACCEPTED
        return (ParticipantState.SUBMITTED if accepted else ParticipantState.REFUSED), *why
    if open_round is not None and state.stage is Stage.MERGE and name in open_round.plan.cohort:
        return ParticipantState.LATE, None, f"round {open_round.round} was closed without its update"
    return ParticipantState.IDLE, *why

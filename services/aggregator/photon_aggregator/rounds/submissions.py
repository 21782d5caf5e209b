"""Updates of the open round: handed in, checked, admitted or refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from photon.protocol.messages import RefusalReason
from photon.protocol.records import UpdateManifest
from photon.protocol.views import EventKind, Stage
from photon_aggregator.rounds.closing import maybe_close
from photon_aggregator.rounds.events import (
    Action,
    Admitted,
    CheckUpdate,
    JobEvent,
    ManifestFound,
    RefusalSeen,
    Submitted,
    UpdateRefused,
)
from photon_aggregator.rounds.state import CheckState, JobState, OpenRound, Submission
from photon_aggregator.rounds.steps import Step


def submitted(state: JobState, event: Submitted | ManifestFound) -> Step:
    open_round = state.open
    if state.stage is not Stage.TRAIN or open_round is None or open_round.round != event.round:
        return state, []
    if not open_round.takes(event.participant):
        return state, []
    before = open_round.submissions.get(event.participant)
    checks = 1
    if before is not None:
        if before.check is not CheckState.REFUSED:
            return state, []
        if isinstance(event, Submitted) and before.final:
            return state, []
        if before.digest == event.digest and not _may_differ_now(before, event):
            return state, []
        checks += before.checks
    submission = Submission(at=event.at, digest=event.digest, check=CheckState.CHECKING, checks=checks)
    check = CheckUpdate(
        plan=open_round.plan,
        plan_digest=open_round.plan_digest,
        participant=event.participant,
        manifest=event.manifest,
        digest=event.digest,
    )
    return replace(state, open=_with(open_round, event.participant, submission)), [check]


def _may_differ_now(before: Submission, event: Submitted | ManifestFound) -> bool:
    """Whether another check of the same update may end otherwise: only where a part was missing, which may be there by
    now. What bytes are, they stay."""
    return isinstance(event, Submitted) and before.refusal_seen and before.reason is RefusalReason.MISSING_PART


def _checked(state: JobState, round_number: int, participant: str, digest: str) -> OpenRound | None:
    """The open round, when it waits for the verdict on exactly this update."""
    if state.stage is not Stage.TRAIN or state.open is None or state.open.round != round_number:
        return None
    submission = state.open.submissions.get(participant)
    if submission is None or submission.digest != digest or submission.check is not CheckState.CHECKING:
        return None
    return state.open


def admitted(state: JobState, event: Admitted) -> Step:
    admission = event.admission
    open_round = _checked(state, event.round, admission.participant, admission.digest)
    if open_round is None:
        return state, []
    submission = replace(open_round.submissions[admission.participant], check=CheckState.ACCEPTED, admission=admission)
    open_round = _with(open_round, admission.participant, submission)
    notes: list[Action] = [
        JobEvent(
            at=event.at,
            kind=EventKind.UPDATE_ACCEPTED,
            round=event.round,
            participant=admission.participant,
            message=", ".join([f"norm {admission.norm:.6g}", *_noteworthy(admission.manifest)]),
        )
    ]
    if open_round.quorum_at is None and len(open_round.admissions) >= state.quorum_of(open_round.plan):
        open_round = replace(open_round, quorum_at=event.at)
        notes.append(JobEvent(at=event.at, kind=EventKind.QUORUM_REACHED, round=event.round))
    state, actions = maybe_close(replace(state, open=open_round), event.at)
    return state, [*notes, *actions]


def _noteworthy(manifest: UpdateManifest) -> Iterator[str]:
    """What is unusual about an update that counts, in one sentence."""
    metrics = manifest.metrics
    if metrics.skipped_steps:
        yield f"{metrics.skipped_steps} of {manifest.local_steps} steps skipped (loss or gradient not finite)"
    if metrics.fresh_optimizer:
        yield "trained with a fresh inner optimizer"


def refused(state: JobState, event: UpdateRefused) -> Step:
    open_round = _checked(state, event.round, event.participant, event.digest)
    if open_round is None:
        return state, []
    submission = replace(
        open_round.submissions[event.participant],
        check=CheckState.REFUSED,
        reason=event.reason,
        message=event.message,
    )
    note = JobEvent(
        at=event.at,
        kind=EventKind.UPDATE_REFUSED,
        round=event.round,
        participant=event.participant,
        reason=event.reason.value,
        message=event.message,
    )
    state = replace(state, open=_with(open_round, event.participant, submission))
    if event.reason is RefusalReason.ALREADY_SUBMITTED:
        # Another aggregator admitted this participant's earlier update: it counts, so find it now.
        state = replace(state, next_scan_at=event.at)
    state, actions = maybe_close(state, event.at) if open_round.closing is not None else (state, [])
    return state, [note, *actions]


def refusal_seen(state: JobState, event: RefusalSeen) -> Step:
    open_round = state.open
    if open_round is None or open_round.round != event.round:
        return state, []
    submission = open_round.submissions.get(event.participant)
    if submission is None or submission.digest != event.digest or submission.check is not CheckState.REFUSED:
        return state, []
    if submission.refusal_seen:
        return state, []
    return replace(state, open=_with(open_round, event.participant, replace(submission, refusal_seen=True))), []


def _with(open_round: OpenRound, participant: str, submission: Submission) -> OpenRound:
    return replace(open_round, submissions={**open_round.submissions, participant: submission})

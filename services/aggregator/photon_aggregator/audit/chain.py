"""Commits: each follows from the one before it, counts on from it, and a rollback returns to what it names."""

from __future__ import annotations

from collections.abc import Iterator

from photon.protocol.ranges import MAX_COUNT
from photon.protocol.records import Commit
from photon.protocol.rollback import problem, rollback_commit, since
from photon.store import keys
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.rounds.events import Head


def check_chain(found: Round, job: Audited) -> Iterator[Finding]:
    """Job, number, and the digest of the commit before it."""
    key = keys.commit(found.number)
    if found.head is None:
        if key not in found.unreadable:
            yield found.finding(key, Reason.MISSING, f"the commit of round {found.number} of {job.last} is missing")
        return
    commit = found.head.commit
    if commit.job != job.digest:
        yield found.finding(key, Reason.WRONG_JOB, f"it is of job {commit.job[:12]}, {keys.JOB} is {job.digest[:12]}")
    if commit.round != found.number:
        yield found.finding(key, Reason.BROKEN_CHAIN, f"it says that it is of round {commit.round}")
    before = job.digests.get(found.number - 1)
    if commit.previous != before and (before is not None or found.number == 0):
        said = "none" if commit.previous is None else commit.previous[:12]
        due = "none" if before is None else before[:12]
        yield found.finding(key, Reason.BROKEN_CHAIN, f"the commit before it is {due}, it names {said}")


def check_first(found: Round, _job: Audited) -> Iterator[Finding]:
    """Round 0 is an initial model and nothing else."""
    if found.number != 0 or found.head is None:
        return
    commit, key = found.head.commit, keys.commit(0)
    counted = (commit.outer_steps, commit.tokens, commit.sequential_steps)
    if commit.plan is not None or commit.accepted or commit.rollback is not None or commit.state or any(counted):
        yield found.finding(key, Reason.WRONG_TOTALS, "the first commit holds more than an initial model")


def check_totals(found: Round, _job: Audited) -> Iterator[Finding]:
    """Tokens, both step counters and the last rollback follow from the commit before and what the round took."""
    commit, base, plan = found.merged, found.base, found.plan
    if commit is None or base is None or plan is None:
        return
    due = {
        "outerSteps": (commit.outer_steps, base.commit.outer_steps + 1),
        "tokens": (
            commit.tokens,
            min(MAX_COUNT, base.commit.tokens + sum(update.tokens for update in commit.accepted)),
        ),
        "sequentialSteps": (commit.sequential_steps, base.commit.sequential_steps + plan.value.local_steps),
        "since": (commit.since, since(base.commit)),
    }
    for name, (said, expected) in due.items():
        if said != expected:
            yield found.finding(keys.commit(found.number), Reason.WRONG_TOTALS, f"{name} is {said}, not {expected}")


def check_rollback(found: Round, job: Audited) -> Iterator[Finding]:
    """A rollback is exactly the commit that its reason, its target and the commit before it give."""
    head, base = found.head, found.base
    if head is None or base is None or head.commit.rollback is None:
        return
    key, rollback = keys.commit(found.number), head.commit.rollback
    if not rollback.to < found.number or job.digests.get(rollback.to) is None:
        yield found.finding(key, Reason.WRONG_ROLLBACK, f"it returns to round {rollback.to}, which is not before it")
        return
    target = _target(job, rollback.to)
    if target is None:
        return  # that commit is a finding of its own
    wrong = problem(head.commit, target.commit, target.digest)
    if wrong is None and head.commit != _due(head.commit, base, target):
        wrong = "its counters or its quarantine do not follow from the commits that it names"
    if wrong is not None:
        yield found.finding(key, Reason.WRONG_ROLLBACK, wrong)


def _target(job: Audited, number: int) -> Head | None:
    known = next((head for head in job.trail if head.round == number), None)
    return known if known is not None else job.place.commit(number)


def _due(commit: Commit, base: Head, target: Head) -> Commit:
    rollback = commit.rollback
    assert rollback is not None
    return rollback_commit(
        base.commit,
        base.digest,
        target.commit,
        target.digest,
        reason=rollback.reason,
        message=rollback.message,
        offenders=rollback.offenders,
        quarantine=list(commit.quarantine),
        outer_scale=commit.outer_scale,
    )

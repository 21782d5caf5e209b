"""Evaluations are of the model of their round, and an end that evaluations decided is backed by them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from photon.api.status import JobReason
from photon.protocol.figures import mean_loss, perplexity
from photon.protocol.records import End, Evaluation, HeldOutResult, Plan
from photon.store import keys
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError


def check_evaluations(found: Round, job: Audited) -> Iterator[Finding]:
    """Each names this commit and the participant whose file it is.

    Its figures are the participant's word: only those that a plan repeats can be compared.
    """
    if found.head is None:
        return
    unreadable = sorted(key for key in found.unreadable if "/evaluations/" in key)
    if unreadable:
        job.notes.append(f"{', '.join(unreadable)}: no evaluation of this version; it counts nowhere")
    for name, stored in found.evaluations.items():
        problem = _problem(name, stored.value, found, job)
        if problem is not None:
            yield found.finding(stored.key, Reason.WRONG_EVALUATION, problem)


def _problem(name: str, evaluation: Evaluation, found: Round, job: Audited) -> str | None:
    assert found.head is not None
    exact: dict[str, tuple[object, object]] = {
        "job": (evaluation.job, job.digest),
        "round": (evaluation.round, found.number),
        "participant": (evaluation.participant, name),
        "commit": (evaluation.commit, found.head.digest),
    }
    for field, (said, due) in exact.items():
        if said != due:
            return f"{field} is {said}, not {due}"
    if name not in job.participants and name not in _next_participants(found, job):
        return f"no plan names a participant {name}"
    return None


def _next_participants(found: Round, job: Audited) -> list[str]:
    """Who takes part from the next round on: they evaluate this one's model already."""
    try:
        plan = records.find(job.place.store, keys.plan(found.number + 1), Plan)
    except RecordError:
        return []
    return plan[0].participants if plan is not None else []


def check_ends(found: Round, job: Audited) -> Iterator[Finding]:
    """Ends stand in the plans of the round after; earlier releases wrote them beside the round's own commit."""
    for stored in found.plans:
        if stored.value.end is not None and found.base is not None:
            due = (job.digest, found.number - 1, found.base.digest)
            yield from _of(stored.key, stored.value.end, due, found, job)
    if found.end is not None and found.head is not None:
        due = (job.digest, found.number, found.head.digest)
        yield from _of(found.end.key, found.end.value, due, found, job)


def _of(key: str, end: End, due: tuple[str, int, str], found: Round, job: Audited) -> Iterator[Finding]:
    if (end.job, end.round, end.commit) != due:
        yield found.finding(key, Reason.WRONG_END, f"its end is of round {end.round} and commit {end.commit[:12]}")
        return
    measured = {name: result.sums() for name in end.results if (result := _result(job, end.round, name)) is not None}
    for name, result in end.results.items():
        evaluation = keys.evaluation(end.round, name)
        if name not in measured:
            yield found.finding(evaluation, Reason.MISSING, f"{key} ends the job with this evaluation")
        elif measured[name] != result.sums():
            message = f"{key} ends the job with lossSum {result.loss_sum:.9g} of {result.tokens} tokens; it has "
            message += f"{measured[name].loss_sum:.9g} of {measured[name].tokens}"
            yield found.finding(evaluation, Reason.WRONG_EVALUATION, message)
    if end.reason == JobReason.TARGET_PERPLEXITY_REACHED.value and not _reached(end.results, end.target_perplexity):
        yield found.finding(key, Reason.WRONG_END, f"its results do not reach perplexity {end.target_perplexity}")


def _result(job: Audited, number: int, name: str) -> HeldOutResult | None:
    try:
        found = records.find(job.place.store, keys.evaluation(number, name), Evaluation)
    except RecordError:
        return None
    return found[0].result if found is not None else None


def _reached(results: Mapping[str, HeldOutResult], target: float | None) -> bool:
    """Whether the results may have reached the target: for most who measured, or (earlier releases) all together."""
    own = [one.loss_sum / one.tokens for one in results.values() if one.tokens]
    most = 2 * sum(perplexity(loss) <= (target or math.inf) for loss in own) > len(own)
    pooled = mean_loss(results.values())
    return target is not None and (most or (pooled is not None and perplexity(pooled) <= target))

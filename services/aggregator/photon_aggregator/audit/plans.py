"""Plans: the base they name, the cohort resampled from the seed, and what rollbacks imply for them."""

from __future__ import annotations

from collections.abc import Iterator

from photon.protocol.cohort import sample_cohort
from photon.protocol.records import LeftOut, Plan
from photon.store import keys
from photon_aggregator.audit.findings import Finding, Reason
from photon_aggregator.audit.place import Stored
from photon_aggregator.audit.rounds import Audited, Round
from photon_aggregator.rounds import rollback


def check_plans(found: Round, job: Audited) -> Iterator[Finding]:
    """Each plan of the chain follows from the commit before it; the commit names the one that opened the round."""
    for stored in found.plans:
        yield from _of(stored, found, job)
    for stored in found.plans[:-1]:
        if stored.value.end is None:
            yield found.finding(stored.key, Reason.WRONG_PLAN, "another plan follows, and it does not end the job")
    commit = found.merged
    if commit is None:
        return
    first = keys.plan(found.number)
    if found.plan is None:
        if first not in found.objects:
            yield found.finding(first, Reason.MISSING, "the round is committed and was never planned")
        elif found.plans:
            last = found.plans[-1].key
            yield found.finding(last, Reason.WRONG_PLAN, "it ends the job, and the round is committed as trained")
    elif commit.plan != found.plan.digest:
        said = "none" if commit.plan is None else commit.plan[:12]
        yield found.finding(
            found.plan.key,
            Reason.WRONG_DIGEST,
            f"its sha256 is {found.plan.digest[:12]}, the commit of the round names {said}",
        )


def _of(stored: Stored[Plan], found: Round, job: Audited) -> Iterator[Finding]:
    plan, local = stored.value, job.learning.local
    exact: dict[str, tuple[object, object]] = {
        "job": (plan.job, job.digest),
        "round": (plan.round, found.number),
        "localSteps": (plan.local_steps, local.steps),
    }
    if found.base is not None:
        exact |= {
            "base": (plan.base, found.base.digest),
            "firstStep": (plan.first_step, found.base.commit.sequential_steps),
            "outerScale": (plan.outer_scale, rollback.outer_scale(job.trail, found.number)),
        }
    for name, (said, due) in exact.items():
        if said != due:
            reason = Reason.WRONG_JOB if name == "job" else Reason.WRONG_PLAN
            yield found.finding(stored.key, reason, f"{name} is {said}, not {due}")
    problem = cohort_problem(plan, job, found)
    if problem is not None:
        yield found.finding(stored.key, Reason.WRONG_COHORT, problem)


def cohort_problem(plan: Plan, job: Audited, found: Round) -> str | None:
    """What is wrong with who was sampled; None when the seed gives exactly that cohort."""
    names = plan.participants
    if names != sorted(set(names)) or not names:
        return "participants are not a sorted list of names"
    if not set(plan.left_out) <= set(names):
        return "leftOut names others than participants"
    if found.base is not None:
        strangers = {name for name, why in plan.left_out.items() if why is LeftOut.NOT_A_MEMBER}
        due = rollback.quarantined(job.trail, found.number, names) - strangers
        said = {name for name, why in plan.left_out.items() if why is LeftOut.QUARANTINED}
        if said != due:
            return f"left out as quarantined: {_list(said)}; by the rollbacks before: {_list(due)}"
    eligible = [name for name in names if name not in plan.left_out]
    size = min(job.learning.cohort_size or len(names), len(eligible))
    expected = sample_cohort(seed=job.learning.model.seed, round_number=found.number, participants=eligible, size=size)
    if plan.cohort != expected:
        return f"the cohort is {_list(plan.cohort)}; the job's seed gives {_list(expected)}"
    return None


def _list(names: object) -> str:
    assert isinstance(names, list | set | frozenset)
    return ", ".join(sorted(names)) or "none"

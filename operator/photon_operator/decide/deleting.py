"""What is to be done for a job that was deleted: nothing, unless its data is to go with it.

Garbage collection removes children when the job is gone. With ``deletionPolicy: Delete`` a finalizer keeps the job
until its pods have ended and another Job has deleted what they wrote. A job that cannot be deleted so says why;
``Retain`` lets it go. A namespace that is deleted takes no new Jobs: the job goes and its data stays (``closing``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from photon.api.status import ClusterReason, ConditionType, JobStatus
from photon_operator.children import names
from photon_operator.children.build import Children
from photon_operator.children.kinds import CONFIG_MAP, JOB
from photon_operator.decide import closing, diagnosis, nodes, parts
from photon_operator.decide import conditions as statuses
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import Observed, ObservedJob
from photon_operator.decide.plan import Apply, Delete, KubeEvent, Plan, joined
from photon_operator.errors import InvalidPod

# What the API server refuses is retried after this long.
REFUSED_SECONDS: Final = 125.0
_PROBLEM: Final = 300


def leave(observed: Observed, children_of: Callable[[], Children | None], before: JobStatus) -> Plan:
    """The plan for a job that has a deletion timestamp. ``children_of``: None when nothing is to be deleted with it; it
    may raise InvalidPod."""
    if names.FINALIZER not in (observed.job["metadata"].get("finalizers") or ()):
        return Plan()
    try:
        children = children_of()
    except InvalidPod as error:
        told = closing.data_kept(observed.job, f"the job cannot be understood ({str(error)[:_PROBLEM]})")
        return Plan(finalizer=False, events=(told,))
    if children is None:
        return Plan(finalizer=False)
    name = observed.job["metadata"]["name"]
    jobs = observed.jobs()
    others = [work for work in jobs.values() if not work.ended and work.name != names.cleanup(name)]
    if others:
        return _stop(observed, others, before)
    cleanup = jobs.get(names.cleanup(name))
    refused = "; ".join(observed.refused.values())
    if cleanup is None:
        known = observed.child(CONFIG_MAP, names.config_map(name))
        apply = (
            *parts.shared(observed, children).apply,
            Apply(body=children.config_map, known=known is not None),
            Apply(body=children.cleanup, known=False),
        )
        if not refused:
            return Plan(apply=apply)
        why = Diagnosis(reason=ClusterReason.POD_REFUSED, message=f"its data is not deleted yet: {refused}")
        return replace(_say(observed, before, why), apply=apply, again_in_seconds=REFUSED_SECONDS)
    if cleanup.complete:
        return Plan(finalizer=False, events=_of_what_stays(cleanup))
    found = diagnosis.diagnose(cleanup, observed.warnings)
    if found is None:
        return Plan(
            read_events_of=tuple(diagnosis.stuck(cleanup, observed.now)), again_in_seconds=diagnosis.PATIENCE_SECONDS
        )
    message = "its data is not deleted yet" if cleanup.failed is None else "its data could not be deleted"
    hint = (
        "" if cleanup.failed is None else f"; fix it and delete the Job {cleanup.name}, or set deletionPolicy: Retain"
    )
    why = Diagnosis(reason=found.reason, message=f"{message}: {found.message}{hint}")
    return _say(observed, before, why)


def _stop(observed: Observed, others: list[ObservedJob], before: JobStatus) -> Plan:
    """Delete the Jobs that may still write, and say which node keeps one of them from going."""
    now, single = observed.now, {make(observed.job["metadata"]["name"]) for make in (names.init, names.aggregator)}
    plans = [Plan(delete=(Delete(kind=JOB, name=w.name, uid=w.uid),)) for w in others if not w.deleting]
    plans += [nodes.release(work, now) for work in others if work.deleting and work.name in single]
    plan = joined([*plans, *(nodes.patience(work, now) for work in others)])
    gone = next((pod for work in others if (pod := nodes.lost(work, now))), None)
    if gone is None:
        return plan
    why = Diagnosis(reason=ClusterReason.NODE_LOST, message=f"its data is not deleted yet: {nodes.sentence(gone)}")
    said = _say(observed, before, why)
    return replace(plan, status=said.status, events=said.events)


def _of_what_stays(cleanup: ObservedJob) -> tuple[KubeEvent, ...]:
    """What to say where what is below the prefix was not the job's to delete."""
    record = cleanup.newest.termination if cleanup.newest is not None else None
    if record is None or record.reason != ClusterReason.PREFIX_TAKEN:
        return ()
    return (KubeEvent(type="Warning", reason="DataKept", message=record.message),)


def _say(observed: Observed, before: JobStatus, why: Diagnosis) -> Plan:
    held = statuses.holding(before)
    kind = ConditionType(held.type) if held is not None else ConditionType.FAILED
    generation = observed.job["metadata"].get("generation", 0)
    status = statuses.with_condition(before, before, kind, why, now=observed.now, generation=generation)
    if statuses.same(before, status):
        return Plan()
    return Plan(status=status, events=tuple(statuses.events(before, status)))

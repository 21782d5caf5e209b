"""What is to be done for a job that was deleted: nothing, unless its data is to go with it.

Garbage collection removes children when the job is gone. With ``deletionPolicy: Delete`` a finalizer keeps the job
until its pods have ended and another Job has deleted what they wrote. A job that cannot be deleted so says why;
``Retain`` lets it go. A namespace that is deleted takes no new Jobs: then the job goes and its data stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from photon.api.status import ClusterReason, ConditionType, JobStatus
from photon_operator.children import names
from photon_operator.children.family import Family
from photon_operator.children.kinds import CONFIG_MAP, JOB
from photon_operator.decide import conditions as statuses
from photon_operator.decide import diagnosis
from photon_operator.decide.diagnosis import Trouble
from photon_operator.decide.observed import Observed
from photon_operator.decide.plan import Apply, Delete, EventNote, Plan

# What the API server refuses is retried after this long.
REFUSED_SECONDS: Final = 125.0


def leave(observed: Observed, family_of: Callable[[], Family | None], before: JobStatus) -> Plan:
    """The plan for a job that has a deletion timestamp. ``family_of``: None when nothing is to be deleted with it."""
    if names.FINALIZER not in (observed.job["metadata"].get("finalizers") or ()):
        return Plan()
    family = family_of()
    if family is None:
        return Plan(finalizer=False)
    name = observed.job["metadata"]["name"]
    jobs = observed.jobs()
    others = [work for work in jobs.values() if not work.ended and work.name != names.cleanup(name)]
    if others:
        deletes = [Delete(kind=JOB, name=w.name, uid=w.uid) for w in others if not w.deleting]
        return Plan(delete=tuple(deletes))
    cleanup = jobs.get(names.cleanup(name))
    refused = "; ".join(observed.refused.values())
    if observed.closing:
        told = EventNote(
            type="Warning", reason="DataKept", message="the namespace is deleted: what the job wrote stays"
        )
        return Plan(finalizer=False, events=(told,))
    if cleanup is None:
        known = observed.child(CONFIG_MAP, names.config_map(name))
        apply = (Apply(body=family.config_map, known=known is not None), Apply(body=family.cleanup, known=False))
        if not refused:
            return Plan(apply=apply)
        why = Trouble(reason=ClusterReason.POD_REFUSED, message=f"its data is not deleted yet: {refused}")
        return replace(_say(observed, before, why), apply=apply, again_in_seconds=REFUSED_SECONDS)
    if cleanup.complete:
        return Plan(finalizer=False)
    found = diagnosis.trouble(cleanup, observed.notes)
    if found is None:
        return Plan(look=tuple(diagnosis.stuck(cleanup, observed.now)), again_in_seconds=diagnosis.PATIENCE_SECONDS)
    message = "its data is not deleted yet" if cleanup.failed is None else "its data could not be deleted"
    hint = (
        "" if cleanup.failed is None else f"; fix it and delete the Job {cleanup.name}, or set deletionPolicy: Retain"
    )
    why = Trouble(reason=found.reason, message=f"{message}: {found.message}{hint}")
    return _say(observed, before, why)


def _say(observed: Observed, before: JobStatus, why: Trouble) -> Plan:
    held = statuses.holding(before)
    kind = ConditionType(held.type) if held is not None else ConditionType.FAILED
    generation = observed.job["metadata"].get("generation", 0)
    status = statuses.with_condition(before, before, kind, why, now=observed.now, generation=generation)
    if statuses.same(before, status):
        return Plan()
    return Plan(status=status, events=tuple(statuses.events(before, status)))

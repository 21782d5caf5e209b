"""What is to be done in a namespace that is being deleted.

Kubernetes deletes the pods of such a namespace first, and everything else when they are gone. A failed pod of a
worker's Job keeps its finalizer until its replacement is there, which cannot be made any more: so the Jobs must be
deleted, or the namespace stays for ever. No Job that deletes data can be made there either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from photon.api.placement import DeletionPolicy
from photon_operator.children import names
from photon_operator.children.kinds import JOB, Object
from photon_operator.decide.observed import Observed, owner_uid, seconds
from photon_operator.decide.plan import Delete, KubeEvent, Plan

# How long a Job may have no pods before something is taken to keep them from being made.
PATIENCE_SECONDS: Final = 10.0
# While there may be more to it, the namespace is asked for so often.
ASK_AGAIN_SECONDS: Final = 60.0


def watched(observed: Observed, plan: Plan) -> Plan:
    """``plan``, and to ask whether the namespace is being deleted where that would explain what is seen."""
    if observed.closing or not _suspected(observed):
        return plan
    again = min(plan.again_in_seconds or ASK_AGAIN_SECONDS, ASK_AGAIN_SECONDS)
    return replace(plan, ask_namespace=True, again_in_seconds=again)


def _suspected(observed: Observed) -> bool:
    """Whether pods go without an edit of the job, or do not come for a job that was deleted."""
    going = {owner_uid(pod) for pod in observed.pods if pod["metadata"].get("deletionTimestamp")}
    deleted = bool(observed.job["metadata"].get("deletionTimestamp"))
    if not going and not deleted:
        return False
    having = {owner_uid(pod) for pod in observed.pods} if deleted else set()
    jobs = [job for job in observed.children.get(JOB, {}).values() if not job["metadata"].get("deletionTimestamp")]
    return any(
        job["metadata"]["uid"] in going or (deleted and job["metadata"]["uid"] not in having and _is_old(observed, job))
        for job in jobs
    )


def _is_old(observed: Observed, job: Object) -> bool:
    made = seconds(job["metadata"].get("creationTimestamp")) or observed.now
    return observed.now - made >= PATIENCE_SECONDS


def abandon(observed: Observed) -> Plan:
    """The plan for a job in a namespace that is being deleted, whether the job itself was deleted yet or not."""
    deletes = (
        Delete(kind=JOB, name=name, uid=found["metadata"]["uid"], foreground=False)
        for name, found in observed.children.get(JOB, {}).items()
        if not found["metadata"].get("deletionTimestamp")
    )
    kept = names.FINALIZER in (observed.job["metadata"].get("finalizers") or ())
    told = (data_kept(observed.job, "the namespace is deleted"),) if kept and deletes_data(observed.job) else ()
    return Plan(delete=tuple(deletes), finalizer=False if kept else None, events=told)


def deletes_data(job: Object) -> bool:
    """Whether a job says, whatever else it says, that its data is to go with it."""
    return bool(_storage(job).get("deletionPolicy") == DeletionPolicy.DELETE.value)


def data_kept(job: Object, why: str) -> KubeEvent:
    """What to say of data that stays against the job's wish: where it is, and what to delete."""
    storage = _storage(job)
    prefix = storage.get("prefix") or ""
    place = f"s3://{storage.get('bucket') or 'photon'}" + (f"/{prefix}" if prefix else "")
    where = f"{place} at {storage['endpoint']}" if storage.get("endpoint") else place
    text = f"{why}, so what the job wrote stays in {where}; to delete it, delete rounds/, members/, job.json and "
    return KubeEvent(type="Warning", reason="DataKept", message=f"{text}owner.json there", outlives=True)


def _storage(job: Object) -> Mapping[str, Any]:
    spec = job.get("spec")
    storage = spec.get("storage") if isinstance(spec, Mapping) else None
    return storage if isinstance(storage, Mapping) else {}

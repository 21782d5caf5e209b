"""What is tried again, and when: the failed Jobs of a job that was edited, or whose annotation asks for it.

The status says which edit and which value of the annotation were acted on. Failed Jobs are deleted first, while the
status stays as it is; only when they are gone, or going, the job goes on: so a failure of before is never taken for one
of the new try, whenever the operator is stopped in between.
"""

from __future__ import annotations

from typing import Final

from photon.api.job import RETRY
from photon.api.status import ConditionType, JobStatus
from photon_operator.children import names
from photon_operator.children.kinds import JOB, Object
from photon_operator.decide import conditions as statuses
from photon_operator.decide.observed import Observed, ObservedJob
from photon_operator.decide.plan import Delete, KubeEvent, Plan

# Of the annotation's value: what the status keeps.
_LONGEST: Final = 253


def asked(job: Object) -> str | None:
    """The value of the annotation by which people ask for another try."""
    value = (job["metadata"].get("annotations") or {}).get(RETRY) or ""
    return str(value)[:_LONGEST] or None


def acted_on(job: Object, before: JobStatus) -> str | None:
    """The value that the status is to keep, once it was acted on."""
    return asked(job) or before.observed_retry


def wanted(job: Object, before: JobStatus) -> bool:
    """Whether the job was edited, or asked to be tried again, since the status was written.

    A generation below that of the status is no edit: the object was restored from a backup.
    """
    edited = int(job["metadata"].get("generation", 0)) > before.observed_generation
    return edited or acted_on(job, before) != before.observed_retry


def clear(observed: Observed, before: JobStatus) -> Plan:
    """Delete the Jobs that failed before; nothing to do when there are none."""
    failed = statuses.finished(before)
    over = failed is not None and failed.type == ConditionType.FAILED

    def is_in_the_way(work: ObservedJob) -> bool:
        # An aggregator that ended tells how the job did, also where it ended well.
        last_words = over and work.ended and work.name == names.aggregator(observed.job["metadata"]["name"])
        return (work.failed is not None or last_words) and not work.deleting

    works = (work for work in observed.jobs().values() if is_in_the_way(work))
    return Plan(delete=tuple(Delete(kind=JOB, name=work.name, uid=work.uid) for work in works))


def said(job: Object, before: JobStatus) -> tuple[KubeEvent, ...]:
    """What to say of a failed job that is tried again."""
    failed = statuses.finished(before)
    if failed is None or failed.type != ConditionType.FAILED or not wanted(job, before):
        return ()
    why = "it was edited" if acted_on(job, before) == before.observed_retry else f"{RETRY} asks for it"
    return (KubeEvent(type="Normal", reason="Retrying", message=f"the job is tried again: {why}"),)

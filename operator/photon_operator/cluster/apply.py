"""Carries out a plan: blocking, in a thread; says what came of it, and decides nothing but whose a found object is."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from photon.api.job import KIND
from photon_operator.children import names
from photon_operator.children.kinds import CLAIM, JOB, NETWORK_POLICY, Object
from photon_operator.cluster.client import NAMESPACE_TERMINATING, Api, ApiError
from photon_operator.decide.plan import Apply, KubeEvent, Plan

log = logging.getLogger(__name__)

# Made without a look first. The lists of a NetworkPolicy are replaced as a whole, so it may be applied later.
MADE_ONCE: Final = (CLAIM, JOB, NETWORK_POLICY)
# Of one job, at a time: an API server should notice others as well.
AT_ONCE: Final = 4
FEW: Final = 12


@dataclass(slots=True, kw_only=True)
class Applied:
    """What came of a plan. ``seen``: objects as the API server has them now. For the others see Observed."""

    seen: list[tuple[str, Object]] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    closing: bool = False


def apply_plan(plan: Plan, job: Object, api: Api) -> Applied:
    """Do what ``plan`` says for ``job``.

    The status and its events come last: what they tell has been done then.

    Raises:
        ApiError: The API server failed; what was done stays done, and the next reconcile goes on from there.
    """
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    done = Applied()
    if plan.delete_job:
        api.delete(KIND, namespace, name, job["metadata"]["uid"], foreground=False)
        return done
    if plan.finalizer is not None:
        others = [f for f in job["metadata"].get("finalizers") or () if f != names.FINALIZER]
        kept = api.set_finalizers(job, [*others, names.FINALIZER] if plan.finalizer else others)
        if kept is None:
            return done
        done.seen.append((KIND, kept))
    # What pods mount comes before them.
    files = [wanted for wanted in plan.apply if wanted.kind != JOB]
    for several in (files, [wanted for wanted in plan.apply if wanted.kind == JOB]):
        _apply_all(several, namespace, name, api, done)
    for child in plan.adopt:
        done.seen.append((child.kind, api.set_metadata(child.kind, namespace, child.name, child.metadata)))
    for gone in plan.delete:
        foreground = gone.foreground and gone.kind == JOB
        api.delete(gone.kind, namespace, gone.name, gone.uid, foreground=foreground, force=gone.force)
    if plan.status is not None:
        written = api.write_status(job, plan.status)
        if written is None:
            return done
        done.seen.append((KIND, written))
    for event in plan.events:
        _emit(event, job, api)
    return done


def _apply_all(several: Sequence[Apply], namespace: str, job: str, api: Api, done: Applied) -> None:
    """A job of many participants has hundreds of objects: one after another they would take minutes.

    Raises:
        ApiError: Of the first that failed; the others were tried as well.
    """
    if len(several) < FEW:
        for wanted in several:
            _apply(wanted, namespace, job, api, done)
        return
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="apply") as threads:
        tried = [threads.submit(_apply, wanted, namespace, job, api, done) for wanted in several]
    for each in tried:
        each.result()


def _apply(wanted: Apply, namespace: str, job: str, api: Api, done: Applied) -> None:
    try:
        # What is hardly ever applied again is made or found in one request.
        if wanted.kind in MADE_ONCE and not wanted.known:
            done.seen.append((wanted.kind, api.create(namespace, wanted.body)))
        # Applied blindly, an object of another owner with this name would become ours and be deleted with the job.
        elif wanted.known or not _found(wanted, namespace, job, api, done):
            done.seen.append((wanted.kind, api.apply(namespace, wanted.body)))
    except ApiError as error:
        if wanted.kind in MADE_ONCE and error.status == 409:
            _found(wanted, namespace, job, api, done)
        elif error.refuses:
            log.warning("%s/%s: %s", namespace, job, error)
            done.refused[wanted.title] = error.message[:600]
            if NAMESPACE_TERMINATING in error.causes:
                done.closing = True
        else:
            raise


def _found(wanted: Apply, namespace: str, job: str, api: Api, done: Applied) -> bool:
    """Whether an object of this name is there; ours is taken in, another's is reported."""
    found = api.get(wanted.kind, namespace, wanted.name)
    if found is None:
        return False
    labels = found["metadata"].get("labels") or {}
    if labels.get(names.JOB) == job and labels.get(names.MANAGED_BY) == names.MANAGER:
        done.seen.append((wanted.kind, found))
    else:
        other = labels.get(names.JOB)
        done.taken[wanted.title] = f"it belongs to the job {other}" if other else "Photon did not make it"
    return True


def _emit(event: KubeEvent, job: Object, api: Api) -> None:
    try:
        api.emit(job, event)
    except ApiError as error:
        if event.outlives and NAMESPACE_TERMINATING in error.causes:
            _emit_at_namespace(event, job, api)
        else:
            log.warning("an event could not be written: %s", error)


def _emit_at_namespace(event: KubeEvent, job: Object, api: Api) -> None:
    """Say what people need to know after the namespace is gone; in the log as well, for it may not be our right."""
    metadata = job["metadata"]
    text = f"{metadata['namespace']}/{metadata['name']}: {event.message}"
    log.warning("%s: %s", event.reason, text)
    try:
        api.emit_at_namespace(metadata["namespace"], replace(event, message=text))
    except ApiError as error:
        log.warning("an event could not be written: %s", error)

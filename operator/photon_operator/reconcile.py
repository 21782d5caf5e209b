"""What should be done for one job, given what is. Pure and level-triggered: no memory, the same answer however we got
here, and nothing to do once it was done.

Jobs are immutable in Kubernetes, so a child that should be another one is deleted (in the foreground, so that its pods
are gone first) and made again when it has disappeared. Nothing is lost by that: the bucket is the only durable state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from photon.api.job import FederatedTrainingJob
from photon.api.status import JobStatus
from photon.launch import Process, Role
from photon_operator import children, names
from photon_operator.children import Object
from photon_operator.diagnose import problems
from photon_operator.observed import JobChild, Observed
from photon_operator.outcome import Ending, ending_of
from photon_operator.settings import Settings
from photon_operator.status import Event, Situation, events_between, status_of

MANAGER: Final = "photon.dev/operator"
_FIXED: Final = Settings(aggregator_image="aggregator", worker_image="worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``static`` children are applied when they or their applying are not the last; ``create`` are Jobs that are not
    there; ``delete`` names Jobs to delete. ``tokens``: participants that need one in the Secret. ``status``: None when
    the one that is there says the same. ``remove``: the job itself has outlived its time."""

    static: tuple[Object, ...] = ()
    tokens: tuple[str, ...] = ()
    create: tuple[Object, ...] = ()
    delete: tuple[str, ...] = ()
    status: JobStatus | None = None
    events: tuple[Event, ...] = ()
    remove: bool = False

    @property
    def idle(self) -> bool:
        """Nothing to ask of the API server, but for static children."""
        return not (self.create or self.delete or self.status or self.events or self.remove)


class InvalidJob(ValueError):
    """The resource is not a job that can run; the message says why."""


def parse(body: Mapping[str, Any]) -> FederatedTrainingJob:
    """The resource as our own model. Raises InvalidJob, for what the CRD's schema could not refuse."""
    try:
        return FederatedTrainingJob.model_validate(
            {
                "apiVersion": body["apiVersion"],
                "kind": body["kind"],
                "metadata": {"name": body["metadata"]["name"]},
                "spec": body.get("spec", {}),
            }
        )
    except ValidationError as error:
        words = []
        for found in error.errors():
            place = ".".join(str(part) for part in found["loc"])
            words.append(f"{place}: {found['msg'].removeprefix('Value error, ')}" if place else found["msg"])
        raise InvalidJob("; ".join(words)[:1024]) from None


def previous_status(body: Mapping[str, Any]) -> JobStatus | None:
    """The status that the resource has; None when there is none that we could have written."""
    try:
        return JobStatus.model_validate(body["status"]) if body.get("status") else None
    except ValidationError:
        return None


def is_ours(body: Mapping[str, Any]) -> bool:
    """Not being deleted, and not given to another controller."""
    managed_by = body.get("spec", {}).get("managedBy")
    return body["metadata"].get("deletionTimestamp") is None and managed_by in (None, MANAGER)


def reconcile(observed: Observed, settings: Settings) -> Plan:
    """The plan for one job."""
    body = observed.body
    if not is_ours(body):
        return Plan()
    previous = previous_status(body)
    try:
        job = parse(body)
    except InvalidJob as error:
        return _with_status(observed, previous, Situation(invalid=str(error)), Plan())
    desired = _Desired.of(job, body, settings)
    ending = _ending(observed, desired, previous)
    if ending is not None and ending.finished and _outlived(job, previous, observed.now):
        return Plan(remove=True)
    found = problems(observed.jobs.values(), observed.pods.values(), observed.refusals)
    plan = _children(observed, desired, ending)
    situation = Situation(
        suspend=job.spec.suspend,
        ending=ending,
        problems=tuple(found),
        initialised=_initialised(observed),
        aggregating=_serving(observed),
        live=observed.aggregator,
        workers=len(desired.workers),
    )
    return _with_status(observed, previous, situation, plan, job=job)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desired:
    job: FederatedTrainingJob
    static: tuple[Object, ...]
    init: Object
    aggregator: Object
    workers: dict[str, Object] = field(default_factory=dict)

    @classmethod
    def of(cls, job: FederatedTrainingJob, body: Mapping[str, Any], settings: Settings) -> _Desired:
        metadata = body["metadata"]
        owner = {key: body[key] for key in ("apiVersion", "kind")} | {key: metadata[key] for key in ("name", "uid")}
        namespace = metadata["namespace"]

        def stamp(child: Object, like: Object | None = None) -> Object:
            digest = children.digest_of(child if like is None else like)
            return children.stamped(child, digest=digest, owner=owner, namespace=namespace)

        processes = children.plan(job, namespace)

        def job_of(process: Process) -> Object:
            wanted = children.batch_job(job, process, settings, labels=metadata.get("labels"))
            # The same under fixed settings: an upgrade of the operator replaces no running pod.
            return stamp(wanted, children.batch_job(job, process, _FIXED))

        by_role = {process.role: process for process in processes if process.role is not Role.WORKER}
        workers = {p.participant: job_of(p) for p in processes if p.role is Role.WORKER and p.participant is not None}
        several = [p.participant for p in processes if p.nodes > 1 and p.participant is not None]
        static = [children.config_map(job), children.service(job)]
        static += [children.rendezvous_service(job, participant) for participant in several]
        return cls(
            job=job,
            static=tuple(stamp(child) for child in static),
            init=job_of(by_role[Role.INIT]),
            aggregator=job_of(by_role[Role.AGGREGATOR]),
            workers=workers,
        )


def _children(observed: Observed, desired: _Desired, ending: Ending | None) -> Plan:
    create: list[Object] = []
    delete: list[str] = []
    job = desired.job
    finished = ending is not None and ending.finished
    at_rest = job.spec.suspend and _find(observed, desired.aggregator) is None
    init = _find(observed, desired.init)
    if not finished and not at_rest:
        if not _initialised(observed):
            _ensure(init, desired.init, create, delete, replace=init is not None and init.outcome == "Failed")
        else:
            _aggregator(observed, desired, ending, create, delete)
    _workers(observed, desired, ending, create, delete)
    tokens = tuple(participant.name for participant in job.spec.participants)
    return Plan(
        static=() if finished or at_rest else desired.static,
        tokens=() if finished or at_rest else tokens,
        create=tuple(create),
        delete=tuple(delete),
    )


def _ensure(
    child: JobChild | None, wanted: Object, create: list[Object], delete: list[str], *, replace: bool = True
) -> None:
    """Create what is missing; with ``replace``, delete what should be another one."""
    if child is None:
        create.append(wanted)
    elif replace and not child.deleting and child.digest != _digest(wanted):
        delete.append(child.name)


def _aggregator(
    observed: Observed, desired: _Desired, ending: Ending | None, create: list[Object], delete: list[str]
) -> None:
    child = _find(observed, desired.aggregator)
    if child is not None and not child.deleting and child.digest == _digest(desired.aggregator):
        # Ended, and the job is not: it was suspended and goes on, or nobody saw how it ended.
        resumed = ending is not None and ending.suspended and not desired.job.spec.suspend
        unseen = ending is None and child.outcome == "Complete"
        if resumed or unseen:
            delete.append(child.name)
        return
    _ensure(child, desired.aggregator, create, delete)


def _workers(
    observed: Observed, desired: _Desired, ending: Ending | None, create: list[Object], delete: list[str]
) -> None:
    wanted = {child["metadata"]["name"]: child for child in desired.workers.values()}
    for child in observed.jobs.values():
        if child.role is Role.WORKER and child.name not in wanted and not child.deleting:
            delete.append(child.name)  # its participant has left the job
    if ending is not None:
        if ending.suspended:  # at the round's boundary: what still runs has nothing to do
            delete += [name for name in wanted if (c := observed.jobs.get(name)) and not c.outcome and not c.deleting]
        return
    aggregator = _find(observed, desired.aggregator)
    if not _initialised(observed) or (desired.job.spec.suspend and aggregator is None):
        return
    running = observed.aggregator is not None and _running(observed.aggregator)
    for name, template in wanted.items():
        known = observed.jobs.get(name)
        _ensure(known, template, create, delete)
        # A worker ends well when the job has ended; one that did while the job runs left an earlier life of the job.
        again = known is not None and known.outcome == "Complete" and not known.deleting and running
        if again and name not in delete:
            delete.append(name)


def _ending(observed: Observed, desired: _Desired, previous: JobStatus | None) -> Ending | None:
    """How the job ended, if it has; an ending of another document of the job (fewer rounds) does not count."""
    child = _find(observed, desired.aggregator)
    if child is None:
        generation = observed.body["metadata"].get("generation", 0)
        told = previous is not None and previous.observed_generation == generation
        ending = ending_of(previous) if told and previous is not None else None
        return ending if ending is not None and ending.finished else None
    if child.deleting or child.digest != _digest(desired.aggregator):
        return None
    if observed.aggregator is not None and (live := ending_of(observed.aggregator)) is not None:
        return live
    ended = [pod for pod in observed.pods.values() if pod.owner == child.name and pod.terminated is not None]
    for pod in sorted(ended, key=lambda pod: pod.created, reverse=True):
        assert pod.terminated is not None
        last = Ending.from_message(pod.terminated[1])
        if last is not None:
            return last
    if child.outcome is not None and previous is not None:
        known = ending_of(previous)
        generation = observed.body["metadata"].get("generation", 0)
        return known if known is not None and previous.observed_generation == generation else None
    return None


def _with_status(
    observed: Observed,
    previous: JobStatus | None,
    situation: Situation,
    plan: Plan,
    *,
    job: FederatedTrainingJob | None = None,
) -> Plan:
    generation = observed.body["metadata"].get("generation", 0)
    status = status_of(situation, previous, job=job, generation=generation, now=observed.now)
    changed = status != previous
    return Plan(
        static=plan.static,
        tokens=plan.tokens,
        create=plan.create,
        delete=plan.delete,
        status=status if changed else None,
        events=events_between(previous, status) if changed else (),
    )


def _initialised(observed: Observed) -> bool:
    return any(
        child.role is Role.AGGREGATOR or (child.role is Role.INIT and child.outcome == "Complete")
        for child in observed.jobs.values()
    )


def _serving(observed: Observed) -> bool:
    return any(pod.role is Role.AGGREGATOR and pod.ready for pod in observed.pods.values())


def _running(status: JobStatus) -> bool:
    return any(c.type == "Running" and c.status == "True" for c in status.conditions)


def _outlived(job: FederatedTrainingJob, previous: JobStatus | None, now: float) -> bool:
    seconds = job.spec.ttl_seconds_after_finished
    if seconds is None or previous is None:
        return False
    ended = ending_of(previous)
    return ended is not None and ended.finished and now >= ended.at + seconds


def _find(observed: Observed, wanted: Object) -> JobChild | None:
    return observed.jobs.get(wanted["metadata"]["name"])


def _digest(wanted: Object) -> str:
    return str(wanted["metadata"]["annotations"][names.ANNOTATION_HASH])

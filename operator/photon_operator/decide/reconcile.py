"""What to do about one job, from what is there: pure, level-triggered, and nothing is remembered between two calls.

The steps of a job's life are read off its children: init makes the first model; the workers' Jobs are made; the
aggregator is made when the first worker runs and no queue holds what a quorum needs (so that a job in a queue does not
use up its first round's deadline); the aggregator's termination message says how it ended. A complete job stays
complete until what its rounds depend on is edited; a failed one is tried again after any edit (``repair``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from photon.api.document import JobFileError, spell
from photon.api.job import FederatedTrainingJob
from photon.api.placement import DeletionPolicy
from photon.api.status import ClusterReason, ConditionType, JobStatus
from photon.api.validate import parse_job
from photon_operator.children import build, names, pinned
from photon_operator.children.build import Children, ChildrenInputs
from photon_operator.children.inherited import inherited
from photon_operator.children.kinds import JOB, SECRET, Object
from photon_operator.decide import claims, clock, closing, parts, reasons, repair
from photon_operator.decide import conditions as statuses
from photon_operator.decide.active import decide
from photon_operator.decide.deleting import leave
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import Observed, seconds
from photon_operator.decide.plan import KubeEvent, Plan, joined
from photon_operator.decide.reasons import FINISHED
from photon_operator.decide.situation import derive
from photon_operator.errors import InvalidPod

# How long workers may take to leave a job that has ended; then their pods are removed.
LEAVE_SECONDS = 60.0
# Watches tell when the children of a former job are gone; if one does not, this long.
FORMER_SECONDS = 30.0
_SHOWN = 3


def reconcile(
    observed: Observed,
    *,
    new_token: Callable[[], str],
    children_of: Callable[[ChildrenInputs], Children] = build.make_children,
) -> Plan:
    """The plan for ``observed.job``; applied and observed again, it is empty but for what has changed since.

    ``new_token`` makes a bearer token, for a participant that has none yet. ``children_of``: ``make_children``, or a
    cache of what it made.
    """
    return closing.watched(observed, _decided(observed, new_token, children_of))


def _decided(
    observed: Observed, new_token: Callable[[], str], children_of: Callable[[ChildrenInputs], Children]
) -> Plan:
    metadata = observed.job["metadata"]
    manager = (observed.job.get("spec") or {}).get("managedBy")
    if manager not in (None, names.OURS):
        # An earlier CRD let it be given away: then nothing of ours may keep it.
        return Plan(finalizer=False) if names.FINALIZER in (metadata.get("finalizers") or ()) else Plan()
    before = statuses.stored_status(observed.job)
    observed, others = observed.without_others()
    if observed.closing:
        return closing.abandon(observed)
    if metadata.get("deletionTimestamp"):
        if (JOB, names.cleanup(metadata["name"])) in others:
            return Plan(again_in_seconds=FORMER_SECONDS)
        return leave(observed, lambda: _doomed_children(observed, before, new_token, children_of), before)
    try:
        job = parse(observed.job)
        children = children_of(_inputs(job, observed, before, new_token))
    except JobFileError as error:
        return _invalid(observed, before, "; ".join(f"{m.path}: {m.problem}" for m in error.errors))
    except InvalidPod as error:
        return _invalid(observed, before, str(error))
    kept = names.FINALIZER in (metadata.get("finalizers") or ())
    keep = job.spec.storage.deletion_policy is DeletionPolicy.DELETE
    if kept is not keep:
        return Plan(finalizer=keep)  # before anything is written that would have to be deleted
    if _has_ended(observed, before, children.document):
        return _finished(observed, job, children, before)
    former = sorted(f"{kind} {name}" for kind, name in children.names() & set(others)) if others else []
    if former:
        return _after_former(observed, job, before, former)
    if repair.wanted(observed.job, before) and not (cleared := repair.clear(observed, before)).changes_nothing:
        return cleared
    return _active(observed, job, children, before)


def _doomed_children(
    observed: Observed,
    before: JobStatus,
    new_token: Callable[[], str],
    children_of: Callable[[ChildrenInputs], Children],
) -> Children | None:
    """The children of a job whose data is to go with it; None when it is to stay.

    Raises:
        InvalidPod: The job cannot be understood, so that nothing can be made for it.
    """
    if not closing.deletes_data(observed.job):
        return None
    try:
        return children_of(_inputs(parse(observed.job), observed, before, new_token))
    except JobFileError as error:
        raise InvalidPod("; ".join(f"{m.path}: {m.problem}" for m in error.errors)) from error


def parse(raw: Object) -> FederatedTrainingJob:
    """The job of an object of the API server, without the fields that only a later release knows.

    Raises:
        JobFileError: It breaks a rule that the CRD cannot state, or an older CRD let it pass.
    """
    metadata = raw["metadata"]
    text = json.dumps(_stated(raw))
    try:
        job = FederatedTrainingJob.model_validate_json(text, strict=True, by_alias=True, by_name=False, extra="ignore")
    except ValueError:
        job = parse_job(
            text, metadata["name"], ignore_unknown=True
        )  # slower, and says what is wrong as people understand it
    if not job.metadata.name[0].isalpha():
        raise InvalidPod("metadata.name: must begin with a letter: the aggregator's Service is named after it")
    return job


def _stated(raw: Object) -> dict[str, Any]:
    """What a job file would have of an object."""
    kept = {key: raw.get(key) for key in ("apiVersion", "kind", "spec")}
    return {**kept, "metadata": {"name": raw["metadata"]["name"]}}


def _has_ended(observed: Observed, before: JobStatus, document: str) -> bool:
    """Whether the job has ended, and nothing has started it again: of a complete one an edit of what its rounds depend
    on, of a failed one any edit, or being asked to."""
    ended = statuses.finished(before)
    if ended is None or ended.reason == ClusterReason.INVALID_SPEC:
        return False
    if ended.type == ConditionType.FAILED and repair.wanted(observed.job, before):
        return False
    return statuses.seen(before, _generation(observed)) or pinned.equal(before.document_digest, document)


def _document(job: FederatedTrainingJob, observed: Observed, before: JobStatus) -> str:
    """The digest of what rounds depend on. Of a document that was not edited it stays what the status says, whatever
    the release that computed it knew of the document."""
    if before.document_digest is not None and statuses.seen(before, _generation(observed)):
        return before.document_digest
    return pinned.document_digest(job)


def _inputs(
    job: FederatedTrainingJob, observed: Observed, before: JobStatus, new_token: Callable[[], str]
) -> ChildrenInputs:
    secret = observed.child(SECRET, names.tokens(job.metadata.name))
    known = build.tokens_of(secret)
    metadata = observed.job["metadata"]
    return ChildrenInputs(
        spec=observed.job["spec"],
        job=job,
        document=_document(job, observed, before),
        name=job.metadata.name,
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        labels=metadata.get("labels") or {},
        inherited=inherited(
            observed.settings.job_defaults, metadata.get("labels") or {}, metadata.get("annotations") or {}
        ),
        tokens={p.name: known.get(p.name) or new_token() for p in job.spec.participants},
        read_token=build.read_token_of(secret) or new_token(),
        committed_rounds=before.committed_rounds,
        settings=observed.settings,
    )


def _invalid(observed: Observed, before: JobStatus, problem: str) -> Plan:
    """A job that cannot be: failed if it has not begun; else it goes on as it was, or has ended as it did, and says
    so."""
    why = Diagnosis(reason=ClusterReason.INVALID_SPEC, message=problem)
    generation = _generation(observed)
    kind = ConditionType.FAILED
    holds = statuses.holding(before)
    if holds is not None and before.document_digest is not None and holds.type not in FINISHED:
        kind = ConditionType(holds.type)
        why = Diagnosis(reason=why.reason, message=f"going on as before the last edit, which cannot be: {why.message}")
    elif holds is not None and before.document_digest is not None and holds.reason != why.reason:
        status = statuses.ended_as_before(before, generation, problem)
        told = KubeEvent(type="Warning", reason=why.reason.value, message=problem)
        return Plan() if statuses.same(before, status) else Plan(status=status, events=(told,))
    status = statuses.with_condition(before, before, kind, why, now=observed.now, generation=generation)
    return _plan(Plan(), before, status)


def _finished(observed: Observed, job: FederatedTrainingJob, children: Children, before: JobStatus) -> Plan:
    """A job that has ended keeps its status; its pods leave, and at the end of its time it goes."""
    ended = statuses.finished(before)
    assert ended is not None, "only finished jobs come here"
    at = seconds(ended.last_transition_time) or observed.now
    status = statuses.ended_as_before(before, _generation(observed))
    status = status.model_copy(update={"observed_retry": repair.acted_on(observed.job, before)})
    ttl = job.spec.ttl_seconds_after_finished
    left = None if ttl is None else at + ttl - observed.now
    if left is not None and left <= 0:
        return Plan(delete_job=True)
    plans = [Plan(again_in_seconds=left)]
    found = observed.jobs()
    own = (body["metadata"]["name"] for body in (children.init, children.aggregator, *children.workers.values()))
    jobs = [found[name] for name in own if name in found]
    if ended.type == ConditionType.FAILED or observed.now >= at + LEAVE_SECONDS:
        plans.append(parts.stop(jobs))
    elif any(not work.ended for work in jobs):
        plans.append(Plan(again_in_seconds=at + LEAVE_SECONDS - observed.now))
    if ended.type == ConditionType.COMPLETE:
        plans.append(claims.after_completion(observed, job.spec, jobs))
    return _plan(joined(plans), before, status)


def _after_former(observed: Observed, job: FederatedTrainingJob, before: JobStatus, former: list[str]) -> Plan:
    """A job that was deleted and made again waits for the names of its children: it has nothing of the former one."""
    more = f" and {len(former) - _SHOWN} more" if len(former) > _SHOWN else ""
    why = Diagnosis(reason=ClusterReason.STARTING, message=f"{reasons.FORMER}: {', '.join(former[:_SHOWN])}{more}")
    status = before.model_copy(update={"rounds": job.spec.rounds})
    generation = _generation(observed)
    status = statuses.with_condition(
        status, before, ConditionType.PENDING, why, now=observed.now, generation=generation
    )
    return _plan(Plan(again_in_seconds=FORMER_SECONDS), before, status)


def _active(observed: Observed, job: FederatedTrainingJob, children: Children, before: JobStatus) -> Plan:
    situation = derive(observed, job, children, before)
    conclusion, plan = decide(situation)
    status = statuses.with_participants(situation.figures, job, conclusion.diagnoses, aggregating=situation.aggregating)
    own = {
        "document_digest": children.document,
        "rounds": job.spec.rounds,
        "start_time": clock.start(situation),
        "observed_retry": repair.acted_on(observed.job, before),
    }
    status = status.model_copy(update=own)
    generation = _generation(observed)
    plan = _plan(
        plan,
        before,
        statuses.with_condition(
            status, before, conclusion.kind, conclusion.why, now=observed.now, generation=generation
        ),
        participant=conclusion.why.participant,
    )
    if plan.status is None:
        return plan
    edit = () if statuses.seen(before, generation) else (*_of_unknown_fields(observed.job), *claims.said(situation))
    return replace(plan, events=(*repair.said(observed.job, before), *edit, *plan.events))


def _of_unknown_fields(raw: Object) -> list[KubeEvent]:
    """What to say, once for each edit, of fields that only a later release knows."""
    try:
        FederatedTrainingJob.model_validate(_stated(raw))
    except ValidationError as error:
        paths = [spell(detail["loc"]) for detail in error.errors() if detail["type"] == "extra_forbidden"]
        text = f"the operator is of a release that does not know {', '.join(paths)}: the job runs without"
        return [KubeEvent(type="Warning", reason="FieldsIgnored", message=text[:1024])] if paths else []
    return []


def _generation(observed: Observed) -> int:
    return int(observed.job["metadata"].get("generation", 0))


def _plan(plan: Plan, before: JobStatus, status: JobStatus, *, participant: str | None = None) -> Plan:
    if statuses.same(before, status):
        return plan
    events = tuple(statuses.events(before, status, participant=participant))
    return replace(plan, status=status, only_figures=statuses.same_standing(before, status), events=events)

"""The parts of a plan: which children are applied, adopted and deleted. Each function returns its part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from photon.api.status import ClusterReason
from photon.protocol.canonical import digest
from photon_operator.children import names, pinned, pod_template
from photon_operator.children.build import Children
from photon_operator.children.kinds import CLAIM, CONFIG_MAP, JOB, NETWORK_POLICY, SECRET, SERVICE
from photon_operator.decide import claims, diagnosis, disruptions, queues
from photon_operator.decide import conditions as statuses
from photon_operator.decide.diagnosis import Diagnosis
from photon_operator.decide.observed import Observed, ObservedJob, owner_uid
from photon_operator.decide.plan import Adopt, Apply, Delete, Plan, joined
from photon_operator.decide.situation import Situation

# An aggregator that ended well but whose termination message is lost is started again after at least this long.
ASK_AGAIN_SECONDS: Final = 60.0
NOTHING: Final = Plan()


def stop(jobs: Iterable[ObservedJob]) -> Plan:
    """Delete the Jobs that have not ended; those that have keep their pods' logs."""
    return joined(_delete(work) for work in jobs if not work.ended and not work.deleting)


def patience(work: ObservedJob | None, now: float) -> Plan:
    """Read the events of a Job that makes no progress, and reconcile again while it may yet start."""
    if work is None:
        return NOTHING
    stuck = diagnosis.stuck(work, now)
    waits = not stuck and not work.ended and work.running is None
    return Plan(read_events_of=tuple(stuck), again_in_seconds=diagnosis.PATIENCE_SECONDS if waits else None)


def keep(observed: Observed, body: Mapping[str, Any]) -> Plan:
    """Apply an object that may be changed in place, unless it is as it was last applied."""
    known = observed.child(body["kind"], body["metadata"]["name"])
    if known is not None and _as_applied(known, body):
        return NOTHING
    return Plan(apply=(Apply(body=body, known=known is not None),))


def document(situation: Situation) -> Plan:
    """The ConfigMap with the job's document. While a job is not edited it stays as it was written, also by another
    release: the programs that may read it again are of that release."""
    observed, body = situation.observed, situation.children.config_map
    known = observed.child(body["kind"], body["metadata"]["name"])
    generation = observed.job["metadata"].get("generation", 0)
    if known is not None and statuses.seen(situation.before, generation):
        # What others added beside our keys is theirs; an earlier release had the document by another key as well.
        ours = {*body["data"], pod_template.JOB_FILE}
        data = {key: value for key, value in (known.get("data") or {}).items() if key in ours}
        written = digest({"data": data})
        annotations = {**body["metadata"]["annotations"], names.APPLIED_HASH: written}
        intact = (known["metadata"].get("annotations") or {}).get(names.APPLIED_HASH) == written
        if intact and data != body["data"] and set(data) >= set(body["data"]):
            body = {**body, "data": data, "metadata": {**body["metadata"], "annotations": annotations}}
    return keep(observed, body)


def shared(observed: Observed, children: Children) -> Plan:
    """What all pods of the job need before they are made: who may talk to them, and whose certificates they trust."""
    known = observed.children.get(NETWORK_POLICY, {})
    policies = () if _unrestricted(observed, known) else children.policies.values()
    bodies = [*policies, *([children.authority] if children.authority is not None else [])]
    gone = [
        Delete(kind=NETWORK_POLICY, name=name, uid=found["metadata"]["uid"])
        for name, found in known.items()
        if name not in children.policies and not found["metadata"].get("deletionTimestamp")
    ]
    return joined([*(keep(observed, body) for body in bodies), Plan(delete=tuple(gone))])


def _unrestricted(observed: Observed, known: Mapping[str, Any]) -> bool:
    """Whether pods run that no policy restricted so far: to restrict them now could cut them off from their storage."""
    settings, namespace = observed.settings.network_policy, observed.job["metadata"]["namespace"]
    if known or settings is None or namespace in settings.namespaces:
        return False
    running = (work.job["metadata"] for work in observed.jobs().values() if not work.ended)
    return any(names.RESTRICTED not in (metadata.get("annotations") or {}) for metadata in running)


def place(observed: Observed, work: ObservedJob | None, body: Mapping[str, Any]) -> Plan:
    """See to it that this Job is there. A Job's pods cannot be edited: another one takes its place."""
    if work is None:
        return Plan(apply=(Apply(body=body, known=False),))
    if not work.deleting and (not current(work, body) or queues.left(work, body)):
        return _delete(work)
    return adopt(observed, work, body)


def adopt(observed: Observed, work: ObservedJob, body: Mapping[str, Any]) -> Plan:
    """Make a Job that lost its owner ours again."""
    if work.deleting or work.owner_uid == observed.job["metadata"]["uid"]:
        return NOTHING
    metadata = {key: body["metadata"][key] for key in ("labels", "ownerReferences")}
    return Plan(adopt=(Adopt(kind=JOB, name=work.name, metadata=metadata),))


def current(work: ObservedJob, body: Mapping[str, Any]) -> bool:
    """Whether a Job is the one that the job as it is now asks for."""
    return pinned.equal(work.spec_hash, body["metadata"]["annotations"][names.SPEC_HASH])


def got_further(work: ObservedJob, found: Diagnosis | None, rounds: int) -> bool:
    """Whether rounds were committed since a Job was made: then its failures are counted afresh. A mistake is not tried
    again all the same."""
    return rounds > work.from_round and (found is None or found.reason is not ClusterReason.INVALID_CONFIGURATION)


def workers(situation: Situation) -> Plan:
    """A Job for each participant that runs here; none for those that no longer take part."""
    observed, children = situation.observed, situation.children
    plans = []
    for name, body in children.workers.items():
        if name in children.worker_services:
            plans.append(keep(observed, children.worker_services[name]))
        if name in children.claims:
            # A claim that is being deleted is created again before a worker that mounts it.
            known = observed.child(CLAIM, children.claims[name]["metadata"]["name"])
            if known is not None and known["metadata"].get("deletionTimestamp"):
                continue
            plans.append(keep(observed, claims.wanted(situation, name, known)))
        work = situation.workers[name]
        if work is not None and not work.deleting and _is_over(situation, name, work):
            plans.append(_delete(work))
        else:
            plans.append(place(observed, work, body))
    return joined([*plans, _leavers(situation), claims.leavers(situation)])


def _leavers(situation: Situation) -> Plan:
    """What belongs to participants that no longer take part, but for their claims."""
    children = situation.children
    kept = {body["metadata"]["name"] for body in (*children.workers.values(), *children.worker_services.values())}
    return Plan(
        delete=tuple(
            Delete(kind=kind, name=name, uid=found["metadata"]["uid"])
            for kind in (JOB, SERVICE)
            for name, found in situation.observed.children.get(kind, {}).items()
            if (found["metadata"].get("labels") or {}).get(names.ROLE) == "worker"
            and name not in kept
            and not found["metadata"].get("deletionTimestamp")
        )
    )


def _is_over(situation: Situation, name: str, work: ObservedJob) -> bool:
    """Whether a worker's Job has ended although there is more to do: it is created again."""
    if work.failed is not None:
        person = next((p for p in situation.figures.participants if p.name == name), None)
        last_round = (person.last_round if person is not None else None) or 0
        return got_further(work, situation.diagnoses.get(name), last_round)
    # A worker leaves when its aggregator tells it to; only a later aggregator has more for it to do.
    aggregator = situation.aggregator
    if not work.complete or (aggregator is not None and (aggregator.ended or aggregator.deleting)):
        return False
    return aggregator is None or aggregator.created_at >= (work.ended_at or 0.0)


def progress(situation: Situation) -> Plan:
    """Which Jobs got further since their pods were stopped."""
    plans = [disruptions.remember(work, situation.rounds_of(name)) for name, work in situation.workers.items()]
    return joined([*plans, disruptions.remember(situation.aggregator, situation.figures.committed_rounds)])


def aggregator(situation: Situation) -> Plan:
    """The aggregator's Job, once there is somebody to aggregate for, and no queue holds what a quorum needs: a job in
    a queue must not use up its first round's deadline."""
    observed, body, work = situation.observed, situation.children.aggregator, situation.aggregator
    if work is None:
        remote = any(p.worker is None for p in situation.job.spec.participants)
        begins = remote or (situation.somebody_runs and queues.quorum_admitted(situation))
        return place(observed, None, body) if begins else NOTHING
    if work.deleting:
        return NOTHING
    if work.failed is not None:
        return _delete(work)
    if not work.complete:
        return place(observed, work, body)
    # It ended well although the job goes on: it was suspended, or its termination message is lost.
    if situation.reported is not None and statuses.holding(situation.reported) is not None:
        return _delete(work)
    wait = (work.ended_at or 0.0) + ASK_AGAIN_SECONDS - situation.observed.now
    if wait <= 0:
        return _delete(work)
    return joined([Plan(again_in_seconds=wait), place(observed, work, body)])


def leave_at_boundary(situation: Situation) -> Plan:
    """What is done with the aggregator of a job that is to be suspended, until its round is committed."""
    work = situation.aggregator
    if work is None or not work.ended:
        return place(situation.observed, work, situation.children.aggregator)
    return NOTHING if work.deleting else _delete(work)


def _delete(work: ObservedJob) -> Plan:
    return Plan(delete=(Delete(kind=JOB, name=work.name, uid=work.uid),))


def _as_applied(known: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Whether an object is as we applied it: by its hash, its owner, and what others might have changed of it."""
    metadata = known["metadata"]
    if owner_uid(known) != owner_uid(body):
        return False
    for field in ("labels", "annotations"):
        have = metadata.get(field) or {}
        if any(have.get(key) != value for key, value in body["metadata"][field].items()):
            return False
    if body["kind"] == CLAIM:  # the API server makes its specification immutable
        return True
    if body["kind"] in (CONFIG_MAP, SECRET):
        # Keys that others added stay theirs through every apply: with them, it would never be as applied.
        data = known.get("data") or {}
        return all(data.get(key) == value for key, value in body["data"].items())
    if body["kind"] == NETWORK_POLICY:
        return bool(_stated(known.get("spec") or {}) == _stated(body["spec"]))
    return bool((known.get("spec") or {}).get("selector") == body["spec"]["selector"])


def _stated(value: Any) -> Any:
    """``value`` without the empty lists in it, which the API server leaves out."""
    if isinstance(value, Mapping):
        return {key: _stated(entry) for key, entry in value.items() if entry != []}
    return [_stated(entry) for entry in value] if isinstance(value, list | tuple) else value

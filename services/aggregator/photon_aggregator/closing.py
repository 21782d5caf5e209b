"""Which updates a round takes, written before they are merged: from then on no clock and no crash changes it.

With a quorum below the cohort it is a matter of seconds who is still in time. A merge takes longer than that, and an
aggregator that dies in it must not come to another model the second time.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

from photon.protocol.records import Closing, UpdateManifest
from photon.store import keys
from photon_aggregator import bucket
from photon_aggregator.admission import Refusal, admit
from photon_aggregator.bucket import RecordError
from photon_aggregator.context import JobContext
from photon_aggregator.events import Admission, Check, Merge
from photon_aggregator.parts import Grants


def decide(merge: Merge, *, context: JobContext, grants: Grants, pool: Executor) -> Merge:
    """Write down what ``merge`` takes, or take what was written before: the merge that the round gets.

    Blocking; safe to repeat. ``pool`` must not be the one that runs this function.

    Raises:
        RecordError: What was decided before belongs to another plan, or names an update that is no longer good.
        StoreError: The store does not answer.
    """
    store, plan = context.store, merge.plan
    known = {admission.digest: admission for admission in merge.admissions}
    ours = Closing(
        job=plan.job,
        round=plan.round,
        plan=merge.plan_digest,
        updates={admission.participant: admission.digest for admission in merge.admissions},
    )
    key = keys.closing(plan.round)
    decided, _, _ = bucket.create(store, key, ours)
    if decided.job != plan.job or decided.plan != merge.plan_digest:
        raise RecordError(f"{store.uri(key)} belongs to another plan")
    if decided.updates == ours.updates:
        return merge

    def admitted(participant: str, digest: str) -> Admission:
        if digest in known:
            return known[digest]
        where = keys.manifest(plan.round, participant)
        manifest, found, _ = bucket.read(store, where, UpdateManifest)
        if found != digest:
            raise RecordError(f"{store.uri(where)} is not the one that {key} names")
        check = Check(
            plan=plan, plan_digest=merge.plan_digest, participant=participant, manifest=manifest, digest=digest
        )
        result = admit(check, context=context, grants=grants, pool=pool)
        if isinstance(result, Refusal):
            raise RecordError(
                f"{store.uri(key)} names the update of {participant}, which is no longer good: {result.message}"
            )
        return result

    return replace(merge, admissions=tuple(admitted(name, decided.updates[name]) for name in sorted(decided.updates)))

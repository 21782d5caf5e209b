"""Which updates a round takes, written before they are merged: from then on no clock and no crash changes it.

With a quorum below the cohort it is a matter of seconds who is still in time. A merge takes longer than that, and an
aggregator that dies in it must not come to another model the second time.

What was decided may still turn out to be unusable: parts that were lost, bytes that changed, an update that an earlier
release let in. Then the next closing of the chain drops it, and the round goes on with the others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from photon.protocol.messages import RefusalReason
from photon.protocol.records import Closing, UpdateManifest
from photon.store import keys
from photon.store.errors import NotFound
from photon_aggregator.actions import closings
from photon_aggregator.actions.admit import Refusal, admit
from photon_aggregator.actions.closings import Link
from photon_aggregator.actions.workbench import Workbench
from photon_aggregator.bucket import records
from photon_aggregator.bucket.records import RecordError
from photon_aggregator.rounds.events import Admission, CheckUpdate, Merge

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """``merge`` with exactly the updates that the round takes, all of them admitted; ``link`` is what says so."""

    merge: Merge
    link: Link

    @property
    def quorum(self) -> int:
        return self.link.quorum(self.merge.quorum)

    @property
    def has_quorum(self) -> bool:
        return len(self.merge.admissions) >= self.quorum


def decide(merge: Merge, bench: Workbench, *, unusable: dict[str, str] | None = None) -> Decided:
    """Write down what ``merge`` takes, or take what was written before, without what cannot be merged.

    ``unusable``: participants whose update the merge could not use, and why. Blocking; safe to repeat.

    Raises:
        RecordError: What was decided before belongs to another plan, or the round was committed meanwhile.
        StoreError: The store does not answer.
    """
    store, plan = bench.store, merge.plan
    ours = Closing(
        job=plan.job,
        round=plan.round,
        plan=merge.plan_digest,
        updates={admission.participant: admission.digest for admission in merge.admissions},
        clip_to_median=bench.opened.clip_to_median,
    )
    link = closings.first(store, plan, merge.plan_digest, ours)
    known = {admission.digest: admission for admission in merge.admissions}
    while True:
        dropped: dict[str, str] = {}
        admissions: list[Admission] = []
        for name, digest in sorted(link.closing.updates.items()):
            if unusable is not None and name in unusable:
                dropped[name] = unusable[name]
                continue
            found = known.get(digest) or _admitted(merge, name, digest, bench)
            if isinstance(found, Refusal):
                logger.warning("round %d: the update of %s is dropped: %s", plan.round, name, found.message)
                dropped[name] = found.reason.value
                continue
            known[digest] = found
            admissions.append(found)
        if not dropped:
            return Decided(merge=replace(merge, admissions=tuple(admissions)), link=link)
        if store.head(keys.commit(plan.round)) is not None:
            # Another aggregator has gone on, and what is missing here was tidied up behind it.
            raise RecordError(f"{store.uri(keys.commit(plan.round))} is there already")
        link = closings.drop(store, plan, merge.plan_digest, link, dropped)


def _admitted(merge: Merge, participant: str, digest: str, bench: Workbench) -> Admission | Refusal:
    """Check an update that is named by a closing and was not admitted by this process."""
    where = keys.manifest(merge.plan.round, participant)
    try:
        manifest, found, _ = records.read(bench.store, where, UpdateManifest)
    except (RecordError, NotFound) as error:
        return Refusal(reason=RefusalReason.INVALID_MANIFEST, message=str(error))
    if found != digest:
        message = f"{bench.store.uri(where)} is not the manifest that the closing names"
        return Refusal(reason=RefusalReason.INVALID_MANIFEST, message=message)
    check = CheckUpdate(
        plan=merge.plan, plan_digest=merge.plan_digest, participant=participant, manifest=manifest, digest=digest
    )
    return admit(check, bench)
